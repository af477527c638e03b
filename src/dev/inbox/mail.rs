//! A parsed message: headers, text, HTML, attachments (RFC 5322, RFC 2045–2049, RFC 2231).

use mail_parser::{Message, MessageParser, MessagePart, MimeHeaders, PartType};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::summary::{Summary, decoded};
use crate::domain::key::hex;

/// A message in the inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = InboxMessage)]
pub struct InboxMail {
    /// The message's number, time, envelope and size.
    #[serde(flatten)]
    pub summary: Summary,
    /// All headers, in order.
    pub headers: Vec<MailHeader>,
    /// The plain text, decoded; null if the message has none.
    #[schema(example = "Thank you for your order.")]
    pub text: Option<String>,
    /// The HTML, decoded; null if the message has none.
    #[schema(example = "<p>Thank you for your order.</p>")]
    pub html: Option<String>,
    /// All other parts, inline images included, in order.
    pub attachments: Vec<Attachment>,
}

/// One header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = InboxHeader)]
pub struct MailHeader {
    /// The header's name.
    #[schema(example = "Subject")]
    pub name: String,
    /// The header's value: unfolded, encoded words decoded.
    #[schema(example = "Your invoice")]
    pub value: String,
}

/// Metadata of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = InboxAttachment)]
pub struct Attachment {
    /// The file name; null if the part has none.
    #[schema(example = "invoice.pdf")]
    pub filename: Option<String>,
    /// The media type, without parameters.
    #[schema(example = "application/pdf")]
    pub content_type: String,
    /// The id that HTML refers to as `cid:…`, without angle brackets; null if the part has none.
    #[schema(example = "logo")]
    pub content_id: Option<String>,
    /// The decoded size, in bytes.
    #[schema(example = 9)]
    pub size: u64,
    /// SHA-256 of the decoded content, in lower-case hexadecimal.
    #[schema(example = "ae4b3280e56e2faf83f414a6e3dabe9d5fbe18976544c05fed121accb85b53fc")]
    pub sha256: String,
}

/// An attachment with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentFile {
    /// The file name.
    pub filename: Option<String>,
    /// The media type, without parameters.
    pub content_type: String,
    /// The decoded content.
    pub content: Vec<u8>,
}

/// Parses a message; malformed parts are shown as far as possible.
pub(super) fn parse(raw: &[u8], summary: Summary) -> InboxMail {
    let parsed = MessageParser::default().parse(raw).unwrap_or_default();
    let headers = parsed.parts.first().map_or(&[][..], |part| &part.headers);
    let headers = headers.iter().map(|h| MailHeader { name: h.name.as_str().to_owned(), value: decoded(raw, h) });
    InboxMail {
        summary,
        headers: headers.collect(),
        text: first(&parsed, &parsed.text_body, |body| match body {
            PartType::Text(text) => Some(text.to_string()),
            _ => None,
        }),
        html: first(&parsed, &parsed.html_body, |body| match body {
            PartType::Html(html) => Some(html.to_string()),
            _ => None,
        }),
        attachments: parsed.attachments().map(describe).collect(),
    }
}

/// Returns attachment `index`, counted from 0.
pub(super) fn attachment(raw: &[u8], index: usize) -> Option<AttachmentFile> {
    let parsed = MessageParser::default().parse(raw)?;
    let part = parsed.attachments().nth(index)?;
    Some(AttachmentFile {
        filename: part.attachment_name().map(str::to_owned),
        content_type: content_type(part),
        content: part.contents().to_vec(),
    })
}

/// Returns the first body part that really has this type: the parser lists text as HTML if there is no HTML.
fn first(parsed: &Message<'_>, ids: &[u32], pick: impl Fn(&PartType<'_>) -> Option<String>) -> Option<String> {
    ids.iter().filter_map(|id| parsed.part(*id)).find_map(|part| pick(&part.body))
}

fn describe(part: &MessagePart<'_>) -> Attachment {
    let content = part.contents();
    Attachment {
        filename: part.attachment_name().map(str::to_owned),
        content_type: content_type(part),
        content_id: part.content_id().map(str::to_owned),
        size: content.len() as u64,
        sha256: hex(&Sha256::digest(content)),
    }
}

/// Returns the media type of a part. A part without a content type is plain text (RFC 2045 §5.2); a type without a
/// subtype is unknown content.
fn content_type(part: &MessagePart<'_>) -> String {
    let Some(declared) = part.content_type() else {
        return "text/plain".to_owned();
    };
    match declared.subtype() {
        Some(subtype) => format!("{}/{subtype}", declared.ctype()).to_ascii_lowercase(),
        None => "application/octet-stream".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::super::Envelope;
    use super::*;

    fn summary() -> Summary {
        let envelope = Envelope { from: String::new(), to: vec![], helo: String::new() };
        let (received_at, size) = (DateTime::UNIX_EPOCH, 0);
        Summary { n: 1, received_at, envelope, subject: None, from: None, to: None, size }
    }

    const MESSAGE: &str = "From: =?utf-8?q?J=C3=B6?= <jo@a.test>\r\nX-Two: a\r\n b\r\nSubject: hi\r\n\
        Content-Type: multipart/mixed; boundary=m\r\n\r\n\
        --m\r\nContent-Type: multipart/alternative; boundary=a\r\n\r\n\
        --a\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nplain\r\n\
        --a\r\nContent-Type: text/html\r\n\r\n<p>html</p>\r\n--a--\r\n\
        --m\r\nContent-Type: application/pdf\r\nContent-ID: <c1@a.test>\r\nContent-Transfer-Encoding: base64\r\n\
        Content-Disposition: attachment; filename*=utf-8''%C3%A5.pdf\r\n\r\nAAEC\r\n--m--\r\n";

    #[test]
    fn multipart_message_is_parsed() {
        let message = parse(MESSAGE.as_bytes(), summary());
        let header = |name: &str, value: &str| MailHeader { name: name.into(), value: value.into() };
        assert_eq!(
            message.headers[..3],
            [header("From", "Jö <jo@a.test>"), header("X-Two", "a b"), header("Subject", "hi")]
        );
        assert_eq!((message.text.as_deref(), message.html.as_deref()), (Some("plain"), Some("<p>html</p>")));
        let expected = Attachment {
            filename: Some("å.pdf".into()),
            content_type: "application/pdf".into(),
            content_id: Some("c1@a.test".into()),
            size: 3,
            sha256: "ae4b3280e56e2faf83f414a6e3dabe9d5fbe18976544c05fed121accb85b53fc".into(),
        };
        assert_eq!(message.attachments, [expected]);
        assert_eq!(attachment(MESSAGE.as_bytes(), 0).expect("an attachment").content, [0, 1, 2]);
        assert_eq!(attachment(MESSAGE.as_bytes(), 1), None);
    }

    #[test]
    fn single_part_message_has_one_body() {
        let text = parse(b"Subject: x\r\n\r\nbody", summary());
        assert_eq!((text.text.as_deref(), text.html), (Some("body"), None));
        let html = parse(b"Content-Type: text/html\r\n\r\n<p>", summary());
        assert_eq!((html.text, html.html.as_deref()), (None, Some("<p>")));
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_parsed(cut in 0..MESSAGE.len(), noise in prop::collection::vec(any::<u8>(), 0..40)) {
            for raw in [[&MESSAGE.as_bytes()[..cut], &noise].concat(), noise] {
                let count = parse(&raw, summary()).attachments.len();
                prop_assert_eq!(attachment(&raw, count), None);
            }
        }
    }
}
