//! Splits a message into its leaf parts, up to a maximum depth.
//!
//! This is implemented here, because the work must be bounded for hostile messages: mail-parser has no limit for the depth
//! of messages in messages. mail-parser is used to parse structured headers, to decode, and to convert character sets.

use std::borrow::Cow;

use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::decoders::html::html_to_text;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use mail_parser::{MessageParser, MimeHeaders};
use memchr::memmem;

use super::fields::Fields;

/// Maximum bytes of a header that are examined.
const MAX_HEADER: usize = 128 * 1_024;
/// Maximum bytes of a leaf that are decoded.
const MAX_BODY: usize = 256 * 1_024;
/// Maximum leaves of a report that are examined.
const MAX_PARTS: usize = 40;
/// Maximum depth of nested multiparts of a report that is examined.
const MAX_DEPTH: usize = 6;

/// How much of a message is examined.
#[derive(Debug, Clone, Copy)]
pub(in crate::mail) struct Limits {
    /// Maximum leaves.
    pub parts: usize,
    /// Maximum depth of nested multiparts.
    pub depth: usize,
}

/// A parsed message.
#[derive(Debug, Default)]
pub(in crate::mail) struct ReceivedMessage<'a> {
    /// Header fields.
    pub fields: Fields,
    /// Decoded `Subject`.
    pub subject: String,
    /// The `report-type` of the outermost multipart/report.
    pub report_type: Option<String>,
    /// Leaves in order. A returned message (message/rfc822) is one leaf.
    pub parts: Vec<Part<'a>>,
    /// The header, with the empty line at its end; of a long one, the beginning.
    pub header: &'a [u8],
}

/// A leaf of a message.
#[derive(Debug)]
pub(in crate::mail) struct Part<'a> {
    /// Media type such as `text/plain`, in lower case.
    pub kind: String,
    /// File name.
    pub filename: Option<String>,
    /// `Content-ID` without angle brackets.
    pub content_id: Option<String>,
    /// `Content-Disposition` without parameters, in lower case.
    pub disposition: Option<String>,
    charset: Option<String>,
    encoding: Option<String>,
    body: &'a [u8],
}

impl<'a> ReceivedMessage<'a> {
    /// Parses a message, as far as reports need it.
    pub fn read(mime: &'a [u8]) -> Self {
        Self::read_within(mime, Limits { parts: MAX_PARTS, depth: MAX_DEPTH })
    }

    /// Parses a message within other limits.
    pub fn read_within(mime: &'a [u8], limits: Limits) -> Self {
        let (header, _) = split(mime);
        let text = String::from_utf8_lossy(header);
        let mut parsed = Self {
            fields: Fields::read(&text),
            subject: MessageParser::default()
                .parse_headers(header)
                .and_then(|message| message.subject().map(str::to_owned))
                .unwrap_or_default(),
            report_type: None,
            parts: Vec::new(),
            header,
        };
        parsed.walk(mime, 0, limits);
        parsed
    }

    fn walk(&mut self, entity: &'a [u8], depth: usize, limits: Limits) {
        if self.parts.len() >= limits.parts {
            return;
        }
        let (header, body) = split(entity);
        let message = MessageParser::default().parse_headers(header);
        let kind = message.as_ref().and_then(|message| message.content_type());
        let name = kind.map_or_else(
            || "text/plain".to_owned(),
            |kind| format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or("plain")).to_ascii_lowercase(),
        );
        let attribute = |name| kind.and_then(|kind| kind.attribute(name)).map(str::to_ascii_lowercase);
        if let Some(report) = attribute("report-type").filter(|_| self.report_type.is_none()) {
            self.report_type = Some(report);
        }
        let boundary = kind.and_then(|kind| kind.attribute("boundary")).filter(|boundary| !boundary.is_empty());
        // Some servers fold the field without the required space, so that the header lacks the boundary.
        let boundary = boundary.or_else(|| first_delimiter(body).filter(|_| name.starts_with("multipart/")));
        if let Some(boundary) = boundary.filter(|_| name.starts_with("multipart/") && depth < limits.depth) {
            let pieces = pieces(body, boundary.as_bytes(), limits.parts);
            if !pieces.is_empty() {
                for piece in pieces {
                    self.walk(piece, depth + 1, limits);
                }
                return;
            }
        }
        let encoding = message.as_ref().and_then(|m| m.content_transfer_encoding()).map(str::to_ascii_lowercase);
        let message = message.as_ref();
        self.parts.push(Part {
            kind: name,
            filename: message.and_then(|message| message.attachment_name()).map(str::to_owned),
            content_id: message.and_then(|message| message.content_id()).map(str::to_owned),
            disposition: message
                .and_then(|message| message.content_disposition())
                .map(|disposition| disposition.ctype().to_ascii_lowercase()),
            charset: attribute("charset"),
            encoding,
            body,
        });
    }

    /// Returns the first leaf of one of these types.
    pub fn part(&self, kinds: &[&str]) -> Option<&Part<'a>> {
        self.parts.iter().find(|part| kinds.contains(&part.kind.as_str()))
    }

    /// Returns the readable text: all plain-text leaves, or if there are none, the text of the HTML leaves.
    pub fn text(&self) -> String {
        let text_of = |kind: &str| {
            let texts = self.parts.iter().filter(|part| part.kind == kind).map(Part::text);
            texts.collect::<Vec<_>>().join("\n\n")
        };
        let plain = text_of("text/plain");
        if plain.trim().is_empty() { html_to_text(&text_of("text/html")) } else { plain }
    }
}

impl<'a> Part<'a> {
    /// Returns the raw bytes. Parts of a message type have no transfer encoding (RFC 2046 §5.2.1).
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Returns the decoded bytes. A part with a broken encoding is returned as it is.
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        self.decoded(self.body)
    }

    fn decoded(&self, body: &'a [u8]) -> Cow<'a, [u8]> {
        match self.encoding.as_deref() {
            Some("base64") => base64_decode(body).map_or(Cow::Borrowed(body), Cow::Owned),
            Some("quoted-printable") => quoted_printable_decode(body).map_or(Cow::Borrowed(body), Cow::Owned),
            _ => Cow::Borrowed(body),
        }
    }

    /// Returns the decoded text, as much as reports need.
    pub fn text(&self) -> String {
        self.text_within(MAX_BODY)
    }

    /// Returns the text in the first `limit` encoded bytes.
    pub fn text_within(&self, limit: usize) -> String {
        let bytes = self.decoded(self.body.get(..limit).unwrap_or(self.body));
        // Text that is valid UTF-8 and not ASCII is decoded as UTF-8, even if another charset is declared.
        let utf8 = std::str::from_utf8(&bytes).ok().filter(|text| !text.is_ascii());
        let decoder = || self.charset.as_deref().and_then(|charset| charset_decoder(charset.as_bytes()));
        match (utf8, decoder()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(decode)) => decode(&bytes),
            (None, None) => String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
}

/// Splits an entity into header and body.
fn split(entity: &[u8]) -> (&[u8], &[u8]) {
    let mut start = 0;
    loop {
        let end = memchr::memchr(b'\n', &entity[start..]).map_or(entity.len(), |at| start + at + 1);
        if matches!(&entity[start..end], b"\n" | b"\r\n") {
            // Includes the empty line: otherwise the last field is not recognized.
            return (&entity[..end.min(MAX_HEADER)], &entity[end..]);
        }
        if end == entity.len() {
            return (&entity[..end.min(MAX_HEADER)], &[]);
        }
        start = end;
    }
}

/// Returns the text after `--` on the first line that begins with it.
fn first_delimiter(body: &[u8]) -> Option<&str> {
    let mut lines = body[..body.len().min(MAX_HEADER)].split(|byte| *byte == b'\n');
    let delimiter = lines.find_map(|line| line.strip_prefix(b"--"))?;
    std::str::from_utf8(delimiter).ok().map(str::trim_ascii_end).filter(|rest| (1..=70).contains(&rest.len()))
}

/// Returns the parts of the body of a multipart, without preamble and epilogue (RFC 2046 §5.1.1).
fn pieces<'a>(body: &'a [u8], boundary: &[u8], max: usize) -> Vec<&'a [u8]> {
    let delimiter = [b"--", boundary].concat();
    let mut pieces = Vec::new();
    let mut open = None;
    for at in memmem::find_iter(body, &delimiter) {
        let after = &body[at + delimiter.len()..];
        let begins_line = at == 0 || body[at - 1] == b'\n';
        let ends = after.starts_with(b"--");
        if !begins_line || !(ends || after.first().is_none_or(u8::is_ascii_whitespace)) {
            continue;
        }
        if let Some(start) = open.take().filter(|start| *start <= at) {
            pieces.push(&body[start..at]);
        }
        if ends || pieces.len() >= max {
            return pieces;
        }
        open = Some(memchr::memchr(b'\n', after).map_or(body.len(), |end| at + delimiter.len() + end + 1));
    }
    // The body was truncated.
    pieces.extend(open.and_then(|start| body.get(start..)));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_leaves_are_found_and_decoded() {
        let message = ReceivedMessage::read(
            b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nContent-Type: multipart/report; report-type=Delivery-Status;\r\n boundary=\"a b\"\r\n\r\nno part\r\n\
              --a b\r\nContent-Type: multipart/alternative; boundary=a\r\n\r\n--a\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
              caf=C3=A9\r\n--a\r\nContent-Type: TEXT/html\r\n\r\n<p>x</p>\r\n--a--\r\n--a b \r\n\
              Content-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\ny\r\n--a bc\r\n--a b--\r\nafter",
        );
        assert_eq!((message.subject.as_str(), message.report_type.as_deref()), ("Grüße", Some("delivery-status")));
        assert_eq!(
            message.parts.iter().map(|part| part.kind.as_str()).collect::<Vec<_>>(),
            ["text/plain", "text/html", "message/rfc822"]
        );
        assert_eq!(message.text().trim(), "café");
        assert_eq!(message.parts[2].text(), "Subject: x\r\n\r\ny\r\n--a bc\r\n");
    }

    #[test]
    fn nesting_depth_is_limited() {
        let level = b"Content-Type: multipart/mixed; boundary=x\n\n--x\n";
        assert!(ReceivedMessage::read(&level.repeat(100_000)).parts.len() <= MAX_PARTS);
        let level = b"Content-Type: message/rfc822\n\n";
        assert_eq!(ReceivedMessage::read(&level.repeat(100_000)).parts.len(), 1);
        assert!(ReceivedMessage::read(&b"\n--x\na: b\n\n".repeat(100_000)).parts.len() <= MAX_PARTS);
    }
}
