//! Parses bytes into replies (RFC 5321 §4.2), without a socket.
//!
//! Only the code of a reply matters; the rest is read as leniently as possible. Bytes that are not UTF-8 are replaced,
//! a bare LF ends a line, the text and the separator before it may be missing, and long lines and replies are
//! truncated. A reply is an error only if it has no code, no end, codes of different classes, or more than
//! [`REPLY_LIMIT`] bytes. Nothing panics.

use crate::domain::outcome::Reply;

/// Maximum bytes stored of a line, without its ending. RFC 5321 §4.5.3.1.5 requires 512. Longer lines occur, such as
/// challenges of 12,288 bytes (RFC 4954 §4); they are truncated.
pub(in crate::smtp) const LINE_LIMIT: usize = 2_048;
/// Maximum lines stored of a reply.
const LINES_LIMIT: usize = 100;
/// Maximum bytes stored of a reply, all lines together.
const TEXT_LIMIT: usize = 64 * 1_024;
/// Maximum bytes read of a reply; a longer one is an error.
pub(in crate::smtp) const REPLY_LIMIT: usize = 256 * 1_024;

/// A reply as received, not yet interpreted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::smtp) struct RawReply {
    /// The code of the last line, 200–599.
    pub code: u16,
    /// The code of the first line, which should be the same.
    pub first_code: u16,
    /// The texts of all lines, joined by `\n`.
    pub text: String,
}

impl RawReply {
    /// Returns the texts of the lines, at least one.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }

    /// Returns whether the reply is 2yz: the command succeeded.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// Returns whether the reply is 3yz: more input is expected.
    pub fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// Returns whether the reply is 421: the server closes the connection (RFC 5321 §3.8).
    pub fn closes(&self) -> bool {
        self.code == 421
    }

    /// Returns an error if the lines have codes of different classes. Two replies may have been merged, and every later
    /// reply would then be attributed to the wrong command.
    pub fn unambiguous(self) -> Result<Self, ReplyError> {
        if self.first_code / 100 == self.code / 100 {
            return Ok(self);
        }
        let last = self.lines().last().unwrap_or_default();
        Err(ReplyError::CodeChanged(self.first_code, self.code, excerpt(last.as_bytes())))
    }

    /// Converts the reply to the form that is stored.
    pub fn to_reply(&self) -> Reply {
        Reply::from_lines(self.code, self.lines())
    }
}

/// Why the bytes are not a valid reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::smtp) enum ReplyError {
    /// The reply is longer than the limit.
    #[error("the reply is longer than {REPLY_LIMIT} bytes")]
    TooLong,
    /// A line does not start with a code.
    #[error("not a reply: {0:?}")]
    NoCode(String),
    /// The lines of one reply have codes of different classes.
    #[error("the lines of the reply have different codes, {0} and {1}: {2:?}")]
    CodeChanged(u16, u16, String),
}

/// Assembles one reply from the bytes as they arrive.
#[derive(Debug, Default)]
pub(in crate::smtp) struct ReplyReader {
    /// The codes of the first and the last line so far.
    codes: Option<(u16, u16)>,
    text: String,
    lines: usize,
    bytes: usize,
    /// The beginning of a line that is too long, while its rest is skipped.
    long: Option<Vec<u8>>,
}

impl ReplyReader {
    /// Consumes lines of `input` until the reply is complete. Returns how many bytes were consumed; the caller passes
    /// the rest, at most [`LINE_LIMIT`], again with more bytes appended.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<RawReply>), ReplyError> {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            let Some(end) = memchr::memchr(b'\n', rest) else {
                if self.long.is_some() {
                    self.count(rest.len())?;
                } else if rest.len() > LINE_LIMIT {
                    let head = &rest[..LINE_LIMIT];
                    split(head)?;
                    self.long = Some(head.to_vec());
                    self.count(rest.len())?;
                } else {
                    return Ok((used, None));
                }
                return Ok((input.len(), None));
            };
            used += end + 1;
            let is_last = match self.long.take() {
                Some(head) => self.line(&head, end)?,
                None => self.line(&rest[..end.min(LINE_LIMIT)], end)?,
            };
            if is_last && let Some(reply) = self.finish() {
                return Ok((used, Some(reply)));
            }
        }
    }

    /// Returns the part of an unfinished reply that was received, if it has a code: every line of a reply has the same
    /// code (RFC 5321 §4.2.1). `rest` is the input that [`Self::feed`] has not consumed.
    pub fn so_far(mut self, rest: &[u8]) -> Option<RawReply> {
        let unfinished = self.long.take().unwrap_or_else(|| rest.to_vec());
        let unfinished = unfinished.split(|byte| *byte == b'\n').next().unwrap_or_default();
        // An invalid rest is ignored; the lines before it count.
        let _ = self.line(unfinished, unfinished.len());
        self.finish()
    }

    /// Adds one line without its LF. `length` is the number of its bytes that were not counted yet. Returns whether it
    /// was the last line.
    fn line(&mut self, line: &[u8], length: usize) -> Result<bool, ReplyError> {
        let (code, last, text) = split(line.strip_suffix(b"\r").unwrap_or(line))?;
        self.count(length)?;
        self.lines += 1;
        let first = self.codes.map_or(code, |(first, _)| first);
        self.codes = Some((first, code));
        if self.lines <= LINES_LIMIT && self.text.len() < TEXT_LIMIT {
            if self.lines > 1 {
                self.text.push('\n');
            }
            self.text.push_str(&String::from_utf8_lossy(text));
        }
        Ok(last)
    }

    fn count(&mut self, bytes: usize) -> Result<(), ReplyError> {
        self.bytes += bytes;
        if self.bytes > REPLY_LIMIT { Err(ReplyError::TooLong) } else { Ok(()) }
    }

    fn finish(&mut self) -> Option<RawReply> {
        let (first_code, code) = self.codes?;
        Some(RawReply { code, first_code, text: std::mem::take(&mut self.text) })
    }
}

/// Splits a line. Returns its code, whether it is the last line of the reply, and its text.
fn split(line: &[u8]) -> Result<(u16, bool, &[u8]), ReplyError> {
    read(line).ok_or_else(|| ReplyError::NoCode(excerpt(line)))
}

fn read(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    if !(200..600).contains(&code) {
        return None;
    }
    match rest.split_first() {
        Some((b'-', text)) => Some((code, false, text)),
        Some((b' ' | b'\t', text)) => Some((code, true, text)),
        // Four digits are not a reply code.
        Some((b'0'..=b'9', _)) => None,
        None | Some(_) => Some((code, true, rest)),
    }
}

fn excerpt(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::corrupt_replies;
    use super::*;

    fn take(bytes: &[u8]) -> Result<Option<RawReply>, ReplyError> {
        ReplyReader::default().feed(bytes).map(|(_, reply)| reply)
    }

    fn reply(code: u16, text: &str) -> RawReply {
        RawReply { code, first_code: code, text: text.into() }
    }

    #[test]
    fn a_reply_may_have_many_lines() {
        assert_eq!(take(b"250-mx.test\r\n250-SIZE\r\n250 HELP\r\n"), Ok(Some(reply(250, "mx.test\nSIZE\nHELP"))));
    }

    #[test]
    fn unusual_but_clear_replies_are_parsed() {
        assert_eq!(take(b"250\r\n"), Ok(Some(reply(250, ""))));
        assert_eq!(take(b"250 ok\n"), Ok(Some(reply(250, "ok"))), "bare LF");
        assert_eq!(take(b"250-\r\n250\r\n"), Ok(Some(reply(250, "\n"))));
        assert_eq!(take(b"550 caf\xe9\r\n"), Ok(Some(reply(550, "caf\u{fffd}"))));
    }

    #[test]
    fn a_reply_waits_for_its_last_line() {
        let mut reader = ReplyReader::default();
        assert_eq!(reader.feed(b"250-one\r\n250 t"), Ok((9, None)));
        assert_eq!(reader.feed(b"250 two\r\n220 next"), Ok((9, Some(reply(250, "one\ntwo")))));
    }

    #[test]
    fn input_without_a_valid_code_is_an_error() {
        for bytes in ["\r\n", "25\r\n", "ok\r\n", "2500 ok\r\n", "100 go\r\n", "600 ?\r\n", "-50 ?\r\n", " 250 ok\r\n"]
        {
            assert!(matches!(take(bytes.as_bytes()), Err(ReplyError::NoCode(_))), "{bytes:?}");
        }
    }

    #[test]
    fn the_code_decides_whatever_text_follows() {
        assert_eq!(take(b"250ok queued\r\n"), Ok(Some(reply(250, "ok queued"))));
        assert_eq!(take(b"250\tok\r\n"), Ok(Some(reply(250, "ok"))));
        assert_eq!(take(b"550: no\r\n"), Ok(Some(reply(550, ": no"))));
        let changed = RawReply { code: 251, first_code: 250, text: "a\nb".into() };
        assert_eq!(take(b"250-a\r\n251 b\r\n"), Ok(Some(changed.clone())));
        assert_eq!(changed.clone().unambiguous(), Ok(changed));
        let merged = take(b"250-a\r\n550 b\r\n").unwrap().unwrap();
        assert_eq!((merged.code, merged.unambiguous()), (550, Err(ReplyError::CodeChanged(250, 550, "b".into()))));
    }

    #[test]
    fn a_long_reply_is_truncated() {
        let long = format!("250 {}\r\n", "x".repeat(20_000));
        assert_eq!(take(long.as_bytes()), Ok(Some(reply(250, &"x".repeat(LINE_LIMIT - 4)))));
        let many = "250-x\r\n".repeat(5_000) + "250 end\r\n";
        assert_eq!(take(many.as_bytes()).unwrap().unwrap().lines().count(), LINES_LIMIT);
    }

    #[test]
    fn a_reply_is_bounded() {
        assert_eq!(take(format!("250 {}", "x".repeat(REPLY_LIMIT)).as_bytes()), Err(ReplyError::TooLong));
        assert_eq!(take("250-x\r\n".repeat(REPLY_LIMIT / 6 + 1).as_bytes()), Err(ReplyError::TooLong));
        assert!(matches!(take(&vec![b'2'; LINE_LIMIT + 1]), Err(ReplyError::NoCode(_))));
    }

    #[test]
    fn a_reply_without_end_has_the_code_of_its_lines() {
        let so_far = |bytes: &[u8]| {
            let mut reader = ReplyReader::default();
            let (used, _) = reader.feed(bytes).unwrap();
            reader.so_far(&bytes[used..]).map(|reply| reply.code)
        };
        for bytes in [&b"250-one\r\n"[..], b"250-one\r\n25", b"250 o", b"250", b"250-o"] {
            assert_eq!(so_far(bytes), Some(250), "{bytes:?}");
        }
        for bytes in [&b""[..], b"2", b"25", b"hello"] {
            assert_eq!(so_far(bytes), None, "{bytes:?}");
        }
        assert_eq!(so_far(format!("451 {}", "x".repeat(5_000)).as_bytes()), Some(451));
    }

    /// Reads all replies of a stream that arrives in these pieces, and the error that ended it. Asserts that the unread
    /// rest stays within the limit.
    fn read_all(pieces: &[Vec<u8>]) -> (Vec<RawReply>, Option<ReplyError>) {
        let (mut reader, mut buffered, mut replies) = (ReplyReader::default(), Vec::new(), Vec::new());
        for piece in pieces {
            buffered.extend_from_slice(piece);
            loop {
                match reader.feed(&buffered) {
                    Err(error) => return (replies, Some(error)),
                    Ok((used, reply)) => {
                        buffered.drain(..used);
                        let Some(reply) = reply else { break };
                        replies.push(reply);
                        reader = ReplyReader::default();
                    }
                }
            }
            assert!(buffered.len() <= LINE_LIMIT);
        }
        (replies, None)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn corrupt_replies_are_read_within_bounds(pieces in corrupt_replies::pieces()) {
            let read = read_all(&pieces);
            for reply in &read.0 {
                prop_assert!((200..600).contains(&reply.code));
                prop_assert!(reply.lines().count() <= LINES_LIMIT);
                // A byte that is not UTF-8 becomes three.
                prop_assert!(reply.text.len() <= (TEXT_LIMIT + LINE_LIMIT) * 3 + LINES_LIMIT);
                prop_assert!(reply.to_reply().text.len() <= Reply::TEXT_LIMIT);
            }
            prop_assert_eq!(read, read_all(&[pieces.concat()]));
        }

        #[test]
        fn chunk_boundaries_do_not_matter(
            lines in prop::collection::vec("[ -~]{0,20}", 1..6),
            size in 1_usize..40,
        ) {
            let last = lines.len() - 1;
            let bytes: Vec<u8> = lines
                .iter()
                .enumerate()
                .flat_map(|(n, text)| format!("451{}{text}\r\n", if n == last { ' ' } else { '-' }).into_bytes())
                .collect();
            let (mut reader, mut buffered, mut got) = (ReplyReader::default(), Vec::new(), None);
            for piece in bytes.chunks(size) {
                buffered.extend_from_slice(piece);
                let (used, reply) = reader.feed(&buffered).unwrap();
                buffered.drain(..used);
                got = got.or(reply);
            }
            prop_assert_eq!(got, Some(reply(451, &lines.join("\n"))));
        }
    }
}
