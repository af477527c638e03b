//! A message as the product knows it once it has been validated.

use chrono::{DateTime, Utc};

use super::address::Mailbox;
use super::id::{MessageId, RecipientId};
use super::outcome::OnUncertain;

/// Where a recipient stands in the message: visible in `To` or `Cc`, or never written down (`Bcc`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecipientKind {
    /// Named in `To`.
    To,
    /// Named in `Cc`.
    Cc,
    /// Named nowhere in the mail.
    Bcc,
}

impl RecipientKind {
    /// The word in SQL, JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::To => "to",
            Self::Cc => "cc",
            Self::Bcc => "bcc",
        }
    }
}

/// A name and a value that the sender attached for its own use; comes back in status and events.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Tag {
    /// 1–256 characters of `A–Z a–z 0–9 _ -`.
    #[schema(example = "kind")]
    pub name: String,
    /// 1–256 characters of `A–Z a–z 0–9 _ -`.
    #[schema(example = "invoice")]
    pub value: String,
}

/// A custom header, already checked against the deny list and for CR, LF and NUL.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Header {
    /// Field name, printable ASCII without a colon (RFC 5322 §2.2).
    pub name: String,
    /// Unstructured value, any Unicode without control characters.
    pub value: String,
}

/// What a message says, apart from who sends and receives it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Plain text body, any line ends.
    pub text: Option<String>,
    /// HTML body, any line ends.
    pub html: Option<String>,
    /// Custom headers in the sender's order.
    pub headers: Vec<Header>,
}

/// An attachment's description; the bytes lie in the blob named by `sha256`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attachment {
    /// File name as shown to the reader, 1–255 characters.
    pub filename: String,
    /// Media type such as `application/pdf` (RFC 2045 §5.1), with parameters if the sender gave some.
    pub content_type: String,
    /// Set for inline parts: the `Content-ID` without angle brackets, as in `cid:` links.
    pub content_id: Option<String>,
    /// Digest of the bytes, as 64 hex digits.
    pub sha256: String,
    /// Size of the bytes.
    pub size: u64,
}

/// One recipient of a new message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecipient {
    /// Its id, with the same time part as the message's.
    pub id: RecipientId,
    /// In which header it stands, if in any.
    pub kind: RecipientKind,
    /// Address and display name.
    pub mailbox: Mailbox,
}

/// A message that passed every check and has not been committed yet. `accept::request` is the only maker.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Its id; the time part is `created_at`.
    pub id: MessageId,
    /// When it was accepted; also its `Date`, unless scheduled.
    pub created_at: DateTime<Utc>,
    /// The sender, header and (until there are return domains) envelope.
    pub from: Mailbox,
    /// 1–50, `to` first, then `cc`, then `bcc`, without duplicates.
    pub recipients: Vec<NewRecipient>,
    /// `Reply-To`, possibly empty.
    pub reply_to: Vec<Mailbox>,
    /// `Subject`, possibly empty.
    pub subject: String,
    /// Bodies and custom headers.
    pub content: Content,
    /// Files and inline images with their bytes, in the sender's order.
    pub attachments: Vec<NewAttachment>,
    /// For the sender's own use.
    pub tags: Vec<Tag>,
    /// For the sender's own use: a JSON object of strings.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// Which stream it travels in.
    pub stream: String,
    /// Not before this time.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// Not after this time.
    pub expires_at: Option<DateTime<Utc>>,
    /// What to do when the link dies after the final dot.
    pub on_uncertain: OnUncertain,
    /// Whether it goes out to suppressed addresses too.
    pub ignore_suppression: bool,
}

impl NewMessage {
    /// Octets of text, html and attachments.
    pub fn size(&self) -> u64 {
        let bodies = [&self.content.text, &self.content.html].into_iter().flatten().map(String::len).sum::<usize>();
        bodies as u64 + self.attachments.iter().map(|attachment| attachment.description.size).sum::<u64>()
    }
}

/// An attachment as it arrived: its description, and its bytes until they are stored.
#[derive(Debug, Clone)]
pub struct NewAttachment {
    /// Name, type, digest and size.
    pub description: Attachment,
    /// The decoded bytes.
    pub data: Vec<u8>,
}

/// All that a message's MIME depends on, so that every attempt and every `raw` renders the same bytes.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The message.
    pub id: MessageId,
    /// `Date`.
    pub date: DateTime<Utc>,
    /// `From`; its domain also names the `Message-ID`.
    pub from: Mailbox,
    /// `To`, possibly empty.
    pub to: Vec<Mailbox>,
    /// `Cc`, possibly empty.
    pub cc: Vec<Mailbox>,
    /// `Reply-To`, possibly empty.
    pub reply_to: Vec<Mailbox>,
    /// `Subject`.
    pub subject: String,
    /// Bodies and custom headers.
    pub content: Content,
    /// Attachments and inline parts with their bytes.
    pub attachments: Vec<(Attachment, Vec<u8>)>,
}
