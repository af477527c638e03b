//! Messages and recipients in API responses.

use std::collections::HashMap;
use std::str::FromStr as _;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::db::messages::{MessageRow, RecipientRow};
use crate::domain::delivery::{MessageStatus, Status};
use crate::domain::event::BounceView;
use crate::domain::explain::SmtpReply;
use crate::domain::id::{BulkId, KeyId, MessageId, ReceivedId, RecipientId, TemplateId, TenantId};
use crate::domain::message::{Attachment, AttachmentRole, NewMessage, message_id};
use crate::http::messages::sender::Warning;

/// The response to an accepted message.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = AcceptedMessage)]
pub struct Accepted {
    /// The message's id.
    #[schema(value_type = String, example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: MessageId,
    /// The value of the message's `Message-ID` header, in angle brackets.
    #[schema(example = "<019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b@acme.test>")]
    pub message_id: String,
    /// The message's status: `queued`, `scheduled` if it waits for `scheduled_at`, or `suppressed` if all recipients
    /// are suppressed.
    pub status: Status,
    /// When the message was accepted.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
    /// The recipients, in the order of the request.
    pub recipients: Vec<AcceptedRecipient>,
    /// Problems found by the last verification of the sender's domain that may affect delivery, and variables that the
    /// template does not declare. Omitted if there are none, and if a request is repeated with its `Idempotency-Key`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// A recipient of an accepted message.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct AcceptedRecipient {
    /// The recipient's id.
    #[schema(value_type = String, example = "rcp_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: RecipientId,
    /// The recipient's address.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// The recipient's role: `to`, `cc` or `bcc`.
    #[schema(value_type = crate::domain::message::RecipientKind, example = "to")]
    pub kind: String,
    /// The recipient's state: `queued`, `scheduled`, or `suppressed` if its address is on the suppression list.
    pub status: Status,
}

impl Accepted {
    /// Creates the response for a new message.
    pub fn from_new(message: &NewMessage) -> Self {
        let status = first_status(message.created_at, message.scheduled_at);
        let recipients = message.recipients.iter().map(|recipient| AcceptedRecipient {
            id: recipient.id,
            address: recipient.mailbox.address.to_string(),
            kind: recipient.kind.as_str().to_owned(),
            status,
        });
        let from = message.from.address.to_string();
        Self {
            id: message.id,
            message_id: message_id::header_value(message.id, message.message_id.as_deref(), &from),
            status,
            created_at: message.created_at,
            recipients: recipients.collect(),
            warnings: Vec::new(),
        }
    }

    /// Marks these recipients as suppressed.
    pub fn suppress(&mut self, suppressed: &[RecipientId]) {
        for recipient in self.recipients.iter_mut().filter(|recipient| suppressed.contains(&recipient.id)) {
            recipient.status = Status::Suppressed;
        }
        if self.recipients.iter().all(|recipient| recipient.status == Status::Suppressed) {
            self.status = Status::Suppressed;
        }
    }

    /// Creates the same response for a stored message.
    pub fn from_stored(message: &MessageRow, recipients: Vec<RecipientRow>) -> Self {
        let status = first_status(message.created_at, message.scheduled_at);
        // A recipient that was suppressed from the start ended when the message was accepted.
        let suppressed: Vec<RecipientId> = recipients
            .iter()
            .filter(|row| row.status == Status::Suppressed.as_str() && row.finished_at == Some(message.created_at))
            .map(|row| RecipientId(row.id))
            .collect();
        let recipients = recipients.into_iter().map(|recipient| AcceptedRecipient {
            id: RecipientId(recipient.id),
            address: recipient.address,
            kind: recipient.kind,
            status,
        });
        let mut accepted = Self {
            id: MessageId(message.id),
            message_id: message_id_of(message),
            status,
            created_at: message.created_at,
            recipients: recipients.collect(),
            warnings: Vec::new(),
        };
        accepted.suppress(&suppressed);
        accepted
    }
}

/// Returns the value of a stored message's `Message-ID` header.
fn message_id_of(row: &MessageRow) -> String {
    message_id::header_value(MessageId(row.id), row.internet_message_id.as_deref(), &row.from_address)
}

fn first_status(created_at: DateTime<Utc>, scheduled_at: Option<DateTime<Utc>>) -> Status {
    if scheduled_at.is_some_and(|at| at > created_at) { Status::Scheduled } else { Status::Queued }
}

/// A message with its recipients' states.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(clippy::struct_field_names, reason = "the name of the field in the API")]
pub struct Message {
    /// The message's id.
    #[schema(value_type = String, example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: MessageId,
    /// The value of the message's `Message-ID` header, in angle brackets.
    #[schema(example = "<019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b@acme.test>")]
    pub message_id: String,
    /// The message's status: the most urgent of its recipients' states, or `partial` if they have different end states.
    pub status: MessageStatus,
    /// When the message was accepted.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
    /// The sender's address and display name.
    pub from: MailboxView,
    /// The reply-to addresses.
    #[schema(value_type = Vec<MailboxView>)]
    pub reply_to: Value,
    /// The subject of the message.
    #[schema(example = "Your invoice")]
    pub subject: String,
    /// The message's stream.
    #[schema(example = "transactional")]
    pub stream: String,
    /// The tags, as given.
    #[schema(value_type = Vec<crate::domain::message::Tag>)]
    pub tags: Value,
    /// The metadata, as given.
    #[schema(value_type = crate::domain::api::open_object::MessageMetadata, example = json!({"order": "42"}))]
    pub metadata: Value,
    /// The time before which no attempt starts; null if none was given.
    #[schema(example = "2026-12-01T09:00:00Z")]
    pub scheduled_at: Option<DateTime<Utc>>,
    /// The time after which no attempt starts; null if none was given.
    #[schema(example = "2026-12-01T09:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
    /// What happens if the connection drops before the server's final reply: `retry`, `hold` or `fail`.
    #[schema(value_type = crate::domain::outcome::OnUncertain, example = "retry")]
    pub on_uncertain: String,
    /// Whether the message is also sent to suppressed addresses.
    #[schema(example = false)]
    pub ignore_suppression: bool,
    /// The size in bytes of text, HTML and attachments.
    #[schema(example = 48_213)]
    pub size: i64,
    /// The template and the version that the bodies were rendered from; null if the message has none.
    pub template: Option<UsedTemplate>,
    /// The bulk that the message belongs to; null if it was sent in another way.
    #[schema(value_type = Option<String>, example = "blk_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub bulk_id: Option<BulkId>,
    /// The received message (`GET /v1/received/{id}`) that the message passes on; null for other messages.
    #[schema(value_type = Option<String>, example = json!(null))]
    pub received_id: Option<ReceivedId>,
    /// The API key that the message was sent with; null if an earlier version accepted it, or if no key sent it.
    #[schema(value_type = Option<String>, example = "key_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub key_id: Option<KeyId>,
    /// Whether the message was sent with a test key, so that its last hop is simulated.
    #[schema(example = false)]
    pub test: bool,
    /// When the message's content was deleted, because of its age or by request; null if it is stored. Without content, the
    /// message cannot be read, downloaded or sent again.
    #[schema(example = json!(null))]
    pub content_deleted_at: Option<DateTime<Utc>>,
    /// The recipients, in the order of the request.
    pub recipients: Vec<Recipient>,
    /// The attachments, in the order of the request; omitted in lists. Empty if the message was passed as finished MIME.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Vec<MessageAttachment>>,
    /// The alternatives, in the order of the request; omitted in lists and if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alternatives: Option<Vec<MessageAlternative>>,
}

/// The template that a message was rendered from.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = MessageTemplate)]
pub struct UsedTemplate {
    /// The template's id.
    #[schema(value_type = String, example = "tpl_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: TemplateId,
    /// The template's alias; null if it has none, or was deleted.
    #[schema(example = "invoice")]
    pub alias: Option<String>,
    /// The version.
    #[schema(example = 3)]
    pub version: i32,
}

/// A message's state without its content, for callers that may send but not read.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct MessageState {
    /// The message's id.
    #[schema(value_type = String, example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: MessageId,
    /// The message's status, as in `GET /v1/messages/{id}`.
    pub status: MessageStatus,
    /// The time before which no attempt starts; null if none was given.
    #[schema(example = "2026-12-01T09:00:00Z")]
    pub scheduled_at: Option<DateTime<Utc>>,
    /// The recipients, in the order of the request.
    pub recipients: Vec<RecipientState>,
}

/// A recipient's state.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RecipientState {
    /// The recipient's id.
    #[schema(value_type = String, example = "rcp_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: RecipientId,
    /// The recipient's address.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// The recipient's role: `to`, `cc` or `bcc`.
    #[schema(value_type = crate::domain::message::RecipientKind, example = "to")]
    pub kind: String,
    /// The recipient's state.
    pub status: Status,
    /// When the next attempt is due; null if none is.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub next_attempt_at: Option<DateTime<Utc>>,
}

impl From<Message> for MessageState {
    fn from(message: Message) -> Self {
        let recipients = message.recipients.into_iter().map(|recipient| RecipientState {
            id: recipient.id,
            address: recipient.address,
            kind: recipient.kind,
            status: recipient.status,
            next_attempt_at: recipient.next_attempt_at,
        });
        Self {
            id: message.id,
            status: message.status,
            scheduled_at: message.scheduled_at,
            recipients: recipients.collect(),
        }
    }
}

/// An email address with its display name.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Mailbox)]
pub struct MailboxView {
    /// The email address.
    #[schema(example = "billing@acme.test")]
    pub email: String,
    /// The display name; null if there is none.
    #[schema(example = "Acme Billing")]
    pub name: Option<String>,
}

/// A recipient of a message, with its state.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Recipient {
    /// The recipient's id.
    #[schema(value_type = String, example = "rcp_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: RecipientId,
    /// The recipient's address.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// The recipient's display name; null if there is none.
    #[schema(example = "Ann")]
    pub name: Option<String>,
    /// The recipient's role: `to`, `cc` or `bcc`.
    #[schema(value_type = crate::domain::message::RecipientKind, example = "to")]
    pub kind: String,
    /// The recipient's state.
    pub status: Status,
    /// The number of attempts.
    #[schema(example = 1)]
    pub attempts: i16,
    /// When the last attempt started; null if there was none.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// When the next attempt is due; null if none is.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When the recipient reached its end state; null if it has not.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub finished_at: Option<DateTime<Utc>>,
    /// Why the recipient is held for an operator; null if it is not.
    pub held: Option<String>,
    /// The server's last reply, or the error of the last attempt; null if there is none.
    pub response: Option<SmtpReply>,
    /// The host of the last attempt; null if there was none.
    #[schema(example = "mx1.example.test")]
    pub mx: Option<String>,
    /// The TLS version and cipher of the last attempt; null without TLS.
    #[schema(example = "TLSv1.3 TLS13_AES_256_GCM_SHA384")]
    pub tls: Option<String>,
    /// The classification of the bounce; null if the recipient has not bounced.
    pub bounce: Option<BounceView>,
}

/// An attachment of a message; its content is at `GET /v1/messages/{id}/attachments/{n}`.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct MessageAttachment {
    /// The file name, as given.
    #[schema(example = "invoice.pdf")]
    pub filename: String,
    /// The content type as given, or derived from the file name.
    #[schema(example = "application/pdf")]
    pub content_type: String,
    /// The size in bytes.
    #[schema(example = 48_213)]
    pub size: u64,
    /// The content id of an inline attachment, which the HTML references as `cid:…`; null for other attachments.
    #[schema(example = "logo")]
    pub content_id: Option<String>,
    /// The SHA-256 hash of the content, in hexadecimal.
    #[schema(example = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    pub sha256: String,
}

impl From<Attachment> for MessageAttachment {
    fn from(file: Attachment) -> Self {
        let Attachment { filename, content_type, content_id, sha256, size, .. } = file;
        Self { filename, content_type, size, content_id, sha256 }
    }
}

/// Another form of a message's text, such as an invitation.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct MessageAlternative {
    /// The content type, as given.
    #[schema(example = "text/calendar; method=REQUEST")]
    pub content_type: String,
    /// The size in bytes.
    #[schema(example = 812)]
    pub size: u64,
}

impl Message {
    /// Adds the attachments and alternatives, as they are stored.
    pub fn with_attachments(mut self, stored: Vec<Attachment>) -> Self {
        let alternatives = stored.iter().filter(|file| file.role == AttachmentRole::Alternative && !file.is_listed());
        let view = |file: &Attachment| MessageAlternative { content_type: file.content_type.clone(), size: file.size };
        self.alternatives = Some(alternatives.map(view).collect()).filter(|list: &Vec<_>| !list.is_empty());
        self.attachments = Some(stored.into_iter().filter(Attachment::is_listed).map(Into::into).collect());
        self
    }

    /// Creates a message from its row and its recipients' rows.
    pub fn from_row(row: MessageRow, recipients: Vec<RecipientRow>, bounces: &HashMap<Uuid, BounceView>) -> Self {
        let recipients: Vec<Recipient> = recipients
            .into_iter()
            .map(|row| {
                let bounce = bounces.get(&row.id).cloned();
                Recipient { bounce, ..Recipient::from_row(row) }
            })
            .collect();
        Self {
            id: MessageId(row.id),
            message_id: message_id_of(&row),
            status: MessageStatus::from_recipients(recipients.iter().map(|recipient| recipient.status)),
            created_at: row.created_at,
            from: MailboxView { email: row.from_address, name: row.from_name },
            reply_to: row.reply_to,
            subject: row.subject,
            stream: row.stream,
            tags: row.tags,
            metadata: row.metadata,
            scheduled_at: row.scheduled_at,
            expires_at: row.expires_at,
            on_uncertain: row.on_uncertain,
            ignore_suppression: row.ignore_suppression,
            size: row.size,
            template: row.template_id.zip(row.template_version).map(|(id, version)| UsedTemplate {
                id: TemplateId(id),
                alias: row.template_alias,
                version,
            }),
            bulk_id: row.bulk_id.map(BulkId),
            received_id: row.received_id.map(ReceivedId),
            key_id: row.key_id.map(KeyId),
            test: TenantId(row.tenant_id).is_test(),
            content_deleted_at: row.content_deleted_at,
            recipients,
            attachments: None,
            alternatives: None,
        }
    }
}

impl Recipient {
    fn from_row(row: RecipientRow) -> Self {
        Self {
            id: RecipientId(row.id),
            address: row.address,
            name: row.name,
            kind: row.kind,
            // A CHECK constraint limits the values. A status that is unknown here comes from a later version, and is
            // not final.
            status: Status::from_str(&row.status).unwrap_or(Status::Queued),
            attempts: row.attempts,
            last_attempt_at: row.last_attempt_at,
            next_attempt_at: row.next_attempt_at,
            finished_at: row.finished_at,
            held: row.held,
            response: SmtpReply::from_row(row.response_code, row.response_enhanced, row.response_text),
            mx: row.mx,
            tls: row.tls,
            bounce: None,
        }
    }
}
