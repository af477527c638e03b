//! Encoded-words, `=?utf-8?q?…?=` (RFC 2047), for header text that is not plain ASCII.
//!
//! Not lettre's implementation, because lettre leaves text that looks like an encoded-word unencoded, which readers
//! then decode, and supports base64 only, which spam filters count against mostly-ASCII subjects.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Maximum length of an encoded-word in bytes (RFC 2047 §2).
const LONGEST: usize = 75;
/// `=?utf-8?q?` and `?=`.
const FRAME: usize = 12;

/// Minimum space in which every character can be encoded: one of four bytes, each as `=XX`.
pub(super) const SHORTEST: usize = FRAME + 12;

/// Encoding of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// Letters and digits unencoded, the rest as `=XX`.
    Q,
    /// Base64.
    B,
}

impl Scheme {
    /// Chooses the scheme for `text`: Q if a person can still read most of it, that is if at most half of it is
    /// escaped.
    pub(super) fn choose(text: &str) -> Self {
        let q: usize = text.chars().map(q_width).sum();
        if q <= text.len() * 2 { Self::Q } else { Self::B }
    }

    /// Writes the longest beginning of `text` that fits into `room` bytes as one encoded-word, and returns the rest of
    /// `text`. Never splits a character (RFC 2047 §5), and always writes at least one, even if it does not fit.
    pub(super) fn write_one<'t>(self, out: &mut Vec<u8>, text: &'t str, room: usize) -> &'t str {
        let room = room.min(LONGEST).saturating_sub(FRAME);
        let (word, rest) = text.split_at(self.fitting(text, room));
        match self {
            Self::Q => {
                out.extend_from_slice(b"=?utf-8?q?");
                word.bytes().for_each(|byte| write_q(out, byte));
            }
            Self::B => {
                out.extend_from_slice(b"=?utf-8?b?");
                out.extend_from_slice(STANDARD.encode(word).as_bytes());
            }
        }
        out.extend_from_slice(b"?=");
        rest
    }

    /// Returns how many bytes of `text` fit into `room` bytes once encoded.
    fn fitting(self, text: &str, room: usize) -> usize {
        let (mut width, mut end) = (0, 0);
        for char in text.chars() {
            let next = end + char.len_utf8();
            width = match self {
                Self::Q => width + q_width(char),
                Self::B => next.div_ceil(3) * 4,
            };
            if width > room && end > 0 {
                break;
            }
            end = next;
        }
        end
    }
}

/// Returns `text` as encoded-words of at most `room` bytes each.
pub(super) fn words(text: &str, room: usize) -> Vec<String> {
    let scheme = Scheme::choose(text);
    let (mut rest, mut words) = (text, Vec::new());
    while !rest.is_empty() {
        let mut word = Vec::new();
        rest = scheme.write_one(&mut word, rest, room);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    words
}

/// Returns whether a reader may take part of `text` for an encoded-word: `=?…?q?` or `=?…?b?`. Many readers recognize
/// them anywhere, not only between spaces as RFC 2047 requires.
pub(super) fn mimicked_by(text: &str) -> bool {
    let bytes = text.as_bytes();
    memchr::memmem::find(bytes, b"=?").is_some_and(|start| {
        bytes[start + 1..].windows(3).any(|three| matches!(three, [b'?', b'q' | b'Q' | b'b' | b'B', b'?']))
    })
}

/// Returns whether a byte may be unencoded wherever an encoded-word is allowed (RFC 2047 §5 (3)).
fn is_q_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'!' | b'*' | b'+' | b'-' | b'/')
}

fn q_width(char: char) -> usize {
    match u8::try_from(char) {
        Ok(byte) if byte == b' ' || is_q_literal(byte) => 1,
        _ => 3 * char.len_utf8(),
    }
}

fn write_q(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b' ' => out.push(b'_'),
        _ if is_q_literal(byte) => out.push(byte),
        _ => super::quoted_printable::write_escape(out, byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mostly_ascii_text_stays_readable() {
        assert_eq!(words("Bo Å", 75), ["=?utf-8?q?Bo_=C3=85?="]);
        assert_eq!(words("日本語", 75), ["=?utf-8?b?5pel5pys6Kqe?="]);
    }

    #[test]
    fn no_word_is_too_long_and_no_character_is_split() {
        for text in ["é".repeat(200), "aé".repeat(200), "😀".repeat(90), "x=".repeat(99)] {
            for room in [SHORTEST, 40, 75, 400] {
                let words = words(&text, room);
                assert!(words.iter().all(|word| word.len() <= room.min(LONGEST)), "{words:?}");
            }
        }
    }

    #[test]
    fn lookalikes_are_distinguished_from_urls() {
        assert!(mimicked_by("=?utf-8?q?x?="));
        assert!(mimicked_by("see =?x?B?"));
        assert!(mimicked_by("=?q?"));
        assert!(!mimicked_by("https://example.test/?a=?&b=1?c"));
        assert!(!mimicked_by("a?q?b"));
    }
}
