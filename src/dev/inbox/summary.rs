//! The summary of a message, which is its entry in a list and the content of its `.json` file.

use chrono::{DateTime, Utc};
use mail_parser::parsers::MessageStream;
use mail_parser::{Header, HeaderName, Message};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::smtp::inbound::ReceivedMessage;

/// The sender and recipients of a message by its SMTP envelope, which may differ from its headers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = InboxEnvelope)]
pub struct Envelope {
    /// The address in MAIL FROM; empty for the null sender.
    #[schema(example = "billing@acme.test")]
    pub from: String,
    /// The addresses in RCPT TO, in order. Bcc recipients are only here, and in no header.
    #[schema(example = json!(["ann@example.test"]))]
    pub to: Vec<String>,
    /// The client's name in EHLO.
    #[schema(example = "mail.acme.test")]
    pub helo: String,
}

/// A message in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = InboxSummary)]
pub struct Summary {
    /// The message's number, ascending in the order of arrival.
    #[schema(example = 1)]
    pub n: u64,
    /// When the message arrived.
    #[schema(example = "2026-12-01T09:00:00Z")]
    pub received_at: DateTime<Utc>,
    /// The SMTP envelope.
    pub envelope: Envelope,
    /// The `Subject` header, decoded; null if the message has none.
    #[schema(example = "Your invoice")]
    pub subject: Option<String>,
    /// The `From` header, decoded; null if the message has none.
    #[schema(example = "Acme Billing <billing@acme.test>")]
    pub from: Option<String>,
    /// The `To` header, decoded; null if the message has none.
    #[schema(example = "ann@example.test")]
    pub to: Option<String>,
    /// Size of the raw message, in bytes.
    #[schema(example = 1234)]
    pub size: u64,
}

impl Summary {
    pub(super) fn new(n: u64, received_at: DateTime<Utc>, message: &ReceivedMessage, parsed: &Message<'_>) -> Self {
        let header = |name| first_header(&message.data, parsed, &name);
        let envelope = Envelope { from: message.from.clone(), to: message.to.clone(), helo: message.helo.clone() };
        Self {
            n,
            received_at,
            envelope,
            subject: header(HeaderName::Subject),
            from: header(HeaderName::From),
            to: header(HeaderName::To),
            size: message.data.len() as u64,
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
    #[schema(example = true)]
    pub has_more: bool,
    /// The value of `before` for the next page; null on the last page.
    #[schema(example = 21)]
    pub next: Option<u64>,
}

fn first_header(raw: &[u8], parsed: &Message<'_>, name: &HeaderName<'_>) -> Option<String> {
    // A message without any header has no parts.
    let headers = &parsed.parts.first()?.headers;
    headers.iter().find(|header| header.name == *name).map(|header| decoded(raw, header))
}

/// Returns a header's value on one line, with encoded words (RFC 2047) decoded, regardless of the header's grammar.
pub(super) fn decoded(raw: &[u8], header: &Header<'_>) -> String {
    let bytes = raw.get(header.offset_start as usize..header.offset_end as usize).unwrap_or_default();
    MessageStream::new(bytes).parse_unstructured().as_text().unwrap_or_default().to_owned()
}
