//! Messages in Resend's form.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::domain::address::Mailbox;
use crate::domain::delivery::{MessageStatus, Status};
use crate::http::messages::read::view::Message;
use crate::http::resend::times::{optional_time, time};

/// A message.
#[derive(Debug, Serialize)]
pub(in crate::http::resend) struct EmailView {
    object: &'static str,
    id: Uuid,
    message_id: String,
    from: String,
    to: Vec<String>,
    /// Serialized even if null, because some SDKs need the key.
    cc: Option<Vec<String>>,
    bcc: Option<Vec<String>>,
    reply_to: Option<Vec<String>>,
    subject: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    content: Option<EmailContent>,
    #[serde(serialize_with = "time")]
    created_at: DateTime<Utc>,
    #[serde(serialize_with = "optional_time")]
    scheduled_at: Option<DateTime<Utc>>,
    last_event: &'static str,
    /// Always null: Postrider has no topics.
    topic_id: Option<Uuid>,
}

/// The fields that lists omit.
#[derive(Debug, Serialize)]
pub(super) struct EmailContent {
    pub html: Option<String>,
    pub text: Option<String>,
    /// `[{"name", "value"}]`.
    pub tags: Value,
}

/// Which words a client gets for states.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    /// Whether the client knows `suppressed`.
    pub has_suppressed: bool,
    /// Whether `relayed` is `delivered`.
    pub relayed_as_delivered: bool,
}

impl Words {
    /// Returns the word for `relayed`.
    fn relayed(self) -> &'static str {
        if self.relayed_as_delivered { "delivered" } else { "sent" }
    }

    /// Returns the word for `suppressed`.
    fn suppressed(self) -> &'static str {
        if self.has_suppressed { "suppressed" } else { "failed" }
    }
}

impl EmailView {
    pub(super) fn new(message: Message, has_complained: bool, content: Option<EmailContent>, words: Words) -> Self {
        let last_event = last_event(&message, has_complained, words);
        let addresses = |kind: &str| -> Vec<String> {
            let recipients = message.recipients.iter().filter(|recipient| recipient.kind == kind);
            recipients.map(|recipient| mailbox(&recipient.address, recipient.name.as_deref())).collect()
        };
        let optional = |list: Vec<String>| (!list.is_empty()).then_some(list);
        Self {
            object: "email",
            id: message.id.0,
            from: mailbox(&message.from.email, message.from.name.as_deref()),
            to: addresses("to"),
            cc: optional(addresses("cc")),
            bcc: optional(addresses("bcc")),
            reply_to: optional(reply_to(&message.reply_to)),
            message_id: message.message_id,
            subject: message.subject,
            content,
            created_at: message.created_at,
            scheduled_at: message.scheduled_at,
            last_event,
            topic_id: None,
        }
    }
}

/// Returns `a@b` or `Name <a@b>`.
fn mailbox(address: &str, name: Option<&str>) -> String {
    // A stored address is valid.
    match address.parse() {
        Ok(address) => Mailbox { address, name: name.map(str::to_owned) }.to_string(),
        Err(_) => address.to_owned(),
    }
}

fn reply_to(stored: &Value) -> Vec<String> {
    let entries = stored.as_array().into_iter().flatten();
    entries.filter_map(|entry| Some(mailbox(entry["email"].as_str()?, entry["name"].as_str()))).collect()
}

/// Returns Resend's word for the state of a message.
fn last_event(message: &Message, has_complained: bool, words: Words) -> &'static str {
    if has_complained {
        return "complained";
    }
    let status = match message.status {
        MessageStatus::Recipients(status) => status,
        // The status of the recipient that ended last.
        MessageStatus::Partial => {
            let last = message.recipients.iter().max_by_key(|recipient| recipient.finished_at);
            last.map_or(Status::Queued, |recipient| recipient.status)
        }
    };
    match status {
        Status::Scheduled => "scheduled",
        Status::Queued | Status::Sending => "queued",
        Status::Deferred => "delivery_delayed",
        Status::Relayed => words.relayed(),
        // After `failed`, an application would send the message again, although an uncertain message may have arrived.
        Status::Uncertain => "sent",
        Status::Delivered => "delivered",
        Status::Bounced => "bounced",
        Status::Expired => "failed",
        Status::Suppressed => words.suppressed(),
        Status::Canceled => "canceled",
    }
}
