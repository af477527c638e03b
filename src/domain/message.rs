//! Validated messages.

use chrono::{DateTime, Utc};

use super::address::Mailbox;
use super::id::{MessageId, RecipientId};
use super::outcome::OnUncertain;
use super::template::TemplateVersion;

/// The header that names a recipient: `To`, `Cc`, or none (`Bcc`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecipientKind {
    /// Named in `To`.
    To,
    /// Named in `Cc`.
    Cc,
    /// Not named in the message.
    Bcc,
}

impl RecipientKind {
    /// Returns the kind's name in SQL, JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::To => "to",
            Self::Cc => "cc",
            Self::Bcc => "bcc",
        }
    }
}

/// A name and a value that the sender attaches to a message; returned with the message and its events.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Tag {
    /// The tag's name: 1–256 characters of `A–Z a–z 0–9 _ -`.
    #[schema(example = "kind")]
    pub name: String,
    /// The tag's value: 1–256 characters of `A–Z a–z 0–9 _ -`.
    #[schema(example = "invoice")]
    pub value: String,
}

/// A custom header. It is not on the deny list, and has no CR, LF or NUL.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Header {
    /// Field name, printable ASCII without a colon (RFC 5322 §2.2).
    pub name: String,
    /// Unstructured value, any Unicode without control characters.
    pub value: String,
}

/// A message's bodies and custom headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Plain text body, with any line endings.
    pub text: Option<String>,
    /// HTML body, with any line endings.
    pub html: Option<String>,
    /// Custom headers in the sender's order.
    pub headers: Vec<Header>,
}

/// An attachment's description; the bytes are in the blob named by `sha256`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attachment {
    /// File name that the reader sees, 1–255 characters.
    pub filename: String,
    /// Media type such as `application/pdf` (RFC 2045 §5.1), including any parameters that the sender set.
    pub content_type: String,
    /// The `Content-ID` of an inline part without angle brackets, as in `cid:` links; `None` for other attachments.
    pub content_id: Option<String>,
    /// SHA-256 of the bytes, as 64 hexadecimal digits.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
}

/// One recipient of a new message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecipient {
    /// The recipient's id, with the same time part as the message's id.
    pub id: RecipientId,
    /// The header that names the recipient, if any.
    pub kind: RecipientKind,
    /// Address and display name.
    pub mailbox: Mailbox,
}

/// A validated message that is not committed yet. Created only by `accept::request`.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// The message's id; its time part is `created_at`.
    pub id: MessageId,
    /// The time at which the message was accepted; also its `Date`, unless it is scheduled.
    pub created_at: DateTime<Utc>,
    /// The sender in `From`, and in the envelope if no return path is configured.
    pub from: Mailbox,
    /// 1–50 recipients without duplicates: first `to`, then `cc`, then `bcc`.
    pub recipients: Vec<NewRecipient>,
    /// `Reply-To`, possibly empty.
    pub reply_to: Vec<Mailbox>,
    /// `Subject`, possibly empty.
    pub subject: String,
    /// Bodies and custom headers.
    pub content: Content,
    /// Files and inline images with their bytes, in the sender's order.
    pub attachments: Vec<NewAttachment>,
    /// Tags that the sender attached.
    pub tags: Vec<Tag>,
    /// Metadata that the sender attached: a JSON object of strings.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// The message's stream.
    pub stream: String,
    /// No attempt starts before this time.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// No attempt starts after this time.
    pub expires_at: Option<DateTime<Utc>>,
    /// What to do if the connection drops after the final dot.
    pub on_uncertain: OnUncertain,
    /// Whether the message is also sent to suppressed addresses.
    pub ignore_suppression: bool,
    /// The template that the bodies were rendered from.
    pub template: Option<TemplateVersion>,
    /// Problems to report in the response.
    pub warnings: Vec<Warning>,
}

/// A problem that does not prevent the message from being accepted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = MessageWarning)]
pub struct Warning {
    /// Stable, machine-readable code: `domain_not_registered`, `domain_not_verified`, `not_signed`, `dmarc_fails`,
    /// `dmarc_strict_alignment`, `return_path_not_aligned`, `unsubscribe_needs_one_recipient`, `unknown_variable`; in a
    /// dry run also `not_configured`.
    #[schema(example = "domain_not_verified")]
    pub code: &'static str,
    /// The problem and how to fix it.
    #[schema(example = "The DKIM records of acme.test were not found in the DNS.")]
    pub message: String,
}

impl NewMessage {
    /// Returns the size of text, html and attachments, in bytes.
    pub fn size(&self) -> u64 {
        let bodies = [&self.content.text, &self.content.html].into_iter().flatten().map(String::len).sum::<usize>();
        bodies as u64 + self.attachments.iter().map(|attachment| attachment.description.size).sum::<u64>()
    }
}

/// An attachment that is not stored yet.
#[derive(Debug, Clone)]
pub struct NewAttachment {
    /// Name, type, digest and size.
    pub description: Attachment,
    /// The decoded bytes.
    pub data: Vec<u8>,
}

/// Everything that a message's MIME depends on, so that every attempt and every `GET …/raw` renders the same bytes.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The message's id.
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
