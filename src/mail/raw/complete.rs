//! Adds the header fields that a raw MIME message lacks, for an attempt.

use memchr::memmem;

use crate::domain::message::{Draft, ENVELOPE_SENDER, Header};
use crate::mail::build::SIGNATURE_CAPACITY;
use crate::mail::header::field::write_field;
use crate::mail::header::{self, structured};

/// Upper bound of the bytes of `Date` and `Message-ID`, without the sender's domain.
const DATE_AND_ID: usize = 128;

/// Returns `mime` with the fields that it lacks at the end of its header: `Date`, `Message-ID`, and those of the draft,
/// such as an unsubscribe link. `mime` must come from [`RawMessage::into_sendable`](super::RawMessage::into_sendable).
pub(in crate::mail) fn complete(draft: &Draft, mime: &[u8]) -> Vec<u8> {
    let header_end = memmem::find(mime, b"\r\n\r\n").map_or(mime.len(), |end| end + 2);
    let (head, body) = mime.split_at(header_end);
    let headers = &draft.content.headers;
    let added: usize = headers.iter().map(|header| header.name.len() + header.value.len() * 2 + 8).sum();
    let size = mime.len() + DATE_AND_ID + draft.from.address.domain().len() + added;
    let mut out = Vec::with_capacity(size + SIGNATURE_CAPACITY);
    out.extend_from_slice(head);
    if !has(head, "Date") {
        write_field(&mut out, "Date", &header::date(draft));
    }
    if !has(head, "Message-ID") {
        write_field(&mut out, "Message-ID", &header::message_id(draft));
    }
    for Header { name, value } in headers.iter().filter(|header| header.name != ENVELOPE_SENDER) {
        if !has(head, name) {
            structured::write(&mut out, name, value);
        }
    }
    out.extend_from_slice(body);
    out
}

/// Returns whether a header has a field with this name.
fn has(head: &[u8], name: &str) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n');
    lines.any(|line| {
        line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
            && line.get(name.len()) == Some(&b':')
    })
}
