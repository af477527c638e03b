//! Header parameters such as `filename=` (RFC 2231).
//!
//! A short ASCII name is written in quotes. Other names are written as specified by RFC 2231: percent-encoded, and in
//! numbered pieces if long. Outlook, Gmail, Apple Mail and Thunderbird support that. For other readers, the part's
//! `Content-Type` has the same name in encoded-words.

use super::encoded_word;
use super::field::{Field, has_odd_spaces, is_printable};
use crate::mail::encoding::normalise::single_line;

/// Writes `name=value` as the last parameter of `field`.
pub(in crate::mail) fn write(field: &mut Field<'_>, name: &str, value: &str) {
    let value = single_line(value);
    if is_quoted(name, &value) {
        return field.word(&[name, "=\"", &value, "\""]);
    }
    let encoded = pieces(&value, Field::max_word() - name.len() - "*999*=utf-8'';".len());
    if let [whole] = encoded.as_slice() {
        return field.word(&[name, "*=utf-8''", whole]);
    }
    for (index, piece) in encoded.iter().enumerate() {
        let charset = if index == 0 { "utf-8''" } else { "" };
        let semicolon = if index + 1 < encoded.len() { ";" } else { "" };
        field.word(&[name, "*", &index.to_string(), "*=", charset, piece, semicolon]);
    }
}

/// Writes `name="=?utf-8?…?="` as the last parameter of `field`, for readers without support for RFC 2231.
pub(in crate::mail) fn write_for_old_readers(field: &mut Field<'_>, name: &str, value: &str) {
    let value = single_line(value);
    let frame = name.len() + "=\"\"".len();
    let words = encoded_word::words(&value, Field::max_word() - frame);
    for (index, word) in words.iter().enumerate() {
        let end = if index + 1 == words.len() { "\"" } else { "" };
        if index == 0 {
            field.word(&[name, "=\"", word, end]);
        } else {
            field.word(&[word, end]);
        }
    }
}

/// Returns whether `name=value` is written in quotes, which every reader supports: ASCII that fits into a line. Values
/// with quotes or backslashes are written as RFC 2231 instead, because readers disagree about escapes.
pub(in crate::mail) fn is_quoted(name: &str, value: &str) -> bool {
    let fits = name.len() + value.len() + "=\"\"".len() <= Field::max_word();
    fits && is_printable(value)
        && !value.contains(['"', '\\'])
        && !has_odd_spaces(value)
        && !encoded_word::looks_encoded(value)
}

/// Returns `value` percent-encoded, in pieces of at most `limit` bytes, none of which splits a character.
fn pieces(value: &str, limit: usize) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for char in value.chars() {
        let mut buffer = [0; 4];
        let encoded = percent_encoded(char.encode_utf8(&mut buffer));
        match pieces.last_mut() {
            Some(piece) if piece.len() + encoded.len() <= limit => piece.push_str(&encoded),
            _ => pieces.push(encoded),
        }
    }
    pieces
}

/// Percent-encodes all bytes except letters, digits and `-._`.
pub(in crate::mail) fn percent_encoded(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(char::from(HEX[usize::from(byte >> 4)]));
            encoded.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disposition(filename: &str) -> String {
        let mut out = Vec::new();
        let mut field = Field::new(&mut out, "Content-Disposition");
        field.word(&["attachment;"]);
        write(&mut field, "filename", filename);
        field.end();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn plain_name_is_quoted() {
        assert_eq!(disposition("a b.pdf"), "Content-Disposition: attachment; filename=\"a b.pdf\"\r\n");
    }

    #[test]
    fn other_names_are_percent_encoded() {
        assert_eq!(disposition("Zoë.pdf"), "Content-Disposition: attachment; filename*=utf-8''Zo%C3%AB.pdf\r\n");
        assert_eq!(
            disposition("a\"; x=\"b"),
            "Content-Disposition: attachment; filename*=utf-8''a%22%3B%20x%3D%22b\r\n"
        );
        assert_eq!(
            disposition("a\r\nBcc: b"),
            "Content-Disposition: attachment; filename*=utf-8''a%20%20Bcc%3A%20b\r\n"
        );
    }

    #[test]
    fn long_name_is_written_in_numbered_pieces() {
        let header = disposition(&"日本".repeat(60));
        assert!(header.lines().all(|line| line.len() <= 76), "{header}");
        assert!(header.contains("\r\n filename*0*=utf-8''%E6%97%A5"));
        assert!(header.contains(";\r\n filename*1*=%E6"));
        assert!(!header.ends_with(";\r\n"));
    }
}
