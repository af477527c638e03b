//! An event as applications see it, wherever they do: in the API, in a stream, in the body of a webhook.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use super::EventType;
use crate::domain::bounce::{BounceType, Category, Source};
use crate::domain::explain::Said;
use crate::domain::id::{EndpointId, MessageId, RecipientId};

/// One thing that happened.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Event {
    /// Its number: without gaps, ascending.
    pub seq: i64,
    /// What happened.
    #[serde(rename = "type")]
    #[schema(value_type = EventType, example = "message.deferred")]
    pub kind: String,
    /// When.
    pub timestamp: DateTime<Utc>,
    /// To what.
    pub data: EventData,
}

/// What an event is about.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct EventData {
    /// The message; null where it is about none.
    #[schema(value_type = Option<String>)]
    pub message_id: Option<MessageId>,
    /// The recipient, where it is about one.
    #[schema(value_type = Option<String>)]
    pub recipient_id: Option<RecipientId>,
    /// The recipient's address.
    pub recipient: Option<String>,
    /// Of `message.accepted` and of a message's first `message.scheduled`: everyone it goes to, in the order of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<EventRecipient>>)]
    pub recipients: Option<Value>,
    /// The sender; null where it is about no message.
    pub from: Option<EventSender>,
    /// The message's subject.
    #[schema(example = "Your invoice")]
    pub subject: Option<String>,
    /// The message's stream.
    #[schema(example = "transactional")]
    pub stream: Option<String>,
    /// The message's tags.
    #[schema(value_type = Vec<crate::domain::message::Tag>)]
    pub tags: Value,
    /// The message's metadata.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub metadata: Value,
    /// 1 for the first attempt; null where none was made.
    pub attempt: Option<i16>,
    /// What the other side said.
    pub response: Option<Said>,
    /// Host spoken to.
    pub mx: Option<String>,
    /// Address spoken to.
    pub ip: Option<String>,
    /// TLS version and cipher; null for plain text.
    pub tls: Option<String>,
    /// How long the attempt took.
    pub duration_ms: Option<i32>,
    /// When the next attempt is due.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// What a refusal for good means; null where nothing bounced.
    pub bounce: Option<BounceSaid>,
    /// The webhook endpoint, where it is about one.
    #[schema(value_type = Option<String>)]
    pub endpoint_id: Option<EndpointId>,
    /// Only in events of a report that came back (a bounce, a note of success, a complaint): `false` where other recipients of
    /// the message know its return path as well and may have forged it. Then the recipient's status is what it was, and nothing
    /// was suppressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = true)]
    pub vouched: Option<bool>,
    /// Only in `message.uncertain`: `true` where no further attempt is made and the status is final; `false` where another
    /// attempt follows, whose own event says how it ended.
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    #[schema(example = false)]
    pub is_final: Option<bool>,
}

/// A message's sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct EventSender {
    /// The address.
    #[schema(example = "billing@acme.test")]
    pub email: String,
    /// The name.
    #[schema(example = "Acme Billing")]
    pub name: Option<String>,
}

/// A recipient of an accepted message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct EventRecipient {
    /// The recipient.
    #[schema(example = "rcp_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: String,
    /// Its address.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// `to`, `cc` or `bcc`.
    #[schema(value_type = crate::domain::message::RecipientKind, example = "to")]
    pub kind: String,
}

/// What a refusal for good means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = Bounce)]
pub struct BounceSaid {
    /// How final it is.
    #[serde(rename = "type")]
    #[schema(value_type = BounceType, example = "hard")]
    pub kind: String,
    /// Why it was refused.
    #[schema(value_type = Category, example = "unknown_user")]
    pub category: String,
    /// Who told of it.
    #[schema(value_type = Source, example = "smtp")]
    pub source: String,
}

impl BounceSaid {
    /// Of the columns of an event; none where they are not all there.
    pub fn of(kind: Option<String>, category: Option<String>, source: Option<String>) -> Option<Self> {
        Some(Self { kind: kind?, category: category?, source: source? })
    }
}
