//! The content of a MIME message, decoded for people: headers, text and HTML (RFC 5322, RFC 2045–2049).

use mail_parser::parsers::MessageStream;
use mail_parser::{Header, Message, MessageParser, MimeHeaders as _, PartType};

use super::cid::Images;

/// The decoded content of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Name and value of each header, in order; values are unfolded, and encoded words are decoded.
    pub headers: Vec<(String, String)>,
    /// The plain text.
    pub text: Option<String>,
    /// The HTML.
    pub html: Option<String>,
}

/// Reads a message; malformed parts are read as far as possible.
pub fn read(raw: &[u8]) -> Content {
    let parsed = MessageParser::default().parse(raw).unwrap_or_default();
    let headers = parsed.parts.first().map_or(&[][..], |part| &part.headers);
    Content {
        headers: headers.iter().map(|header| (header.name.as_str().to_owned(), decoded(raw, header))).collect(),
        text: first(&parsed, &parsed.text_body, |body| match body {
            PartType::Text(text) => Some(text.to_string()),
            _ => None,
        }),
        html: first(&parsed, &parsed.html_body, |body| match body {
            PartType::Html(html) => Some(html.to_string()),
            _ => None,
        }),
    }
}

/// Returns the HTML with the images that are parts of the message in place of its `cid:` references.
pub fn with_images(html: &str, raw: &[u8]) -> String {
    let Some(parsed) = MessageParser::default().parse(raw) else { return html.to_owned() };
    let mut images = Images::wanted_by(html);
    for part in parsed.attachments() {
        let (Some(id), Some(declared)) = (part.content_id(), part.content_type()) else { continue };
        let content_type =
            format!("{}/{}", declared.ctype(), declared.subtype().unwrap_or_default()).to_ascii_lowercase();
        if images.wants(id, &content_type, part.contents().len() as u64) {
            images.add(id, &content_type, part.contents());
        }
    }
    images.embed(html)
}

/// Returns the first body part that really has this type: the parser lists text as HTML if there is no HTML.
fn first(parsed: &Message<'_>, ids: &[u32], pick: impl Fn(&PartType<'_>) -> Option<String>) -> Option<String> {
    ids.iter().filter_map(|id| parsed.part(*id)).find_map(|part| pick(&part.body))
}

/// Returns the value of a header field, unfolded and with encoded words decoded.
pub(super) fn decoded(raw: &[u8], header: &Header<'_>) -> String {
    let bytes = raw.get(header.offset_start as usize..header.offset_end as usize).unwrap_or_default();
    MessageStream::new(bytes).parse_unstructured().as_text().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MESSAGE: &str = "From: =?utf-8?q?J=C3=B6?= <jo@a.test>\r\nSubject: a\r\n b\r\n\
        Content-Type: multipart/related; boundary=r\r\n\r\n\
        --r\r\nContent-Type: text/html\r\n\r\n<img src=\"cid:logo\">\r\n\
        --r\r\nContent-Type: image/png\r\nContent-ID: <logo>\r\nContent-Transfer-Encoding: base64\r\n\r\nAAA=\r\n--r--\r\n";

    #[test]
    fn headers_and_bodies_are_decoded() {
        let content = read(MESSAGE.as_bytes());
        assert_eq!(content.headers[0], ("From".to_owned(), "Jö <jo@a.test>".to_owned()));
        assert_eq!(content.headers[1].1, "a b");
        assert_eq!((content.text, content.html.as_deref()), (None, Some("<img src=\"cid:logo\">")));
    }

    #[test]
    fn images_that_are_parts_are_embedded() {
        let html = read(MESSAGE.as_bytes()).html.unwrap();
        assert_eq!(with_images(&html, MESSAGE.as_bytes()), "<img src=\"data:image/png;base64,AAA=\">");
    }

    proptest! {
        #[test]
        fn every_message_is_read(raw in "\\PC{0,200}") {
            let content = read(raw.as_bytes());
            let _ = with_images(&content.html.unwrap_or_default(), raw.as_bytes());
        }
    }
}
