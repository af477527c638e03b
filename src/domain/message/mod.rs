//! Validated messages.

pub mod action;
pub mod attachment_link;
pub mod bulk;
pub mod header_syntax;
pub mod message_id;
pub mod search;
pub mod template;
pub mod unsubscribe;

use chrono::{DateTime, Utc};

use super::address::{Address, Mailbox};
use super::id::{InboundRouteId, MessageId, ReceivedId, RecipientId};
use super::outcome::OnUncertain;
use bulk::BulkMember;
use template::TemplateVersion;

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

impl Content {
    /// Returns the size of text and html, in bytes.
    pub fn size(&self) -> usize {
        [&self.text, &self.html].into_iter().flatten().map(String::len).sum()
    }
}

/// How a message uses the bytes of an attachment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachmentRole {
    /// A file or an inline part.
    #[default]
    File,
    /// Another form of the text, such as an invitation: a part of `multipart/alternative`, without a disposition.
    Alternative,
    /// The whole message as finished MIME, which is sent as it is, with the fields that it lacks. It is the message's
    /// only attachment.
    Mime,
    /// The whole message as another server passed it to this one. It is passed on byte for byte, without a signature. It is
    /// the message's only attachment.
    Relayed,
}

impl AttachmentRole {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
    fn is_file(&self) -> bool {
        *self == Self::File
    }
}

/// An attachment's description; the bytes are in the blob named by `sha256`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attachment {
    /// File name that the reader sees, 1–255 characters; empty for an alternative that is not a file.
    pub filename: String,
    /// Media type such as `application/pdf` (RFC 2045 §5.1), including any parameters that the sender set.
    pub content_type: String,
    /// The `Content-ID` of an inline part without angle brackets, as in `cid:` links; `None` for other attachments.
    pub content_id: Option<String>,
    /// SHA-256 of the bytes, as 64 hexadecimal digits.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
    /// How the message uses the bytes.
    #[serde(default, skip_serializing_if = "AttachmentRole::is_file")]
    pub role: AttachmentRole,
}

impl Attachment {
    /// Returns whether the API lists the attachment: the application passed it as a file.
    pub fn is_listed(&self) -> bool {
        match self.role {
            AttachmentRole::File => true,
            AttachmentRole::Alternative => !self.filename.is_empty(),
            AttachmentRole::Mime | AttachmentRole::Relayed => false,
        }
    }
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

/// A validated message that is not committed yet. `accept::request` creates it from a request, and `accept::bulk` from
/// a recipient of a bulk.
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
    /// The Message-ID in its finished MIME, without angle brackets; `None` means that it is derived from the message's
    /// id (see [`message_id`]).
    pub message_id: Option<String>,
    /// The earlier message that this one replies to, from which `In-Reply-To` and `References` are set before the
    /// commit.
    pub in_reply_to: Option<MessageId>,
    /// The template that the bodies were rendered from.
    pub template: Option<TemplateVersion>,
    /// The bulk that the message belongs to. Such a message has the content of the bulk.
    pub bulk: Option<Box<BulkMember>>,
    /// The received message that the message passes on.
    pub relay: Option<RelayOf>,
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

/// The received message that a message passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayOf {
    /// The received message.
    pub received: ReceivedId,
    /// The inbound route to whose server it is sent; `None` if it is sent like other messages, because it is a bounce to a rewritten
    /// sender ([`srs`](super::address::srs)).
    pub route: Option<InboundRouteId>,
}

impl NewMessage {
    /// Returns whether the null sender is in the envelope, as for reports of failed deliveries (RFC 5321 §4.5.5).
    pub fn has_null_sender(&self) -> bool {
        self.content.headers.iter().any(|header| header.name == ENVELOPE_SENDER && header.value.is_empty())
    }

    /// Returns the size of text, html and attachments, in bytes.
    pub fn size(&self) -> u64 {
        let stored = self.bulk.as_ref().map_or(0, |member| member.stored_size);
        stored
            + self.content.size() as u64
            + self.attachments.iter().map(|attachment| attachment.description.size).sum::<u64>()
    }
}

/// An attachment of a message that is not committed yet.
#[derive(Debug, Clone)]
pub struct NewAttachment {
    /// Name, type, digest and size.
    pub description: Attachment,
    /// The decoded bytes; empty if the blob is stored already.
    pub data: Vec<u8>,
}

impl NewAttachment {
    /// Returns whether the bytes are not in memory, because the blob was stored before the request was parsed.
    pub fn is_stored(&self) -> bool {
        self.data.len() as u64 != self.description.size
    }
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

/// The header in which a message with finished MIME keeps the envelope sender that the application passed, and a message
/// that is passed on the one with which it is; empty for the null sender. It is never sent: only the receiving server writes
/// it (RFC 5321 §4.4).
pub const ENVELOPE_SENDER: &str = "Return-Path";

impl Draft {
    /// Returns the finished MIME of the message, if the application passed it.
    pub fn mime(&self) -> Option<&[u8]> {
        let mime = self.attachments.iter().find(|(file, _)| file.role == AttachmentRole::Mime);
        mime.map(|(_, data)| data.as_slice())
    }

    /// Returns the message that is passed on as it was received, if this is one.
    pub fn relayed(&self) -> Option<&[u8]> {
        let relayed = self.attachments.iter().find(|(file, _)| file.role == AttachmentRole::Relayed);
        relayed.map(|(_, data)| data.as_slice())
    }

    /// Returns the envelope sender that must not be replaced by a return path: that of a message that is passed on, and the
    /// null sender (`Some(None)`) of a report.
    pub fn fixed_envelope_sender(&self) -> Option<Option<Address>> {
        let given = self.given_envelope_sender()?;
        if given.is_empty() {
            return Some(None);
        }
        self.relayed()?;
        // Only addresses are stored. The null sender is the safe one for anything else: no bounce follows.
        Some(given.parse().ok())
    }

    /// Returns the envelope sender for when no return path is configured: the address in `From`, unless the application
    /// passed finished MIME with another one.
    pub fn envelope_sender(&self) -> Address {
        let given = self.given_envelope_sender().filter(|_| self.mime().is_some());
        given.and_then(|given| given.parse().ok()).unwrap_or_else(|| self.from.address.clone())
    }

    fn given_envelope_sender(&self) -> Option<&str> {
        self.content.headers.iter().find(|header| header.name == ENVELOPE_SENDER).map(|header| header.value.as_str())
    }
}
