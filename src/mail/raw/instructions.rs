//! Header fields that instruct Postrider and are not part of the message, in messages that are received over SMTP.

use std::ops::Range;

use super::{FieldRange, RawMessage, fields};
use crate::domain::api::fault::Faults;

/// A message without its instructions.
#[derive(Debug)]
pub struct Instructed {
    /// The message; otherwise unchanged.
    pub message: Vec<u8>,
    /// The instructions: the name as it was asked for, and the value on one line; in the order of the message.
    pub fields: Vec<(&'static str, String)>,
    /// The number of `Received` fields: how many servers the message has passed.
    pub hops: usize,
}

/// Removes the fields with these names from the header of a message with CRLF line ends. Of a message whose header is too
/// long to be examined, nothing is removed: reading it fails.
pub fn take(message: Vec<u8>, names: &[&'static str]) -> Instructed {
    let Some((all, header_end)) = fields::read(&message, &mut Faults::default()) else {
        return Instructed { message, fields: Vec::new(), hops: 0 };
    };
    let raw = RawMessage { bytes: message, fields: all, header_end, needs_smtputf8: false };
    let known = |name: &str| names.iter().find(|known| known.eq_ignore_ascii_case(name)).copied();
    let taken = raw.fields().filter_map(|field| Some((known(field.name)?, field.value))).collect::<Vec<_>>();
    let hops = raw.fields.iter().filter(|field| raw.name(field).eq_ignore_ascii_case("Received")).count();
    let removed = raw.fields.iter().filter(|field| known(raw.name(field)).is_some());
    let removed = removed.map(|field| field.name.start..field.end).collect::<Vec<_>>();
    Instructed { message: without(raw.bytes, &removed), fields: taken, hops }
}

/// Removes ranges, which are in order. Everything else stays, in particular lines of the header that are no fields: such a message
/// is refused later.
fn without(mut message: Vec<u8>, removed: &[Range<usize>]) -> Vec<u8> {
    let Some(end) = removed.last().map(|range| range.end) else { return message };
    let (mut kept, mut at) = (Vec::with_capacity(end), 0);
    for range in removed {
        kept.extend_from_slice(&message[at..range.start]);
        at = range.end;
    }
    message.splice(..end, kept);
    message
}

/// Passes the parts of a message to `compare` that are the same if an application builds the same message again: not the
/// values that mail libraries invent for each, `Date`, `Message-ID` and the boundaries of multiparts.
pub fn comparable(message: &[u8], mut compare: impl FnMut(&[u8])) {
    const INVENTED: [&str; 3] = ["Date", "Message-ID", "Received"];
    let (all, header_end) = fields::read(message, &mut Faults::default()).unwrap_or_default();
    let name = |field: &FieldRange| std::str::from_utf8(&message[field.name.clone()]).unwrap_or_default();
    let boundaries = boundaries(message);
    let mut compare_lines = |text: &[u8]| {
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            compare_line(line, &boundaries, &mut compare);
        }
    };
    for field in &all {
        if !INVENTED.iter().any(|invented| invented.eq_ignore_ascii_case(name(field))) {
            compare_lines(&message[field.name.start..field.end]);
        }
    }
    compare_lines(&message[header_end..]);
}

/// Maximum number of boundaries that are recognised in one message.
const MAX_BOUNDARIES: usize = 64;

/// Returns the boundaries that the message declares and uses, with their numbers in the order of the message.
fn boundaries(message: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found: Vec<(u8, &[u8])> = Vec::new();
    for at in memchr::memmem::find_iter(message, DECLARATION).take(MAX_BOUNDARIES) {
        let declared = value(&message[at + DECLARATION.len()..]);
        let is_used = || memchr::memmem::find(message, &[b"\r\n--", declared].concat()).is_some();
        let is_new = || !found.iter().any(|(_, known)| *known == declared);
        if (1..=70).contains(&declared.len()) && is_new() && is_used() {
            // At most `MAX_BOUNDARIES`.
            found.push((u8::try_from(found.len()).unwrap_or(u8::MAX), declared));
        }
    }
    // A boundary may be the beginning of another one.
    found.sort_by_key(|(_, boundary)| std::cmp::Reverse(boundary.len()));
    found
}

/// What the declaration of a boundary begins with.
const DECLARATION: &[u8] = b"boundary=";

/// Returns the value of a parameter, without its quotes.
fn value(text: &[u8]) -> &[u8] {
    let (text, is_end): (&[u8], fn(u8) -> bool) = match text.strip_prefix(b"\"") {
        Some(quoted) => (quoted, |byte| byte == b'"'),
        None => (text, |byte| byte == b';' || byte.is_ascii_whitespace()),
    };
    let end = text.iter().position(|byte| is_end(*byte)).unwrap_or(text.len());
    &text[..end]
}

/// Passes a line to `compare`, with the number of a boundary in the place of the boundary.
fn compare_line(line: &[u8], boundaries: &[(u8, &[u8])], compare: &mut impl FnMut(&[u8])) {
    let declared = || memchr::memmem::find(line, DECLARATION).map(|at| at + DECLARATION.len());
    let start = if line.starts_with(b"--") { Some(2) } else { declared() };
    let Some((before, rest)) = start.and_then(|start| line.split_at_checked(start)) else { return compare(line) };
    let (quote, rest) = rest.split_at(usize::from(rest.starts_with(b"\"")));
    match boundaries.iter().find(|(_, boundary)| rest.starts_with(boundary)) {
        Some((number, boundary)) => {
            compare(before);
            compare(quote);
            compare(&[*number]);
            compare(&rest[boundary.len()..]);
        }
        None => compare(line),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: &[&str] = &["Idempotency-Key", "X-Postrider-Tag"];

    fn compared(message: &str) -> Vec<u8> {
        let mut all = Vec::new();
        comparable(message.as_bytes(), |part| all.extend_from_slice(part));
        all
    }

    #[test]
    fn instructions_are_taken_and_the_rest_stays() {
        let message = "Received: by a\r\nx-postrider-tag: a=1\r\nFrom: a@b.test\r\nX-Postrider-Tag: b=\r\n 2\r\n\
                       RECEIVED: by b\r\nIdempotency-Key: k\r\n\r\nX-Postrider-Tag: c\r\n";
        let found = take(message.as_bytes().to_vec(), NAMES);
        let expected = [("X-Postrider-Tag", "a=1"), ("X-Postrider-Tag", "b= 2"), ("Idempotency-Key", "k")];
        assert_eq!(found.fields, expected.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(found.hops, 2);
        let rest = "Received: by a\r\nFrom: a@b.test\r\nRECEIVED: by b\r\n\r\nX-Postrider-Tag: c\r\n";
        assert_eq!(String::from_utf8(found.message).unwrap(), rest);
        let malformed = take(b"X-Postrider-Tag: a=1\r\nno field\r\nFrom: a@b.test\r\n\r\n".to_vec(), NAMES);
        assert_eq!(malformed.message, b"no field\r\nFrom: a@b.test\r\n\r\n", "no line is lost");
        let plain = take(b"no header".to_vec(), NAMES);
        assert_eq!((plain.message, plain.hops), (b"no header".to_vec(), 0));
    }

    #[test]
    fn invented_values_are_not_compared() {
        let message = |date: &str, boundary: &str, text: &str| {
            format!(
                "From: a@b.test\r\nDate: {date}\r\nMessage-ID:\r\n <{date}>\r\nContent-Type: multipart/mixed;\r\n \
                 boundary=\"{boundary}\"\r\n\r\n--{boundary}\r\nContent-Type: multipart/alternative; \
                 boundary={boundary}1\r\n\r\n--{boundary}1\r\n\r\n{text}\r\n--{boundary}1--\r\n--{boundary}--\r\n"
            )
        };
        let first = compared(&message("one", "=_abc", "Hello"));
        assert_eq!(first, compared(&message("two", "===123==", "Hello")));
        assert_ne!(first, compared(&message("one", "=_abc", "Hallo")));
        assert_ne!(first, compared(&message("one", "=_abc", "boundary=Hello")));
        assert_ne!(compared("A: b\r\n\r\nboundary=x\r\n"), compared("A: b\r\n\r\nboundary=y\r\n"), "it is not used");
        assert_ne!(compared("A: b\r\n\r\nx"), compared("A: c\r\n\r\nx"));
        let moved = message("one", "=_abc", "Hello").replace("--=_abc1--\r\n--=_abc--", "--=_abc--\r\n--=_abc1--");
        assert_ne!(first, compared(&moved), "each boundary has its own number");
    }

    proptest! {
        #[test]
        fn any_message_is_split_without_loss(text in "(X-Postrider-Tag|From|Received)?[:a\r\n \"=-]{0,60}(boundary=)?[a\r\n-]{0,20}") {
            let bytes = text.into_bytes();
            let found = take(bytes.clone(), NAMES);
            prop_assert!(found.message.len() <= bytes.len());
            prop_assert_eq!(found.fields.is_empty(), found.message.len() == bytes.len());
            let again = take(found.message.clone(), NAMES);
            prop_assert_eq!(again.fields.len(), 0);
            let mut size = 0;
            comparable(&bytes, |part| size += part.len());
            prop_assert!(size <= bytes.len());
        }
    }
}
