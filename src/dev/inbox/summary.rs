//! What a list shows of a mail, and what its `.json` file holds.

use chrono::{DateTime, Utc};
use mail_parser::parsers::MessageStream;
use mail_parser::{Header, HeaderName, Message};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::smtp::inbound::ReceivedMail;

/// Who a mail is from and to by its SMTP envelope, whatever its headers say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = InboxEnvelope)]
pub struct Envelope {
    /// The address in MAIL FROM; empty for the null sender.
    pub from: String,
    /// The addresses in RCPT TO, in order; Bcc recipients are here and in no header.
    pub to: Vec<String>,
    /// The name the client gave in EHLO.
    pub helo: String,
}

/// A mail in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = InboxSummary)]
pub struct Summary {
    /// The mail's number, ascending in the order of arrival.
    pub n: u64,
    /// When it arrived.
    pub received_at: DateTime<Utc>,
    /// Its SMTP envelope.
    pub envelope: Envelope,
    /// The `Subject` header, decoded.
    pub subject: Option<String>,
    /// The `From` header, decoded.
    pub from: Option<String>,
    /// The `To` header, decoded.
    pub to: Option<String>,
    /// Octets of the raw mail.
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

/// The newest mails below a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = InboxPage)]
pub struct Page {
    /// The mails, the newest first.
    pub data: Vec<Summary>,
    /// Whether there are older ones.
    pub has_more: bool,
    /// What to give as `before` for the next page; null on the last.
    pub next: Option<u64>,
}

fn first_header(raw: &[u8], parsed: &Message<'_>, name: &HeaderName<'_>) -> Option<String> {
    // A mail without any header has no parts.
    let headers = &parsed.parts.first()?.headers;
    headers.iter().find(|header| header.name == *name).map(|header| decoded(raw, header))
}

/// A header's value on one line, encoded words (RFC 2047) decoded, whatever the header's own grammar.
pub(super) fn decoded(raw: &[u8], header: &Header<'_>) -> String {
    let bytes = raw.get(header.offset_start as usize..header.offset_end as usize).unwrap_or_default();
    MessageStream::new(bytes).parse_unstructured().as_text().unwrap_or_default().to_owned()
}
