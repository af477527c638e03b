//! Line ends: CR, LF and CRLF each end a line of text (RFC 5321 §2.3.8 requires CRLF on the wire). A header value must
//! not contain any of them.

use std::borrow::Cow;

/// Returns the lines of `text` without their line ends; joined with CRLF they are its normal form. A text that ends
/// with a line end has an empty last line, so that its final line end is preserved.
pub(in crate::mail) fn lines(text: &str) -> Lines<'_> {
    Lines { rest: Some(text) }
}

/// Iterator returned by [`lines`].
pub(in crate::mail) struct Lines<'a> {
    rest: Option<&'a str>,
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        let (line, after) = split_line(rest.as_bytes());
        self.rest = after.map(|after| &rest[rest.len() - after.len()..]);
        Some(&rest[..line.len()])
    }
}

/// Returns the lines of `data` without their line ends, as [`lines`] does for text.
pub(in crate::mail) fn byte_lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(data);
    std::iter::from_fn(move || {
        let (line, after) = split_line(rest?);
        rest = after;
        Some(line)
    })
}

/// Appends `data` with CRLF for every line end.
pub(in crate::mail) fn push_with_crlf(out: &mut Vec<u8>, data: &[u8]) {
    for (index, line) in byte_lines(data).enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(line);
    }
}

/// Returns the first line, and the text after its line end, if it has one.
fn split_line(data: &[u8]) -> (&[u8], Option<&[u8]>) {
    let Some(end) = memchr::memchr2(b'\r', b'\n', data) else { return (data, None) };
    let width = if data[end..].starts_with(b"\r\n") { 2 } else { 1 };
    (&data[..end], Some(&data[end + width..]))
}

/// Returns a header value with every CR, LF and NUL replaced by a space. The API already refuses them; this is a second
/// safeguard.
pub(in crate::mail) fn single_line(value: &str) -> Cow<'_, str> {
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
    fn bytes_have_the_same_lines_as_text() {
        for text in ["a\r\nb\nc\rd", "a\r\r\nb\n\nc", "a\n\r\n", "\r", ""] {
            assert_eq!(
                byte_lines(text.as_bytes()).collect::<Vec<_>>(),
                split(text).iter().map(|l| l.as_bytes()).collect::<Vec<_>>()
            );
            let mut joined = Vec::new();
            push_with_crlf(&mut joined, text.as_bytes());
            assert_eq!(joined, split(text).join("\r\n").into_bytes());
        }
    }

    #[test]
    fn line_ends_in_a_header_value_become_spaces() {
        assert_eq!(single_line("a\r\nBcc: b\0"), "a  Bcc: b ");
        assert!(matches!(single_line("a\tb"), Cow::Borrowed("a\tb")));
    }
}
