//! Quoted-printable lines (RFC 2045 §6.7).
//!
//! No library is used: this encoder writes directly into the message, without copying the text, and escapes `From ` at
//! the start of a line, which mbox stores would change.

/// Maximum line length before the `=` of a soft break; with it, 76.
const LINE: usize = 75;

/// Writes one line of text, without a line end.
pub(in crate::mail) fn write_line(out: &mut Vec<u8>, line: &[u8]) {
    // Some servers drop a space or tab at the end of a line, so the last character is escaped if it is one.
    let (mut rest, last) = match line {
        [rest @ .., last @ (b' ' | b'\t')] => (rest, Some(*last)),
        _ => (line, None),
    };
    let mut column = 0;
    while let Some(&first) = rest.first() {
        let run = literal_run(rest, LINE - column);
        if (column == 0 && rest.starts_with(b"From ")) || !is_literal(first) {
            column = escape(out, first, column);
            rest = &rest[1..];
        } else if run == 0 {
            column = soft_break(out);
        } else {
            out.extend_from_slice(&rest[..run]);
            rest = &rest[run..];
            column += run;
        }
    }
    if let Some(last) = last {
        escape(out, last, column);
    }
}

/// Writes ASCII text so that all bytes are preserved. Line ends other than CRLF are escaped and followed by a soft
/// break, so that the lines stay readable. Writes no final line end.
pub(in crate::mail) fn write_exact(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    loop {
        let end = memchr::memmem::find(rest, b"\r\n");
        let line = &rest[..end.unwrap_or(rest.len())];
        for (index, piece) in line.split_inclusive(|byte| *byte == b'\n').enumerate() {
            if index > 0 {
                soft_break(out);
            }
            write_line(out, piece);
        }
        let Some(end) = end else { return };
        out.extend_from_slice(b"\r\n");
        rest = &rest[end + 2..];
    }
}

/// Writes `byte` as `=XX`.
pub(in crate::mail) fn write_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

/// Returns whether `byte` may be unencoded within a line.
pub(in crate::mail) fn is_literal(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'<' | b'>'..=b'~')
}

/// Returns how many bytes at the start of `text` need no encoding, at most `limit`.
fn literal_run(text: &[u8], limit: usize) -> usize {
    let window = &text[..text.len().min(limit)];
    window.iter().position(|&byte| !is_literal(byte)).unwrap_or(window.len())
}

/// Writes an escape, on a new line if it does not fit at `column`, and returns the new column.
fn escape(out: &mut Vec<u8>, byte: u8, mut column: usize) -> usize {
    if column + 3 > LINE {
        column = soft_break(out);
    }
    write_escape(out, byte);
    column + 3
}

fn soft_break(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(b"=\r\n");
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(line: &str) -> String {
        let mut out = Vec::new();
        write_line(&mut out, line.as_bytes());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_characters_that_need_escaping_are_escaped() {
        assert_eq!(encoded("a=b é\tc."), "a=3Db =C3=A9\tc.");
        assert_eq!(encoded("nul \0 bell \u{7} del \u{7f}"), "nul =00 bell =07 del =7F");
    }

    #[test]
    fn white_space_at_the_end_is_preserved() {
        assert_eq!(encoded("a  "), "a =20");
        assert_eq!(encoded("a\t"), "a=09");
        assert_eq!(encoded(" "), "=20");
    }

    #[test]
    fn initial_from_is_escaped() {
        assert_eq!(encoded("From here"), "=46rom here");
        assert!(encoded(&format!("{}From here", "x".repeat(75))).ends_with("=\r\n=46rom here"));
    }

    #[test]
    fn line_ends_other_than_crlf_are_preserved() {
        for text in ["a\nb\r\nc\rd", "\n\r\n\r", "x \n \r\n ", &format!("{}\nFrom x", "y".repeat(74)), "", "\r\r\n\n"] {
            let mut out = Vec::new();
            write_exact(&mut out, text.as_bytes());
            let out = String::from_utf8(out).unwrap();
            assert!(out.split("\r\n").all(|line| line.len() <= 76 && !line.contains(['\r', '\n'])), "{out}");
            assert_eq!(quoted_printable::decode(&out, quoted_printable::ParseMode::Strict).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn long_lines_get_soft_breaks_within_76_characters() {
        for line in ["x".repeat(500), "é".repeat(300), "x é ".repeat(100), format!("{} ", "y".repeat(75))] {
            let out = encoded(&line);
            assert!(out.split("\r\n").all(|line| line.len() <= 76), "{out}");
            assert_eq!(
                quoted_printable::decode(&out, quoted_printable::ParseMode::Strict).unwrap(),
                line.as_bytes(),
                "an independent decoder returns the text"
            );
        }
    }
}
