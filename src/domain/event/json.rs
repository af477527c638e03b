//! The JSON of events in the API, in the event stream, and in webhook bodies.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use super::EventType;
use crate::domain::bounce::{BounceType, Category, Source};
use crate::domain::explain::SmtpReply;
use crate::domain::id::{EndpointId, KeyId, MessageId, RecipientId};

/// An event.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Event {
    /// The event's sequence number in the tenant: ascending, without gaps. Use it as the cursor.
    #[schema(example = 123)]
    pub seq: i64,
    /// The event's type.
    #[serde(rename = "type")]
    #[schema(value_type = EventType, example = "message.deferred")]
    pub kind: String,
    /// The time at which it happened.
    #[schema(example = "2026-11-24T09:00:00Z")]
    pub timestamp: DateTime<Utc>,
    /// The message, recipient, received message, webhook endpoint or API key that the event is about.
    pub data: EventData,
}

/// The message, recipient, webhook endpoint or API key that an event is about.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct EventData {
    /// The message's id; null if the event is not about a message.
    #[schema(value_type = Option<String>, example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7a")]
    pub message_id: Option<MessageId>,
    /// The value of the message's `Message-ID` header, in angle brackets; null if the event is not about a message.
    #[schema(example = "<019a8f3c2b7d7c4e8a1b2c3d4e5f6a7a@acme.test>")]
    pub internet_message_id: Option<String>,
    /// The recipient's id; null if the event is not about one recipient.
    #[schema(value_type = Option<String>, example = "rcp_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub recipient_id: Option<RecipientId>,
    /// The recipient's address; null if the event is not about one recipient.
    #[schema(example = "ann@example.test")]
    pub recipient: Option<String>,
    /// All recipients in the order of the request. Only in `message.accepted` and the first `message.scheduled` of a
    /// message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<EventRecipient>>)]
    pub recipients: Option<Value>,
    /// The sender; null if the event is not about a message.
    pub from: Option<EventSender>,
    /// The message's subject.
    #[schema(example = "Your invoice")]
    pub subject: Option<String>,
    /// The message's stream.
    #[schema(example = "transactional")]
    pub stream: Option<String>,
    /// The message's tags.
    #[schema(value_type = Vec<crate::domain::message::Tag>, example = json!([{"name": "kind", "value": "invoice"}]))]
    pub tags: Value,
    /// The message's metadata.
    #[schema(value_type = crate::domain::api::open_object::MessageMetadata, example = json!({"order": "42"}))]
    pub metadata: Value,
    /// The attempt's number, from 1; null if no attempt was made.
    #[schema(example = 1)]
    pub attempt: Option<i16>,
    /// The remote server's reply; null if there is none.
    pub response: Option<SmtpReply>,
    /// The remote server's host name.
    #[schema(example = "mx.example.test")]
    pub mx: Option<String>,
    /// The remote server's IP address.
    #[schema(example = "203.0.113.9")]
    pub ip: Option<String>,
    /// TLS version and cipher; null if the connection was not encrypted.
    #[schema(example = "TLSv1_3 TLS13_AES_256_GCM_SHA384")]
    pub tls: Option<String>,
    /// Duration of the attempt in milliseconds.
    #[schema(example = 312)]
    pub duration_ms: Option<i32>,
    /// The time at which the next attempt is due; null if there is none.
    #[schema(example = "2026-11-24T09:05:00Z")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// The classification of a permanent refusal; null if the event is not a bounce.
    pub bounce: Option<BounceView>,
    /// The webhook endpoint's id; null if the event is not about a webhook endpoint.
    #[schema(value_type = Option<String>, example = "wh_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7c")]
    pub endpoint_id: Option<EndpointId>,
    /// The received message. Only in `message.received`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<EventReceived>)]
    pub received: Option<Value>,
    /// The API key that the message was sent with, or that the event is about; null if it is unknown.
    #[schema(value_type = Option<String>, example = "key_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7d")]
    pub key_id: Option<KeyId>,
    /// `true` in events of test messages and test webhook endpoints. Absent in all other events.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = true)]
    pub test: Option<bool>,
    /// `false` if other recipients of the message also know its return path and may have forged the report. In that
    /// case the recipient's status does not change, and no address is suppressed. Only in events from a delivery
    /// report: a bounce, a success report or a complaint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = true)]
    pub vouched: Option<bool>,
    /// `true` if the status is final and no further attempt is made; `false` if another attempt follows, which has its
    /// own event. Only in `message.uncertain`.
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    #[schema(example = false)]
    pub is_final: Option<bool>,
}

impl EventData {
    /// Returns data in which no field is set.
    pub(super) fn empty() -> Self {
        Self {
            message_id: None,
            internet_message_id: None,
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
            received: None,
            key_id: None,
            test: None,
            vouched: None,
            is_final: None,
        }
    }
}

/// A message's sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct EventSender {
    /// The sender's address.
    #[schema(example = "billing@acme.test")]
    pub email: String,
    /// The sender's display name.
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
    /// The header that names the recipient: `to`, `cc` or `bcc`.
    #[schema(value_type = crate::domain::message::RecipientKind, example = "to")]
    pub kind: String,
}

/// A received message, without its content. All fields but `id` are null once it was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct EventReceived {
    /// The id of the received message.
    #[schema(example = "rcv_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7e")]
    pub id: String,
    /// The inbound route.
    #[schema(example = "irt_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7f")]
    pub route_id: Option<String>,
    /// The address in `From`; null if there is none.
    #[schema(example = "ann@example.test")]
    pub from: Option<String>,
    /// The envelope recipients that the route matched.
    #[schema(example = json!(["support@reply.acme.test"]))]
    pub to: Option<Vec<String>>,
    /// The decoded subject.
    #[schema(example = "Re: Your invoice")]
    pub subject: Option<String>,
    /// The value of the `Message-ID` header, in angle brackets; null if there is none.
    #[schema(example = "<CAF-42@mail.example.test>")]
    pub internet_message_id: Option<String>,
    /// The id of the message that it answers; null if it is unknown.
    #[schema(example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7a")]
    pub answers: Option<String>,
    /// Whether it is an automatic reply.
    #[schema(example = false)]
    pub is_auto_reply: Option<bool>,
    /// The number of attachments.
    #[schema(example = 1)]
    pub attachments: Option<i64>,
    /// The size in bytes.
    #[schema(example = 2048)]
    pub size: Option<i64>,
}

/// The classification of a permanent refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = Bounce)]
pub struct BounceView {
    /// The permanence of the refusal.
    #[serde(rename = "type")]
    #[schema(value_type = BounceType, example = "hard")]
    pub kind: String,
    /// The reason for the refusal.
    #[schema(value_type = Category, example = "unknown_user")]
    pub category: String,
    /// The source of the refusal: the SMTP conversation or a DSN.
    #[schema(value_type = Source, example = "smtp")]
    pub source: String,
}

impl BounceView {
    /// Creates a classification from an event's columns; `None` unless all are set.
    pub fn from_row(kind: Option<String>, category: Option<String>, source: Option<String>) -> Option<Self> {
        Some(Self { kind: kind?, category: category?, source: source? })
    }
}
