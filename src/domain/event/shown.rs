//! An event as applications see it, wherever they do: in the API, in a stream, in the body of a webhook.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::domain::explain::Said;
use crate::domain::id::{EndpointId, MessageId, RecipientId};

/// One thing that happened.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Event {
    /// Its number: without gaps, ascending.
    pub seq: i64,
    /// What happened.
    #[serde(rename = "type")]
    #[schema(example = "message.deferred")]
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
    /// The webhook endpoint, where it is about one.
    #[schema(value_type = Option<String>)]
    pub endpoint_id: Option<EndpointId>,
}
