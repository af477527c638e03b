//! Line ends: CR, LF and CRLF each end a line of text (RFC 5321 §2.3.8 requires CRLF on the wire), and none of them may
//! be in a header value.

use std::borrow::Cow;

/// Returns the lines of `text` without their line ends; joined with CRLF they are its normal form. A text that ends
/// with a line end has an empty last line, so that its final line end is preserved.
pub(super) fn lines(text: &str) -> Lines<'_> {
    Lines { rest: Some(text) }
}

/// Iterator returned by [`lines`].
pub(super) struct Lines<'a> {
    rest: Option<&'a str>,
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        let Some(end) = memchr::memchr2(b'\r', b'\n', rest.as_bytes()) else {
            self.rest = None;
            return Some(rest);
        };
        let width = if rest.as_bytes()[end..].starts_with(b"\r\n") { 2 } else { 1 };
        self.rest = Some(&rest[end + width..]);
        Some(&rest[..end])
    }
}

/// Returns a header value with every CR, LF and NUL replaced by a space. The API already refuses them; this is a second
/// safeguard.
pub(super) fn single_line(value: &str) -> Cow<'_, str> {
    if memchr::memchr3(b'\r', b'\n', 0, value.as_bytes()).is_none() {
        return Cow::Borrowed(value);
    }
    Cow::Owned(value.replace(['\r', '\n', '\0'], " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        lines(text).collect()
    }

    #[test]
    fn every_kind_of_line_end_ends_a_line() {
        assert_eq!(split("a\r\nb\nc\rd"), ["a", "b", "c", "d"]);
        assert_eq!(split("a\r\r\nb\n\nc"), ["a", "", "b", "", "c"]);
        assert_eq!(split("a\n\r\n"), ["a", "", ""]);
        assert_eq!(split("\r"), ["", ""]);
        assert_eq!(split(""), [""]);
    }

    #[test]
    fn line_ends_in_a_header_value_become_spaces() {
        assert_eq!(single_line("a\r\nBcc: b\0"), "a  Bcc: b ");
        assert!(matches!(single_line("a\tb"), Cow::Borrowed("a\tb")));
    }
}
