//! Parses messages that were received for inbound routes.
//!
//! [`read`] returns a result for any bytes, in bounded time and memory: parts, depth, header fields and texts are limited.
//! No text in the result contains NUL, which Postgres does not store.

mod reply_text;

use std::borrow::Cow;

use mail_parser::decoders::html::html_to_text;
use mail_parser::{Address, Header, MessageParser};
use serde::{Deserialize, Serialize};

use super::cid::Images;
use super::report::auto_reply;
use super::report::received::parts::{Limits, Part, ReceivedMessage};
use crate::domain::message::message_id;

pub use reply_text::reply_text;

/// How much of a message is examined.
const LIMITS: Limits = Limits { parts: 200, depth: 16 };
/// Maximum encoded bytes of the text and of the HTML.
const MAX_TEXT: usize = 1 << 20;
/// Maximum header fields.
const MAX_HEADERS: usize = 500;
/// Maximum bytes of a header whose signatures are counted.
const MAX_SIGNED_HEADER: usize = 100_000;
/// Maximum characters of the value of a header field.
const MAX_HEADER: usize = 8_000;
/// Maximum characters of an address, a name, a subject or an id.
const MAX_LINE: usize = 998;
/// Maximum characters of the name, the type and the id of an attachment. Lists of messages contain those of all attachments.
const MAX_NAME: usize = 255;
/// Maximum ids of `In-Reply-To` and of `References`.
const MAX_IDS: usize = 50;

/// A parsed message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParsedMessage {
    /// Name and value of each header field, in order; values are unfolded, and encoded words are decoded.
    pub headers: Vec<(String, String)>,
    /// The first address in `From`.
    pub from_address: Option<String>,
    /// Its name.
    pub from_name: Option<String>,
    /// The decoded `Subject`; empty if there is none.
    pub subject: String,
    /// The `Message-ID`, without angle brackets.
    pub message_id: Option<String>,
    /// The ids in `In-Reply-To`, without angle brackets.
    pub in_reply_to: Vec<String>,
    /// The ids in `References`, without angle brackets; the latest one is the last.
    pub references: Vec<String>,
    /// The plain text.
    pub text: Option<String>,
    /// The HTML.
    pub html: Option<String>,
    /// The text without quoted messages and without the signature, from the plain text or else from the HTML.
    pub reply_text: Option<String>,
    /// All other parts.
    pub attachments: Vec<ReceivedAttachment>,
    /// The rule by which the message is an automatic reply.
    pub auto_reply: Option<&'static str>,
    /// How many servers it has passed: the number of its `Received` fields.
    pub hops: usize,
    /// The number of its signatures of DKIM and ARC. If the header is too long to be examined as a whole, the maximum.
    pub signatures: usize,
}

/// A part of a received message that is not its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedAttachment {
    /// The file name.
    pub filename: Option<String>,
    /// The media type, without parameters.
    pub content_type: String,
    /// The id that HTML refers to as `cid:…`.
    pub content_id: Option<String>,
    /// Whether it is to be shown within the text.
    pub inline: bool,
    /// The decoded size in bytes.
    pub size: u64,
}

/// Parses a message.
pub fn read(mime: &[u8]) -> ParsedMessage {
    let message = ReceivedMessage::read_within(mime, LIMITS);
    let parsed = MessageParser::default().parse_headers(message.header);
    let from = parsed.as_ref().and_then(|parsed| parsed.from()).and_then(Address::first);
    let text = text(&message, "text/plain");
    let html = text_of_html(&message);
    // Only header fields: a subject such as "Vacation plans" may be that of a person.
    let auto_reply = auto_reply::rule(&message).filter(|rule| *rule != "vacation-subject");
    let ids = |name: &str| -> Vec<String> {
        let ids = message.fields.all(name).flat_map(message_id::ids).map(line);
        ids.take(MAX_IDS).collect()
    };
    let all_ids = |name: &str| -> Vec<String> {
        let mut all: Vec<String> = message.fields.all(name).flat_map(message_id::ids).map(line).collect();
        all.split_off(all.len().saturating_sub(MAX_IDS))
    };
    let readable = text.clone().or_else(|| html.as_deref().map(html_to_text));
    ParsedMessage {
        headers: parsed.as_ref().map(|parsed| headers(message.header, parsed.headers())).unwrap_or_default(),
        from_address: from.and_then(|from| from.address.as_deref()).map(line).filter(|address| address.contains('@')),
        from_name: from.and_then(|from| from.name.as_deref()).map(line).filter(|name| !name.is_empty()),
        subject: line(&message.subject),
        message_id: message.fields.get("message-id").and_then(message_id::only_id).map(line),
        in_reply_to: ids("in-reply-to"),
        references: all_ids("references"),
        // A character reference in the HTML may stand for NUL.
        reply_text: readable.map(|text| reply_text(&without_nul(&text))),
        text,
        html,
        attachments: attachments(&message).map(|part| attachment_of(part)).collect(),
        auto_reply,
        hops: message.fields.all("received").count(),
        signatures: signatures(&message),
    }
}

/// Returns the decoded bytes of an attachment, counted from 0.
pub fn attachment(mime: &[u8], n: usize) -> Option<(ReceivedAttachment, Vec<u8>)> {
    let message = ReceivedMessage::read_within(mime, LIMITS);
    let part = attachments(&message).nth(n)?;
    Some((attachment_of(part), part.bytes().into_owned()))
}

/// Returns the HTML with the images that are parts of the message in place of its `cid:` references.
pub fn with_images(html: &str, mime: &[u8]) -> String {
    let message = ReceivedMessage::read_within(mime, LIMITS);
    let mut images = Images::wanted_by(html);
    for part in attachments(&message) {
        // Only wanted parts are decoded.
        let Some(id) = part.content_id.as_deref().filter(|id| images.wants(id, &part.kind, 0)) else { continue };
        let bytes = part.bytes();
        if images.wants(id, &part.kind, bytes.len() as u64) {
            images.add(id, &part.kind, &bytes);
        }
    }
    images.embed(html)
}

fn signatures(message: &ReceivedMessage<'_>) -> usize {
    let is_whole = message.header.len() < MAX_SIGNED_HEADER && message.fields.len() < MAX_HEADERS;
    let count = |name: &str| message.fields.all(name).count();
    let names = ["dkim-signature", "arc-message-signature", "arc-seal", "dkim2-signature"];
    if is_whole { names.into_iter().map(count).sum() } else { usize::MAX }
}

fn attachments<'m, 'a>(message: &'m ReceivedMessage<'a>) -> impl Iterator<Item = &'m Part<'a>> {
    message.parts.iter().filter(|part| !is_text(part, "text/plain") && !is_text(part, "text/html"))
}

fn attachment_of(part: &Part<'_>) -> ReceivedAttachment {
    ReceivedAttachment {
        filename: part.filename.as_deref().map(name).filter(|name| !name.is_empty()),
        content_type: name(&part.kind),
        content_id: part.content_id.as_deref().map(name).filter(|id| !id.is_empty()),
        inline: part.disposition.as_deref() != Some("attachment") && part.content_id.is_some(),
        size: part.bytes().len() as u64,
    }
}

/// Returns whether a part is a text of this type, and not an attached file.
fn is_text(part: &Part<'_>, kind: &str) -> bool {
    part.kind == kind && part.filename.is_none() && part.disposition.as_deref() != Some("attachment")
}

/// Returns the texts of one type, which is one text unless the message is a list of texts.
fn text(message: &ReceivedMessage<'_>, kind: &str) -> Option<String> {
    let mut left = MAX_TEXT;
    let texts: Vec<String> = message
        .parts
        .iter()
        .filter(|part| is_text(part, kind))
        .map(|part| {
            let text = part.text_within(left);
            left = left.saturating_sub(part.body().len());
            without_nul(&text).replace("\r\n", "\n")
        })
        .collect();
    let text = texts.join("\n");
    // A message without a body has an empty text.
    (!texts.is_empty()).then_some(text)
}

fn text_of_html(message: &ReceivedMessage<'_>) -> Option<String> {
    text(message, "text/html").filter(|html| !html.trim().is_empty())
}

fn headers(raw: &[u8], headers: &[Header<'_>]) -> Vec<(String, String)> {
    let one =
        |header: &Header<'_>| (line(header.name.as_str()), cut(&super::content::decoded(raw, header), MAX_HEADER));
    headers.iter().take(MAX_HEADERS).map(one).collect()
}

/// Returns one line, without control characters.
fn line(text: &str) -> String {
    line_of(text, MAX_LINE)
}

/// Returns a name of an attachment: one short line.
fn name(text: &str) -> String {
    line_of(text, MAX_NAME)
}

fn line_of(text: &str, characters: usize) -> String {
    let line = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(characters).collect()
}

fn cut(text: &str, characters: usize) -> String {
    without_nul(text).chars().take(characters).collect()
}

fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REPLY: &str = "From: =?utf-8?q?Bo_=C3=85?= <bo@example.test>\r\nTo: support@reply.acme.test\r\n\
        Subject: Re: =?utf-8?q?caf=C3=A9?=\r\nMessage-ID: <r1@example.test>\r\nIn-Reply-To: <m2@acme.test>\r\n\
        References: <m1@acme.test>\r\n <m2@acme.test>\r\nReceived: from a\r\nReceived: from b\r\n\
        Content-Type: multipart/mixed; boundary=m\r\n\r\n\
        --m\r\nContent-Type: multipart/alternative; boundary=a\r\n\r\n\
        --a\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
        Oui, un caf=C3=A9.\r\n\r\nOn Monday, Acme wrote:\r\n> Caf=C3=A9?\r\n\
        --a\r\nContent-Type: text/html\r\n\r\n<p>Oui</p>\r\n--a--\r\n\
        --m\r\nContent-Type: application/pdf; name=\"a.pdf\"\r\nContent-Disposition: attachment; filename=\"a.pdf\"\r\n\
        Content-Transfer-Encoding: base64\r\n\r\nJVBERi0=\r\n\
        --m\r\nContent-Type: image/png\r\nContent-ID: <logo>\r\nContent-Transfer-Encoding: base64\r\n\r\nAAA=\r\n\
        --m\r\nContent-Type: text/plain; name=notes.txt\r\nContent-Disposition: attachment\r\n\r\nnotes\r\n--m--\r\n";

    fn has_nul(parsed: &ParsedMessage) -> bool {
        let fields = parsed.headers.iter().flat_map(|(name, value)| [name, value]);
        let ids = parsed.message_id.iter().chain(&parsed.in_reply_to).chain(&parsed.references);
        let texts = parsed.text.iter().chain(&parsed.html).chain(&parsed.reply_text);
        let from = parsed.from_address.iter().chain(&parsed.from_name).chain([&parsed.subject]);
        let files = parsed
            .attachments
            .iter()
            .flat_map(|one| one.filename.iter().chain(&one.content_id).chain([&one.content_type]));
        fields.chain(ids).chain(texts).chain(from).chain(files).any(|text| text.contains('\0'))
    }

    #[test]
    fn message_is_parsed_into_its_parts() {
        let parsed = read(REPLY.as_bytes());
        assert_eq!(parsed.from_address.as_deref(), Some("bo@example.test"));
        assert_eq!(parsed.from_name.as_deref(), Some("Bo Å"));
        assert_eq!((parsed.subject.as_str(), parsed.hops), ("Re: café", 2));
        assert_eq!(parsed.message_id.as_deref(), Some("r1@example.test"));
        assert_eq!(parsed.in_reply_to, ["m2@acme.test"]);
        assert_eq!(parsed.references, ["m1@acme.test", "m2@acme.test"]);
        assert_eq!(parsed.reply_text.as_deref(), Some("Oui, un café."));
        assert!(parsed.text.is_some_and(|text| text.contains("> Café?")));
        assert_eq!(parsed.html.as_deref().map(str::trim), Some("<p>Oui</p>"));
        assert_eq!(parsed.headers.first().map(|(name, _)| name.as_str()), Some("From"));
        let names: Vec<_> = parsed.attachments.iter().map(|one| one.filename.as_deref()).collect();
        assert_eq!(names, [Some("a.pdf"), None, Some("notes.txt")]);
        assert_eq!(parsed.attachments.iter().map(|one| one.inline).collect::<Vec<_>>(), [false, true, false]);
        let (first, bytes) = attachment(REPLY.as_bytes(), 0).unwrap();
        assert_eq!((first.size, bytes.as_slice()), (5, &b"%PDF-"[..]));
        assert_eq!(attachment(REPLY.as_bytes(), 3), None);
    }

    #[test]
    fn automatic_replies_are_recognised_by_their_headers() {
        for (header, is_auto) in [
            ("Auto-Submitted: auto-replied", true),
            ("Auto-Submitted: no", false),
            ("X-Autoreply: yes", true),
            ("Precedence: auto_reply", true),
            ("Subject: Vacation plans", false),
        ] {
            let parsed = read(format!("{header}\r\n\r\nHi\r\n").as_bytes());
            assert_eq!(parsed.auto_reply.is_some(), is_auto, "{header}");
        }
    }

    #[test]
    fn images_that_are_parts_are_embedded() {
        let html = "<img src=\"cid:logo\"><img src=\"cid:none\">";
        let embedded = "<img src=\"data:image/png;base64,AAA=\"><img src=\"cid:none\">";
        assert_eq!(with_images(html, REPLY.as_bytes()), embedded);
    }

    #[test]
    fn hostile_structures_are_bounded() {
        let nested = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n".repeat(50_000);
        assert!(read(&nested).attachments.len() <= LIMITS.parts);
        let many = b"--x\r\nContent-Type: image/png\r\n\r\na\r\n".repeat(50_000);
        let many = [&b"Content-Type: multipart/mixed; boundary=x\r\n\r\n"[..], &many].concat();
        assert!(read(&many).attachments.len() <= LIMITS.parts);
        let messages = b"Content-Type: message/rfc822\r\n\r\n".repeat(50_000);
        assert_eq!(read(&messages).attachments.len(), 1);
        let fields = b"X: y\r\n".repeat(200_000);
        assert!(read(&fields).headers.len() <= MAX_HEADERS);
        let part = format!("--x\r\nContent-Type: image/png; name=\"{}\"\r\n\r\na\r\n", "n".repeat(900));
        let named = format!("Content-Type: multipart/mixed; boundary=x\r\n\r\n{}", part.repeat(300));
        let names: usize =
            read(named.as_bytes()).attachments.iter().filter_map(|one| Some(one.filename.as_ref()?.len())).sum();
        assert!((1..=LIMITS.parts * MAX_NAME).contains(&names), "{names}");
        assert_eq!(with_images("<img src=cid:a>", &nested), "<img src=cid:a>");
        assert_eq!(with_images("<img src=cid:a>", &messages), "<img src=cid:a>");
        for mime in [&b"Subject: a\0b\r\nX\0: c\0\r\n\r\n\0text\0"[..], b"Content-Type: text/html\r\n\r\n<p>&#0;text"] {
            let nul = read(mime);
            assert!(!has_nul(&nul), "{nul:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(mime in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(!has_nul(&read(&mime)));
        }

        #[test]
        fn any_mixture_of_fields_is_read(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "Content-Type: multipart/mixed; boundary=\"b\"\r\n", "Content-Type: text/html; charset=utf-7\r\n", "--b\r\n",
                "--b--\r\n", "\r\n", "Content-Transfer-Encoding: base64\r\n", "=?utf-8?b?AAAA?=\r\n", "Subject: =?x?q?",
                "From: <<>>,;:@\r\n", "References: <a@b><", "\0", "Content-Disposition: attachment; filename*=utf-8''%00\r\n",
                "<p>\r\n", "> quoted\r\n", "On x wrote:\r\n", "Content-Type: text/html\r\n", "&#0;",
            ]), 0..40),
        ) {
            let mime = pieces.concat();
            let parsed = read(mime.as_bytes());
            prop_assert!(!has_nul(&parsed));
            prop_assert_eq!(attachment(mime.as_bytes(), parsed.attachments.len()), None);
        }
    }
}
