//! Events as JSON: in the API, in the event stream, and in webhook bodies.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use super::EventType;
use crate::domain::bounce::{BounceType, Category, Source};
use crate::domain::explain::Said;
use crate::domain::id::{EndpointId, MessageId, RecipientId};

/// An event.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Event {
    /// Its number: ascending, without gaps.
    pub seq: i64,
    /// What happened.
    #[serde(rename = "type")]
    #[schema(value_type = EventType, example = "message.deferred")]
    pub kind: String,
    /// When it happened.
    pub timestamp: DateTime<Utc>,
    /// What it is about.
    pub data: EventData,
}

/// What an event is about.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct EventData {
    /// The message; null if it is not about one.
    #[schema(value_type = Option<String>)]
    pub message_id: Option<MessageId>,
    /// The recipient, if it is about one.
    #[schema(value_type = Option<String>)]
    pub recipient_id: Option<RecipientId>,
    /// The recipient's address.
    pub recipient: Option<String>,
    /// In `message.accepted` and a message's first `message.scheduled`: all recipients, in the order of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<EventRecipient>>)]
    pub recipients: Option<Value>,
    /// The sender; null if it is not about a message.
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
    /// 1 for the first attempt; null if none was made.
    pub attempt: Option<i16>,
    /// The remote server's reply.
    pub response: Option<Said>,
    /// The remote server's host name.
    pub mx: Option<String>,
    /// The remote server's IP address.
    pub ip: Option<String>,
    /// TLS version and cipher; null for plain text.
    pub tls: Option<String>,
    /// Duration of the attempt in milliseconds.
    pub duration_ms: Option<i32>,
    /// When the next attempt is due.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// The classification of a permanent refusal; null if nothing bounced.
    pub bounce: Option<BounceSaid>,
    /// The webhook endpoint, if it is about one.
    #[schema(value_type = Option<String>)]
    pub endpoint_id: Option<EndpointId>,
    /// Only in events from a delivery report (a bounce, a success report, a complaint): `false` if other recipients of
    /// the message know its return path as well and may have forged the report. Then the recipient's status does not
    /// change, and nothing is suppressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = true)]
    pub vouched: Option<bool>,
    /// Only in `message.uncertain`: `true` if no further attempt is made and the status is final; `false` if another
    /// attempt follows, whose own event says how it ended.
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    #[schema(example = false)]
    pub is_final: Option<bool>,
}

impl EventData {
    /// Returns data about nothing.
    pub(super) fn empty() -> Self {
        Self {
            message_id: None,
            recipient_id: None,
            recipient: None,
            recipients: None,
            from: None,
            subject: None,
            stream: None,
            tags: json!([]),
            metadata: json!({}),
            attempt: None,
            response: None,
            mx: None,
            ip: None,
            tls: None,
            duration_ms: None,
            next_attempt_at: None,
            bounce: None,
            endpoint_id: None,
            vouched: None,
            is_final: None,
        }
    }
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
    /// The recipient's id.
    #[schema(example = "rcp_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: String,
    /// The recipient's address.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// `to`, `cc` or `bcc`.
    #[schema(value_type = crate::domain::message::RecipientKind, example = "to")]
    pub kind: String,
}

/// The classification of a permanent refusal.
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
    /// How it was received.
    #[schema(value_type = Source, example = "smtp")]
    pub source: String,
}

impl BounceSaid {
    /// Creates a classification from an event's columns; `None` unless all are set.
    pub fn from_row(kind: Option<String>, category: Option<String>, source: Option<String>) -> Option<Self> {
        Some(Self { kind: kind?, category: category?, source: source? })
    }
}
