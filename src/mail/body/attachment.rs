//! Attachments and inline parts: their headers (RFC 2045, 2183, 2392) and their bytes.
//!
//! All bytes are preserved: in base64, or for ASCII text unencoded or in quoted-printable, since spam filters count
//! ASCII text in base64 against a message. Only the line ends of a `message/*` part become CRLF: such a part must not
//! be encoded (RFC 2046 §5.2). A `message/rfc822` whose body has bytes above 127 is sent as `8bit`, so that it can
//! still be opened as a message; the servers on its way need 8BITMIME (RFC 6152).

use std::borrow::Cow;

use super::content_id;
use super::text::is_plain;
use crate::domain::message::Attachment;
use crate::domain::message::header_syntax::MAX_LINE;
use crate::mail::encoding::normalise::{byte_lines, push_with_crlf};
use crate::mail::encoding::{base64_lines, quoted_printable};
use crate::mail::header::field::{Field, LONGEST_WORD, is_printable, write_field};
use crate::mail::header::parameter::{self, percent_encoded};

/// The type of a file whose own type is unknown or cannot be preserved.
pub(in crate::mail) const OPAQUE: &str = "application/octet-stream";

/// Transfer encoding of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// Unencoded, with the original line ends.
    SevenBit,
    /// Unencoded ASCII, with CRLF for every line end.
    Lines,
    /// Unencoded, with CRLF for every line end.
    EightBitLines,
    QuotedPrintable,
    Base64,
}

/// A file as a MIME part.
#[derive(Debug)]
pub(in crate::mail) struct File<'a> {
    description: &'a Attachment,
    data: &'a [u8],
    media_type: &'a str,
    content_id: Option<Cow<'a, str>>,
    encoding: Encoding,
    /// Upper bound of the bytes written.
    pub(in crate::mail) size_limit: usize,
}

impl<'a> File<'a> {
    /// Chooses the declared type and the encoding. A file that contains `boundary` cannot be sent unencoded. `domain`
    /// is the domain of the sender.
    pub(in crate::mail) fn new(file: &'a Attachment, data: &'a [u8], domain: &str, boundary: &str) -> Self {
        let given = media_type(&file.content_type);
        let (media_type, encoding, encoded) = match given.split_once('/').unwrap_or_default().0 {
            kind if kind.eq_ignore_ascii_case("text") => {
                let (encoding, encoded) = text_encoding(data, boundary);
                (given, encoding, encoded)
            }
            kind if kind.eq_ignore_ascii_case("message") && !is_global(given) => match message_encoding(given, data) {
                Some(encoding) if memchr::memmem::find(data, boundary.as_bytes()).is_none() => {
                    (given, encoding, data.len() + byte_lines(data).count())
                }
                _ => (OPAQUE, Encoding::Base64, base64_lines::encoded_len(data.len())),
            },
            _ => (given, Encoding::Base64, base64_lines::encoded_len(data.len())),
        };
        let content_id = file.content_id.as_deref().map(|id| content_id::with_domain(id, domain));
        // An upper bound, because a name is written twice: as `%XX` in lines with 29 bytes of framing, and as `=XX` in
        // encoded-words of at most 26 bytes for 12 bytes of text.
        let names = file.filename.len() * 10 + content_id.as_ref().map_or(0, |id| id.len() * 3);
        let size_limit = 512 + file.content_type.len() * 2 + names + encoded;
        Self { description: file, data, media_type, content_id, encoding, size_limit }
    }

    /// Returns whether the part has bytes above 127.
    pub(in crate::mail) fn is_eight_bit(&self) -> bool {
        self.encoding == Encoding::EightBitLines
    }

    /// Writes the part: its headers, an empty line and its bytes, without a final line end.
    pub(in crate::mail) fn write(&self, out: &mut Vec<u8>) {
        self.write_type(out);
        let encoding = match self.encoding {
            Encoding::SevenBit | Encoding::Lines => "7bit",
            Encoding::EightBitLines => "8bit",
            Encoding::QuotedPrintable => "quoted-printable",
            Encoding::Base64 => "base64",
        };
        write_field(out, "Content-Transfer-Encoding", encoding);
        write_disposition(out, self.description);
        if let Some(id) = &self.content_id {
            let mut content_id = Field::new(out, "Content-ID");
            content_id.word(&["<", &bare_id(id), ">"]);
            content_id.end();
        }
        out.extend_from_slice(b"\r\n");
        match self.encoding {
            Encoding::SevenBit => out.extend_from_slice(self.data),
            Encoding::Lines | Encoding::EightBitLines => push_with_crlf(out, self.data),
            Encoding::QuotedPrintable => quoted_printable::write_exact(out, self.data),
            Encoding::Base64 => base64_lines::write(out, self.data),
        }
    }

    /// Writes the type, with a `name` for readers without support for `filename*` (RFC 2231) unless the type has one.
    /// An encoded-word in quotes violates RFC 2047 §5, but is what these readers expect.
    fn write_type(&self, out: &mut Vec<u8>) {
        let name = &self.description.filename;
        let mut content_type = Field::new(out, "Content-Type");
        if name.is_empty() || parameter::is_quoted("filename", name) || has_name(self.media_type) {
            content_type.words(self.media_type);
        } else {
            content_type.words(self.media_type.trim_end_matches([';', ' ']));
            content_type.push(";");
            parameter::write_for_old_readers(&mut content_type, "name", name);
        }
        content_type.end();
    }
}

/// Returns whether a file can be sent with this media type. A `message/*` type requires a header in ASCII, and lines
/// without NUL that can be sent unencoded; all types except `message/rfc822` also require ASCII after the header.
/// `message/global` and similar types may be encoded (RFC 6532 §3.7).
pub fn is_sendable_as(content_type: &str, data: &[u8]) -> bool {
    let is_message = content_type.get(..8).is_some_and(|kind| kind.eq_ignore_ascii_case("message/"));
    !is_message || is_global(content_type) || message_encoding(content_type, data).is_some()
}

fn is_global(content_type: &str) -> bool {
    content_type.get(..14).is_some_and(|kind| kind.eq_ignore_ascii_case("message/global"))
}

/// Returns the encoding of a file with a `message/*` type. `None` if it does not begin with a header field, as every
/// such type does, or cannot be sent unencoded.
fn message_encoding(content_type: &str, data: &[u8]) -> Option<Encoding> {
    let name = byte_lines(data).next()?.split(|byte| *byte == b':').next()?;
    let has_colon = data.get(name.len()) == Some(&b':');
    let name = name.trim_ascii_end();
    if !has_colon || name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    // RFC 2046 §5.2.2 and §5.2.3 and RFC 3464 §2.1 require 7bit for the other types.
    let allows_eight_bit = essence(content_type).eq_ignore_ascii_case("message/rfc822");
    let (mut is_header, mut is_ascii) = (true, true);
    for line in byte_lines(data) {
        is_header = is_header && !line.is_empty();
        is_ascii = is_ascii && line.is_ascii();
        if line.len() > MAX_LINE || line.contains(&0) || (!is_ascii && (is_header || !allows_eight_bit)) {
            return None;
        }
    }
    Some(if is_ascii { Encoding::Lines } else { Encoding::EightBitLines })
}

/// Returns a media type without its parameters.
pub(in crate::mail) fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Returns the encoding for a text file, and the maximum encoded length.
fn text_encoding(data: &[u8], boundary: &str) -> (Encoding, usize) {
    let base64 = (Encoding::Base64, base64_lines::encoded_len(data.len()));
    let is_text = |byte: &u8| matches!(byte, b'\t' | b'\r' | b'\n' | b' '..=b'~');
    if !data.iter().all(is_text) {
        return base64;
    }
    let line_ends = memchr::memchr_iter(b'\n', data).count();
    let crlfs = memchr::memmem::find_iter(data, b"\r\n").count();
    let has_crlf_only = crlfs == line_ends && memchr::memchr_iter(b'\r', data).count() == crlfs;
    let fits = |line: &[u8]| is_plain(line.strip_suffix(b"\r").unwrap_or(line));
    if has_crlf_only && data.split(|byte| *byte == b'\n').all(fits) {
        // A file contains the boundary only by chance: it is derived from the message's id, which the sender cannot
        // know.
        if memchr::memmem::find(data, boundary.as_bytes()).is_none() {
            return (Encoding::SevenBit, data.len());
        }
    }
    let unprintable = data.iter().filter(|&&byte| !quoted_printable::is_literal(byte)).count() - 2 * crlfs;
    let has_more_escapes = |line: &&[u8]| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.starts_with(b"From ") || line.ends_with(b" ") || line.ends_with(b"\t")
    };
    let lines_with_more = data.split(|byte| *byte == b'\n').filter(has_more_escapes).count();
    let escaped = data.len() + 2 * unprintable + 4 * lines_with_more;
    // A soft line break costs 3 bytes per 73, and 2 more if `From ` follows it; each bare line end may need a soft
    // break, too.
    let quoted = escaped + escaped / 14 + 3 * (line_ends - crlfs) + 8;
    if quoted * 3 <= data.len() * 4 { (Encoding::QuotedPrintable, quoted) } else { base64 }
}

/// Returns whether a media type has a parameter `name`.
fn has_name(media_type: &str) -> bool {
    let mut parameters = media_type.split(';').skip(1);
    parameters.any(|parameter| {
        let name = parameter.split_once('=').unwrap_or_default().0.trim();
        name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("name"))
    })
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

/// Returns the type to declare. `multipart/*` is declared as opaque: it must not be base64-encoded (RFC 2045 §6.4), and
/// unencoded its bytes could be changed in transit.
pub(in crate::mail) fn media_type(given: &str) -> &str {
    let is_token = |part: &str| !part.is_empty() && part.bytes().all(is_token_byte);
    let is_type = essence(given)
        .split_once('/')
        .is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype) && !kind.eq_ignore_ascii_case("multipart"));
    let is_short = given.split(' ').all(|word| word.len() <= LONGEST_WORD);
    if is_type && is_short && is_printable(given) { given } else { OPAQUE }
}

/// Returns whether a byte may be in a token (RFC 2045 §5.1).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&byte)
}

/// Returns an id that is valid in a header: other characters are percent-encoded, as in a `cid:` link (RFC 2392 §2).
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
            size: 3,
            ..Attachment::default()
        };
        part(&file, b"abc")
    }

    fn part(file: &Attachment, data: &[u8]) -> String {
        let mut out = Vec::new();
        let part = File::new(file, data, "acme.test", "=_boundary");
        part.write(&mut out);
        assert!(out.len() <= part.size_limit, "{} > {}", out.len(), part.size_limit);
        String::from_utf8(out).unwrap()
    }

    /// Returns the encoding and the body of a file.
    fn body(content_type: &str, data: &str) -> (String, String) {
        let file = Attachment {
            filename: "f".into(),
            content_type: content_type.into(),
            size: data.len() as u64,
            ..Attachment::default()
        };
        let part = part(&file, data.as_bytes());
        let (head, body) = part.split_once("\r\n\r\n").unwrap();
        let encoding = head.split_once("Content-Transfer-Encoding: ").unwrap().1.lines().next().unwrap();
        (encoding.to_owned(), body.to_owned())
    }

    #[test]
    fn file_is_an_attachment() {
        assert_eq!(
            written("data.csv", "text/csv; charset=utf-8", None),
            "Content-Type: text/csv; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\
             Content-Disposition: attachment; filename=\"data.csv\"\r\n\r\nabc"
        );
        assert!(written("a.bin", "a/b", None).ends_with(
            "Content-Transfer-Encoding: base64\r\n\
             Content-Disposition: attachment; filename=\"a.bin\"\r\n\r\nYWJj"
        ));
    }

    #[test]
    fn ascii_text_stays_readable_and_unchanged() {
        let check = |data: &str, encoding: &str, expected: &str| {
            assert_eq!(body("text/csv", data), (encoding.to_owned(), expected.to_owned()), "{data:?}");
        };
        check("a,b\r\n1,2\r\n", "7bit", "a,b\r\n1,2\r\n");
        let rows = "name,amount,date of purchase\n".repeat(3);
        check(&rows, "quoted-printable", "name,amount,date of purchase=0A=\r\n".repeat(3).trim_end_matches("=\r\n"));
        let long = "x".repeat(1_200);
        let (encoding, text) = body("Text/plain", &long);
        assert_eq!(encoding, "quoted-printable");
        assert!(text.lines().all(|line| line.len() <= 76));
        for data in ["\n\n\n\n", "\u{e9}\r\n", "nul \0", "=_boundary"] {
            assert_eq!(body("text/plain", data).0, "base64", "{data:?}");
        }
        assert_eq!(body("text/plain", &format!("{}=_boundary", "a line\r\n".repeat(20))).0, "quoted-printable");
    }

    #[test]
    fn message_attachment_keeps_its_type_if_possible() {
        let message = "From: a@b.test\nSubject: x\n\nHello.\n";
        assert_eq!(body("message/rfc822", message), ("7bit".to_owned(), message.replace('\n', "\r\n")));
        assert_eq!(body("message/global", "\u{e9}").0, "base64");
        let long = format!("A: {}", "x".repeat(996));
        for data in ["From: \u{e9}@b.test\n\n", &long, "A: a\0b", "hello", "", "A: b\n\n--=_boundary"] {
            assert_eq!(body("message/rfc822", data).0, "base64", "{data:?}");
            assert_eq!(is_sendable_as("Message/RFC822", data.as_bytes()), data.contains("--"), "{data:?}");
        }
        assert!(is_sendable_as("message/global-headers", "\u{e9}".as_bytes()) && is_sendable_as("a/b", &[0]));
    }

    #[test]
    fn body_of_an_attached_message_may_be_8bit() {
        let message = "Subject: x\r\n\r\nGr\u{fc}\u{df}e\n";
        let sent = ("8bit".to_owned(), "Subject: x\r\n\r\nGr\u{fc}\u{df}e\r\n".to_owned());
        assert_eq!(body("message/rfc822; x=y", message), sent);
        assert!(
            is_sendable_as("message/rfc822", b"A: b\n\n\xff\xfe")
                && !is_sendable_as("message/partial", b"A: b\n\n\xff")
        );
        assert_eq!(body("message/delivery-status", message).0, "base64");
    }

    #[test]
    fn non_ascii_name_is_also_written_for_old_readers() {
        let part = written("Zo\u{eb}.pdf", "application/pdf", None);
        assert!(part.starts_with("Content-Type: application/pdf; name=\"=?utf-8?q?Zo=C3=AB=2Epdf?=\"\r\n"), "{part}");
        assert!(part.contains("; filename*=utf-8\'\'Zo%C3%AB.pdf\r\n"), "{part}");
        let named = written("\u{eb}", "text/plain; charset=utf-8; Name=\"e\";", None);
        assert!(named.starts_with("Content-Type: text/plain; charset=utf-8; Name=\"e\";\r\n"), "{named}");
        let long = written(&"\u{65e5}\u{672c}".repeat(80), "application/pdf;", None);
        assert!(long.lines().all(|line| line.len() <= 78), "{long}");
        assert!(long.starts_with("Content-Type: application/pdf;\r\n name=\"=?utf-8?b?"), "{long}");
    }

    #[test]
    fn long_ascii_name_is_also_written_for_old_readers() {
        let quoted = written(&"a".repeat(60), "application/pdf", None);
        assert!(
            quoted.starts_with("Content-Type: application/pdf\r\n") && quoted.contains(" filename=\"aaa"),
            "{quoted}"
        );
        let long = written(&"a".repeat(72), "application/pdf", None);
        assert!(long.starts_with("Content-Type: application/pdf;\r\n name=\"=?utf-8?q?aaa"), "{long}");
        assert!(long.contains("\r\n filename*0*=utf-8''aaa"), "{long}");
    }

    #[test]
    fn file_with_content_id_is_inline() {
        let part = written("logo.png", "image/png", Some("logo@acme.test"));
        assert!(
            part.contains("Content-Disposition: inline; filename=\"logo.png\"\r\nContent-ID: <logo@acme.test>\r\n\r\n")
        );
    }

    #[test]
    fn invalid_type_is_declared_as_octet_stream() {
        let long = format!("a/{}", "b".repeat(1_000));
        let types = ["Multipart/mixed; boundary=x", "", "text", "text/", "a b/c", "a/b\r\nBcc: c", "ä/b", &long];
        for content_type in types {
            assert!(
                written("f", content_type, None).starts_with("Content-Type: application/octet-stream\r\n"),
                "{content_type}"
            );
        }
    }

    #[test]
    fn content_id_cannot_inject_a_header() {
        assert!(
            written("f", "a/b", Some("x>\r\nBcc: ä")).contains("\r\nContent-ID: <x%3E%0D%0ABcc:%20%C3%A4>\r\n\r\n")
        );
    }
}
