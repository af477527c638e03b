//! Attachments and inline parts: their headers (RFC 2045, 2183, 2392) and their bytes, always in base64, so that every
//! byte arrives.

use super::base64_lines;
use super::field::{Field, LONGEST_WORD, is_printable, write_field};
use super::parameter::{self, percent_encoded};
use crate::domain::message::Attachment;

/// What a file is called when its type is unknown or may not travel in base64.
const OPAQUE: &str = "application/octet-stream";

/// Writes a file as one part: its headers, an empty line and its bytes, with nothing behind the last line.
pub(super) fn write(out: &mut Vec<u8>, file: &Attachment, data: &[u8]) {
    write_field(out, "Content-Type", media_type(&file.content_type));
    write_field(out, "Content-Transfer-Encoding", "base64");
    write_disposition(out, file);
    if let Some(id) = &file.content_id {
        let mut content_id = Field::new(out, "Content-ID");
        content_id.word(&["<", &bare_id(id), ">"]);
        content_id.end();
    }
    out.extend_from_slice(b"\r\n");
    base64_lines::write(out, data);
}

/// At most this many octets are written for a file.
pub(super) fn size_limit(file: &Attachment, data: &[u8]) -> usize {
    // An octet of a name becomes `%XX`, and each line of them has a frame of 29 around it.
    let headers = 256 + file.content_type.len() * 2 + file.filename.len() * 5;
    headers + file.content_id.as_ref().map_or(0, |id| id.len() * 3) + base64_lines::encoded_len(data.len())
}

fn write_disposition(out: &mut Vec<u8>, file: &Attachment) {
    let kind = if file.content_id.is_some() { "inline" } else { "attachment" };
    let mut disposition = Field::new(out, "Content-Disposition");
    if file.filename.is_empty() {
        disposition.word(&[kind]);
    } else {
        disposition.word(&[kind, ";"]);
        parameter::write(&mut disposition, "filename", &file.filename);
    }
    disposition.end();
}

/// The type to declare. `message/*` and `multipart/*` may not travel in base64 (RFC 2045 §6.4, RFC 2046 §5.2.1), and as
/// anything else their bytes would be changed on the way; readers open a file named `.eml` all the same.
fn media_type(given: &str) -> &str {
    let essence = given.split(';').next().unwrap_or_default().trim();
    let is_token = |part: &str| !part.is_empty() && part.bytes().all(is_token_byte);
    let is_type = essence.split_once('/').is_some_and(|(kind, subtype)| {
        let composite = kind.eq_ignore_ascii_case("message") || kind.eq_ignore_ascii_case("multipart");
        is_token(kind) && is_token(subtype) && !composite
    });
    let is_short = given.split(' ').all(|word| word.len() <= LONGEST_WORD);
    if is_type && is_short && is_printable(given) { given } else { OPAQUE }
}

/// RFC 2045 §5.1.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&byte)
}

/// An id that no reader can misread: what does not belong is percent-encoded, as it is in a `cid:` link (RFC 2392 §2).
fn bare_id(id: &str) -> String {
    let mut bare = String::with_capacity(id.len());
    for char in id.chars() {
        let mut buffer = [0; 4];
        let char_text: &str = char.encode_utf8(&mut buffer);
        if char.is_ascii_graphic() && !matches!(char, '<' | '>') {
            bare.push_str(char_text);
        } else {
            bare.push_str(&percent_encoded(char_text));
        }
    }
    bare.truncate(LONGEST_WORD);
    bare
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(filename: &str, content_type: &str, content_id: Option<&str>) -> String {
        let file = Attachment {
            filename: filename.into(),
            content_type: content_type.into(),
            content_id: content_id.map(Into::into),
            sha256: String::new(),
            size: 3,
        };
        let mut out = Vec::new();
        write(&mut out, &file, b"abc");
        assert!(out.len() <= size_limit(&file, b"abc"));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_file_is_an_attachment() {
        assert_eq!(
            written("data.csv", "text/csv; charset=utf-8", None),
            "Content-Type: text/csv; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\
             Content-Disposition: attachment; filename=\"data.csv\"\r\n\r\nYWJj"
        );
    }

    #[test]
    fn a_file_with_an_id_is_inline() {
        let part = written("logo.png", "image/png", Some("logo@acme.test"));
        assert!(
            part.contains("Content-Disposition: inline; filename=\"logo.png\"\r\nContent-ID: <logo@acme.test>\r\n\r\n")
        );
    }

    #[test]
    fn a_type_that_cannot_be_declared_is_opaque() {
        let long = format!("a/{}", "b".repeat(1_000));
        let types = [
            "message/rfc822",
            "Multipart/mixed; boundary=x",
            "",
            "text",
            "text/",
            "a b/c",
            "a/b\r\nBcc: c",
            "ä/b",
            &long,
        ];
        for content_type in types {
            assert!(
                written("f", content_type, None).starts_with("Content-Type: application/octet-stream\r\n"),
                "{content_type}"
            );
        }
    }

    #[test]
    fn an_id_cannot_leave_its_brackets() {
        assert!(
            written("f", "a/b", Some("x>\r\nBcc: ä")).contains("\r\nContent-ID: <x%3E%0D%0ABcc:%20%C3%A4>\r\n\r\n")
        );
    }
}
