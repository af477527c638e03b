//! Octets → reply (RFC 5321 §4.2), without a socket.
//!
//! Promises to survive whatever comes: octets that are not UTF-8 are replaced, a bare LF ends a line, the text may be
//! missing; lines, replies and their number are bounded; what is not a reply is an error and never a panic.

use crate::domain::outcome::Reply;

/// The longest line that is read, in octets without its ending. RFC 5321 §4.5.3.1.5 asks for 512.
pub(super) const LINE_LIMIT: usize = 2_048;
/// The most lines of one reply.
const LINES_LIMIT: usize = 100;
/// The longest reply in octets, all lines together.
const REPLY_LIMIT: usize = 64 * 1_024;

/// A reply as it came, not yet judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawReply {
    /// 200–599.
    pub code: u16,
    /// The texts of all lines, joined by `\n`.
    pub text: String,
}

impl RawReply {
    /// The texts of the lines, at least one.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }

    /// 2yz: done.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 3yz: go on.
    pub fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// 421: the server closes the connection (RFC 5321 §3.8).
    pub fn closes(&self) -> bool {
        self.code == 421
    }

    /// The reply as the rest of the program keeps it.
    pub fn to_reply(&self) -> Reply {
        Reply::from_lines(self.code, self.lines())
    }
}

/// Why the octets are not a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReplyError {
    /// No line ending within the limit.
    #[error("a line of the reply is longer than {LINE_LIMIT} octets")]
    LineTooLong,
    /// More lines than the limit.
    #[error("the reply has more than {LINES_LIMIT} lines")]
    TooManyLines,
    /// More octets than the limit.
    #[error("the reply is longer than {REPLY_LIMIT} octets")]
    TooLong,
    /// A line that does not start with a code and a separator.
    #[error("not a reply: {0:?}")]
    NoCode(String),
    /// The lines of one reply disagree.
    #[error("the lines of the reply have different codes, {0} and {1}")]
    CodeChanged(u16, u16),
}

/// Puts one reply together from the octets as they arrive.
#[derive(Debug, Default)]
pub(super) struct ReplyReader {
    code: Option<u16>,
    text: String,
    lines: usize,
    octets: usize,
}

impl ReplyReader {
    /// Takes whole lines from `input` until the reply is complete. Answers how many octets were used up; the rest is to
    /// be offered again, with more behind it.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<RawReply>), ReplyError> {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            let end = memchr::memchr(b'\n', rest);
            if end.unwrap_or(rest.len()) > LINE_LIMIT {
                return Err(ReplyError::LineTooLong);
            }
            let Some(end) = end else { return Ok((used, None)) };
            used += end + 1;
            if self.line(&rest[..end])? {
                let reply = RawReply { code: self.code.unwrap_or_default(), text: std::mem::take(&mut self.text) };
                return Ok((used, Some(reply)));
            }
        }
    }

    /// Takes one line without its LF; answers whether it was the last.
    fn line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.lines += 1;
        self.octets += line.len();
        if self.lines > LINES_LIMIT {
            return Err(ReplyError::TooManyLines);
        }
        if self.octets > REPLY_LIMIT {
            return Err(ReplyError::TooLong);
        }
        let (code, last, text) = split(line).ok_or_else(|| ReplyError::NoCode(excerpt(line)))?;
        match self.code {
            Some(first) if first != code => return Err(ReplyError::CodeChanged(first, code)),
            Some(_) => self.text.push('\n'),
            None => self.code = Some(code),
        }
        self.text.push_str(&String::from_utf8_lossy(text));
        Ok(last)
    }
}

/// Code, whether it is the last line, and text.
fn split(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    if !(200..600).contains(&code) {
        return None;
    }
    match rest.split_first() {
        None => Some((code, true, rest)),
        Some((b'-', text)) => Some((code, false, text)),
        Some((b' ' | b'\t', text)) => Some((code, true, text)),
        Some(_) => None,
    }
}

fn excerpt(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::smtp::mangled;

    fn read(octets: &[u8]) -> Result<Option<RawReply>, ReplyError> {
        ReplyReader::default().feed(octets).map(|(_, reply)| reply)
    }

    fn reply(code: u16, text: &str) -> RawReply {
        RawReply { code, text: text.into() }
    }

    #[test]
    fn a_reply_may_have_many_lines() {
        assert_eq!(read(b"250-mx.test\r\n250-SIZE\r\n250 HELP\r\n"), Ok(Some(reply(250, "mx.test\nSIZE\nHELP"))));
    }

    #[test]
    fn odd_but_clear_replies_are_read() {
        assert_eq!(read(b"250\r\n"), Ok(Some(reply(250, ""))));
        assert_eq!(read(b"250 ok\n"), Ok(Some(reply(250, "ok"))), "bare LF");
        assert_eq!(read(b"250-\r\n250\r\n"), Ok(Some(reply(250, "\n"))));
        assert_eq!(read(b"550 caf\xe9\r\n"), Ok(Some(reply(550, "caf\u{fffd}"))));
    }

    #[test]
    fn a_reply_waits_for_its_last_line() {
        let mut reader = ReplyReader::default();
        assert_eq!(reader.feed(b"250-one\r\n250 t"), Ok((9, None)));
        assert_eq!(reader.feed(b"250 two\r\n220 next"), Ok((9, Some(reply(250, "one\ntwo")))));
    }

    #[test]
    fn what_is_not_a_reply_is_an_error() {
        for octets in ["\r\n", "25\r\n", "ok\r\n", "250ok\r\n", "100 go\r\n", "600 ?\r\n", "-50 ?\r\n"] {
            assert!(matches!(read(octets.as_bytes()), Err(ReplyError::NoCode(_))), "{octets:?}");
        }
        assert_eq!(read(b"250-a\r\n251 b\r\n"), Err(ReplyError::CodeChanged(250, 251)));
    }

    #[test]
    fn a_reply_is_bounded() {
        assert_eq!(read(&vec![b'2'; LINE_LIMIT + 1]), Err(ReplyError::LineTooLong));
        assert_eq!(read("250-x\r\n".repeat(LINES_LIMIT + 1).as_bytes()), Err(ReplyError::TooManyLines));
        let long = format!("250-{}\r\n", "x".repeat(2_000)).repeat(40);
        assert_eq!(read(long.as_bytes()), Err(ReplyError::TooLong));
    }

    /// All replies in a stream that arrives in these pieces, and what ended it. What waits for its line's end is held
    /// against the limit.
    fn read_all(pieces: &[Vec<u8>]) -> (Vec<RawReply>, Option<ReplyError>) {
        let (mut reader, mut held, mut replies) = (ReplyReader::default(), Vec::new(), Vec::new());
        for piece in pieces {
            held.extend_from_slice(piece);
            loop {
                match reader.feed(&held) {
                    Err(error) => return (replies, Some(error)),
                    Ok((used, reply)) => {
                        held.drain(..used);
                        let Some(reply) = reply else { break };
                        replies.push(reply);
                        reader = ReplyReader::default();
                    }
                }
            }
            assert!(held.len() <= LINE_LIMIT);
        }
        (replies, None)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn mangled_octets_are_survived_within_bounds_however_they_arrive(pieces in mangled::pieces()) {
            let read = read_all(&pieces);
            for reply in &read.0 {
                prop_assert!((200..600).contains(&reply.code));
                prop_assert!(reply.lines().count() <= LINES_LIMIT);
                // An octet that is no UTF-8 becomes three.
                prop_assert!(reply.text.len() <= REPLY_LIMIT * 3 + LINES_LIMIT);
                prop_assert!(reply.to_reply().text.len() <= Reply::TEXT_LIMIT);
            }
            prop_assert_eq!(read, read_all(&[pieces.concat()]));
        }

        #[test]
        fn how_the_octets_are_cut_makes_no_difference(
            lines in prop::collection::vec("[ -~]{0,20}", 1..6),
            size in 1_usize..40,
        ) {
            let last = lines.len() - 1;
            let octets: Vec<u8> = lines
                .iter()
                .enumerate()
                .flat_map(|(n, text)| format!("451{}{text}\r\n", if n == last { ' ' } else { '-' }).into_bytes())
                .collect();
            let (mut reader, mut held, mut got) = (ReplyReader::default(), Vec::new(), None);
            for piece in octets.chunks(size) {
                held.extend_from_slice(piece);
                let (used, reply) = reader.feed(&held).unwrap();
                held.drain(..used);
                got = got.or(reply);
            }
            prop_assert_eq!(got, Some(RawReply { code: 451, text: lines.join("\n") }));
        }
    }
}
