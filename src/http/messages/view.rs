//! Messages and recipients as the API shows them.

use std::collections::HashMap;
use std::str::FromStr as _;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::sender::Warning;
use crate::db::messages::{MessageRow, RecipientRow};
use crate::domain::delivery::{MessageStatus, Status};
use crate::domain::event::BounceSaid;
use crate::domain::explain::Said;
use crate::domain::id::{MessageId, RecipientId};
use crate::domain::message::NewMessage;

/// The answer to an accepted message.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = AcceptedMessage)]
pub struct Accepted {
    /// The message.
    #[schema(value_type = String, example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: MessageId,
    /// `queued`, `scheduled` where it waits for its time, or `suppressed` where nobody gets it.
    pub status: Status,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// Everyone it goes to, in the order of the request.
    pub recipients: Vec<AcceptedRecipient>,
    /// What may keep it from being trusted, by what the checks of the sender's domain have shown. Left out where there
    /// is nothing to say, also where no domain is registered at all, and where a request is repeated with its
    /// `Idempotency-Key`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// A recipient of an accepted message.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AcceptedRecipient {
    /// The recipient.
    #[schema(value_type = String, example = "rcp_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: RecipientId,
    /// Its address.
    pub address: String,
    /// `to`, `cc` or `bcc`.
    pub kind: String,
    /// `queued`, `scheduled`, or `suppressed` where its address is on the suppression list.
    pub status: Status,
}

impl Accepted {
    /// The answer for a message that was just accepted.
    pub fn of_new(message: &NewMessage) -> Self {
        let status = first_status(message.created_at, message.scheduled_at);
        let recipients = message.recipients.iter().map(|recipient| AcceptedRecipient {
            id: recipient.id,
            address: recipient.mailbox.address.to_string(),
            kind: recipient.kind.as_str().to_owned(),
            status,
        });
        Self {
            id: message.id,
            status,
            created_at: message.created_at,
            recipients: recipients.collect(),
            warnings: Vec::new(),
        }
    }

    /// Says that these get nothing.
    pub fn suppress(&mut self, suppressed: &[RecipientId]) {
        for recipient in self.recipients.iter_mut().filter(|recipient| suppressed.contains(&recipient.id)) {
            recipient.status = Status::Suppressed;
        }
        if self.recipients.iter().all(|recipient| recipient.status == Status::Suppressed) {
            self.status = Status::Suppressed;
        }
    }

    /// The same answer again for a message that was accepted before.
    pub fn of_stored(message: &MessageRow, recipients: Vec<RecipientRow>) -> Self {
        let status = first_status(message.created_at, message.scheduled_at);
        // Who was suppressed from the start has ended when the message was accepted.
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
        let (id, created_at) = (MessageId(message.id), message.created_at);
        let mut answer = Self { id, status, created_at, recipients: recipients.collect(), warnings: Vec::new() };
        answer.suppress(&suppressed);
        answer
    }
}

fn first_status(created_at: DateTime<Utc>, scheduled_at: Option<DateTime<Utc>>) -> Status {
    if scheduled_at.is_some_and(|at| at > created_at) { Status::Scheduled } else { Status::Queued }
}

/// A message and where each of its recipients is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Message {
    /// The message.
    #[schema(value_type = String, example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: MessageId,
    /// The most urgent of its recipients' states, or `partial` where they ended differently.
    pub status: MessageStatus,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// The sender.
    pub from: MailboxView,
    /// Where replies go.
    #[schema(value_type = Vec<MailboxView>)]
    pub reply_to: Value,
    /// Its subject.
    pub subject: String,
    /// In which stream it travels.
    pub stream: String,
    /// As given.
    #[schema(value_type = Vec<crate::domain::message::Tag>)]
    pub tags: Value,
    /// As given.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub metadata: Value,
    /// Not before.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// Not after.
    pub expires_at: Option<DateTime<Utc>>,
    /// `retry`, `hold` or `fail`.
    pub on_uncertain: String,
    /// Whether it goes out to suppressed addresses too.
    pub ignore_suppression: bool,
    /// Bytes of text, HTML and attachments.
    pub size: i64,
    /// Everyone it goes to, in the order of the request.
    pub recipients: Vec<Recipient>,
    /// Its attachments, in the order of the request; left out in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Vec<MessageAttachment>>,
}

/// How far a message is, without what it says: for a caller that may send and not read.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct MessageState {
    /// The message.
    #[schema(value_type = String, example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: MessageId,
    /// As in `GET /v1/messages/{id}`.
    pub status: MessageStatus,
    /// Not before.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// Everyone it goes to, in the order of the request.
    pub recipients: Vec<RecipientState>,
}

/// How far a recipient is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RecipientState {
    /// The recipient.
    #[schema(value_type = String, example = "rcp_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: RecipientId,
    /// Its address.
    pub address: String,
    /// `to`, `cc` or `bcc`.
    pub kind: String,
    /// Where it is.
    pub status: Status,
    /// When the next attempt is due, while it waits for one.
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

/// An address with its name.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = MailboxView)]
pub struct MailboxView {
    /// The address.
    pub email: String,
    /// The name beside it.
    pub name: Option<String>,
}

/// A recipient and where it is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Recipient {
    /// The recipient.
    #[schema(value_type = String, example = "rcp_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: RecipientId,
    /// Its address.
    pub address: String,
    /// Its name.
    pub name: Option<String>,
    /// `to`, `cc` or `bcc`.
    pub kind: String,
    /// Where it is.
    pub status: Status,
    /// Attempts made.
    pub attempts: i16,
    /// When the last one began.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// When the next one is due, while it waits for one.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When it reached its end state.
    pub finished_at: Option<DateTime<Utc>>,
    /// Why it waits for an operator, where it does.
    pub held: Option<String>,
    /// What the other side last said.
    pub response: Option<Said>,
    /// Host last spoken to.
    pub mx: Option<String>,
    /// TLS version and cipher last used; null for plain text.
    pub tls: Option<String>,
    /// What the refusal means, where it bounced.
    pub bounce: Option<BounceSaid>,
}

/// An attachment of a message; its content is at `GET /v1/messages/{id}/attachments/{n}`.
#[derive(Debug, Clone, Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct MessageAttachment {
    /// As given.
    #[schema(example = "invoice.pdf")]
    pub filename: String,
    /// As given, or by the file name.
    #[schema(example = "application/pdf")]
    pub content_type: String,
    /// Its size in bytes.
    #[schema(example = 48_213)]
    pub size: i64,
    /// Set for an inline attachment, which the HTML refers to as `cid:…`.
    #[schema(example = "logo")]
    pub content_id: Option<String>,
    /// SHA-256 of the content, in hexadecimal digits.
    #[schema(example = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    pub sha256: String,
}

impl Message {
    /// Shows a message with its recipients.
    pub fn of(row: MessageRow, recipients: Vec<RecipientRow>, bounces: &HashMap<Uuid, BounceSaid>) -> Self {
        let recipients: Vec<Recipient> = recipients
            .into_iter()
            .map(|row| {
                let bounce = bounces.get(&row.id).cloned();
                Recipient { bounce, ..Recipient::of(row) }
            })
            .collect();
        Self {
            id: MessageId(row.id),
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
            recipients,
            attachments: None,
        }
    }
}

impl Recipient {
    fn of(row: RecipientRow) -> Self {
        Self {
            id: RecipientId(row.id),
            address: row.address,
            name: row.name,
            kind: row.kind,
            // The column is checked; a word that this version does not know is one that waits.
            status: Status::from_str(&row.status).unwrap_or(Status::Queued),
            attempts: row.attempts,
            last_attempt_at: row.last_attempt_at,
            next_attempt_at: row.next_attempt_at,
            finished_at: row.finished_at,
            held: row.held,
            response: Said::from_row(row.response_code, row.response_enhanced, row.response_text),
            mx: row.mx,
            tls: row.tls,
            bounce: None,
        }
    }
}
