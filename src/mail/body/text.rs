//! Text bodies: the transfer encoding that a text needs (RFC 2045 §6), and writing it.

use crate::mail::encoding::normalise::lines;
use crate::mail::encoding::{base64_lines, quoted_printable};

/// Maximum length in bytes of a line that is sent unencoded. The protocol allows 998; the difference leaves space for
/// characters that servers add.
const LONGEST_LINE: usize = 990;

/// Transfer encoding of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mail) enum Encoding {
    /// Unencoded.
    SevenBit,
    /// Mostly readable; lines of at most 76 characters.
    QuotedPrintable,
    /// Used if quoted-printable would be longer.
    Base64,
}

impl Encoding {
    /// Returns the value of `Content-Transfer-Encoding`.
    pub(in crate::mail) fn as_str(self) -> &'static str {
        match self {
            Self::SevenBit => "7bit",
            Self::QuotedPrintable => "quoted-printable",
            Self::Base64 => "base64",
        }
    }
}

/// A text body with its encoding.
#[derive(Debug)]
pub(in crate::mail) struct Text<'a> {
    source: &'a str,
    /// Transfer encoding.
    pub(in crate::mail) encoding: Encoding,
    /// `us-ascii` if that is sufficient: filters count an unnecessary charset against a message.
    pub(in crate::mail) charset: &'static str,
    /// Upper bound of the encoded bytes.
    pub(in crate::mail) size_limit: usize,
}

impl<'a> Text<'a> {
    /// Chooses the encoding. A text that contains `boundary` is not sent unencoded.
    pub(in crate::mail) fn new(text: &'a str, boundary: &str) -> Self {
        let (mut plain, mut count) = (true, 0);
        for line in lines(text).map(str::as_bytes) {
            count += 1;
            plain = plain && is_plain(line);
        }
        plain = plain && memchr::memmem::find(text.as_bytes(), boundary.as_bytes()).is_none();
        // Nothing is escaped in a text that is sent unencoded.
        let escapes = |line: &str| line.bytes().filter(|byte| !quoted_printable::is_literal(*byte)).count();
        let escapes: usize = if plain { 0 } else { lines(text).map(escapes).sum() };
        let normalised = text.len() + count;
        let quoted = text.len() + 2 * escapes;
        let encoding = if plain {
            Encoding::SevenBit
        } else if quoted * 3 <= text.len() * 4 {
            Encoding::QuotedPrintable
        } else {
            Encoding::Base64
        };
        let size_limit = match encoding {
            Encoding::SevenBit => normalised,
            // A soft break costs 3 bytes in 73, and a `From ` after it costs 2 more. A line end, a final space and an
            // initial `From ` together cost 6 bytes per line.
            Encoding::QuotedPrintable => quoted + quoted / 14 + 6 * count,
            Encoding::Base64 => base64_lines::encoded_len(normalised),
        };
        let charset = if text.is_ascii() { "us-ascii" } else { "utf-8" };
        Self { source: text, encoding, charset, size_limit }
    }

    /// Writes the text with CRLF between its lines, and no final line end.
    pub(in crate::mail) fn write(&self, out: &mut Vec<u8>) {
        match self.encoding {
            Encoding::SevenBit => join_lines(out, self.source, Vec::extend_from_slice),
            Encoding::QuotedPrintable => join_lines(out, self.source, quoted_printable::write_line),
            Encoding::Base64 => {
                let mut normal = Vec::with_capacity(self.size_limit);
                join_lines(&mut normal, self.source, Vec::extend_from_slice);
                base64_lines::write(out, &normal);
            }
        }
    }
}

/// Returns whether a line can be sent unencoded: ASCII without control characters, not too long, without white space at
/// its end (some servers drop it) and without an initial `From ` (mbox stores change it).
pub(in crate::mail) fn is_plain(line: &[u8]) -> bool {
    line.len() <= LONGEST_LINE
        && !line.ends_with(b" ")
        && !line.ends_with(b"\t")
        && !line.starts_with(b"From ")
        // Checking all bytes is vectorized, which is faster than stopping at the first invalid byte.
        && line.iter().fold(true, |plain, byte| plain & matches!(byte, b'\t' | b' '..=b'~'))
}

/// Writes the lines of `text` with `write`, and CRLF between them.
pub(in crate::mail) fn join_lines(out: &mut Vec<u8>, text: &str, write: impl Fn(&mut Vec<u8>, &[u8])) {
    for (index, line) in lines(text).enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\r\n");
        }
        write(out, line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoding(text: &str) -> Encoding {
        Text::new(text, "=_boundary").encoding
    }

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        Text::new(text, "=_boundary").write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn plain_text_is_not_encoded() {
        assert_eq!(encoding("Hello,\n.\n..dots\tand a = sign\n"), Encoding::SevenBit);
        assert_eq!(Text::new("Hello", "b").charset, "us-ascii");
        assert_eq!(Text::new("H\u{e9}llo", "b").charset, "utf-8");
        assert_eq!(written("a\n.b\rc\r\nd"), "a\r\n.b\r\nc\r\nd");
        assert_eq!(written(""), "");
    }

    #[test]
    fn text_that_transport_could_change_is_quoted() {
        for text in [
            "é and ten letters",
            "a \nb",
            "a\t",
            "nul \0 in the text",
            "From me",
            "\u{7f} in the text",
            &"x".repeat(991),
        ] {
            assert_eq!(encoding(text), Encoding::QuotedPrintable, "{text:?}");
        }
        assert_eq!(written("An é, then\n. \n"), "An =C3=A9, then\r\n.=20\r\n");
    }

    #[test]
    fn text_that_is_shorter_in_base64_is_sent_as_base64() {
        assert_eq!(encoding("日本語のテキスト"), Encoding::Base64);
        assert_eq!(written("日\n本"), "5pelDQrmnKw=", "the encoded line ends are CRLF (RFC 2045 §6.8)");
    }

    #[test]
    fn encoded_text_never_contains_the_boundary() {
        assert_eq!(encoding("--=_boundary_1"), Encoding::QuotedPrintable);
        assert!(!written("--=_boundary_1").contains("=_"));
    }
}
