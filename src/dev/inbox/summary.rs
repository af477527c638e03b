//! The summary of a message: an entry of a list, and the content of the message's `.json` file.

use chrono::{DateTime, Utc};
use mail_parser::parsers::MessageStream;
use mail_parser::{Header, HeaderName, Message};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::smtp::inbound::ReceivedMail;

/// The sender and recipients of a message by its SMTP envelope, which may differ from its headers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = InboxEnvelope)]
pub struct Envelope {
    /// The address in MAIL FROM; empty for the null sender.
    pub from: String,
    /// The addresses in RCPT TO, in order; Bcc recipients are only here and in no header.
    pub to: Vec<String>,
    /// The name the client gave in EHLO.
    pub helo: String,
}

/// A message in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = InboxSummary)]
pub struct Summary {
    /// The message's number, ascending in the order of arrival.
    pub n: u64,
    /// When the message arrived.
    pub received_at: DateTime<Utc>,
    /// The SMTP envelope.
    pub envelope: Envelope,
    /// The `Subject` header, decoded.
    pub subject: Option<String>,
    /// The `From` header, decoded.
    pub from: Option<String>,
    /// The `To` header, decoded.
    pub to: Option<String>,
    /// Size of the raw message, in bytes.
    pub size: u64,
}

impl Summary {
    pub(super) fn of(n: u64, received_at: DateTime<Utc>, mail: &ReceivedMail, parsed: &Message<'_>) -> Self {
        let header = |name| first_header(&mail.data, parsed, &name);
        let envelope = Envelope { from: mail.from.clone(), to: mail.to.clone(), helo: mail.helo.clone() };
        Self {
            n,
            received_at,
            envelope,
            subject: header(HeaderName::Subject),
            from: header(HeaderName::From),
            to: header(HeaderName::To),
            size: mail.data.len() as u64,
        }
    }
}

/// A page of messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = InboxPage)]
pub struct Page {
    /// The messages, newest first.
    pub data: Vec<Summary>,
    /// Whether there are older messages.
    pub has_more: bool,
    /// The value of `before` for the next page; null on the last page.
    pub next: Option<u64>,
}

fn first_header(raw: &[u8], parsed: &Message<'_>, name: &HeaderName<'_>) -> Option<String> {
    // A message without any header has no parts.
    let headers = &parsed.parts.first()?.headers;
    headers.iter().find(|header| header.name == *name).map(|header| decoded(raw, header))
}

/// A header's value on one line, with encoded words (RFC 2047) decoded, regardless of the header's grammar.
pub(super) fn decoded(raw: &[u8], header: &Header<'_>) -> String {
    let bytes = raw.get(header.offset_start as usize..header.offset_end as usize).unwrap_or_default();
    MessageStream::new(bytes).parse_unstructured().as_text().unwrap_or_default().to_owned()
}
