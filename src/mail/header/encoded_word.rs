//! Encoded-words, `=?utf-8?q?…?=` (RFC 2047), for header text that is not plain ASCII.
//!
//! lettre's implementation is not used: it does not encode text that looks like an encoded-word, which readers would
//! then decode, and it supports only base64, which spam filters count against mostly-ASCII subjects.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Maximum length of an encoded-word in bytes (RFC 2047 §2).
const LONGEST: usize = 75;
/// `=?utf-8?q?` and `?=`.
const FRAME: usize = 12;

/// Length of an encoded-word that can hold any one character: at most four bytes, each as `=XX`.
pub(in crate::mail) const SHORTEST: usize = FRAME + 12;

/// Encoding of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mail) enum Scheme {
    /// Letters and digits unencoded, the rest as `=XX`.
    Q,
    /// Base64.
    B,
}

impl Scheme {
    /// Chooses the scheme for `text`: Q if most of the text stays readable, that is if at most half of it is escaped.
    pub(in crate::mail) fn choose(text: &str) -> Self {
        let q: usize = text.chars().map(q_width).sum();
        if q <= text.len() * 2 { Self::Q } else { Self::B }
    }

    /// Writes the longest beginning of `text` that fits into `limit` bytes as one encoded-word, and returns the rest of
    /// `text`. Never splits a character (RFC 2047 §5), and always writes at least one, even if it does not fit.
    pub(in crate::mail) fn write_one<'t>(self, out: &mut Vec<u8>, text: &'t str, limit: usize) -> &'t str {
        let limit = limit.min(LONGEST).saturating_sub(FRAME);
        let (word, rest) = text.split_at(self.fitting(text, limit));
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

    /// Returns how many bytes of `text` fit into `limit` bytes once encoded.
    fn fitting(self, text: &str, limit: usize) -> usize {
        let (mut width, mut end) = (0, 0);
        for char in text.chars() {
            let next = end + char.len_utf8();
            width = match self {
                Self::Q => width + q_width(char),
                Self::B => next.div_ceil(3) * 4,
            };
            if width > limit && end > 0 {
                break;
            }
            end = next;
        }
        end
    }
}

/// Returns `text` as encoded-words of at most `limit` bytes each.
pub(in crate::mail) fn words(text: &str, limit: usize) -> Vec<String> {
    let scheme = Scheme::choose(text);
    let (mut rest, mut words) = (text, Vec::new());
    while !rest.is_empty() {
        let mut word = Vec::new();
        rest = scheme.write_one(&mut word, rest, limit);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    words
}

/// Returns whether a reader may treat part of `text` as an encoded-word: `=?…?q?` or `=?…?b?`. Many readers recognize
/// encoded-words anywhere, not only between spaces as RFC 2047 requires.
pub(in crate::mail) fn looks_encoded(text: &str) -> bool {
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
        _ => crate::mail::encoding::quoted_printable::write_escape(out, byte),
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
            for limit in [SHORTEST, 40, 75, 400] {
                let words = words(&text, limit);
                assert!(words.iter().all(|word| word.len() <= limit.min(LONGEST)), "{words:?}");
            }
        }
    }

    #[test]
    fn text_that_looks_encoded_is_recognized() {
        assert!(looks_encoded("=?utf-8?q?x?="));
        assert!(looks_encoded("see =?x?B?"));
        assert!(looks_encoded("=?q?"));
        assert!(!looks_encoded("https://example.test/?a=?&b=1?c"));
        assert!(!looks_encoded("a?q?b"));
    }
}
