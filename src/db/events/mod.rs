//! The table `events`: events, numbered without gaps.
//!
//! `append` is the last statement of every transaction that changes a recipient's state. It locks the tenant's row in
//! `event_counters` until the commit, so transactions of one tenant commit one after the other, and a rollback leaves
//! no gap.

mod append;
pub mod bounces;
pub mod feed;

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

pub(super) use append::{NewEvent, append};

use super::{Db, DbError};
use crate::domain::event::{BounceView, Event, EventData, EventSender, EventType};
use crate::domain::explain::SmtpReply;
use crate::domain::id::{EndpointId, KeyId, MessageId, RecipientId, TenantId};
use crate::domain::message::message_id;

/// A stored event.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// The tenant.
    pub tenant_id: Uuid,
    /// Sequence number within the tenant.
    pub seq: i64,
    /// Time of recording.
    pub recorded_at: DateTime<Utc>,
    /// `message.…`, `webhook.…` or `key.…`.
    pub kind: String,
    /// The message.
    pub message_id: Option<Uuid>,
    /// The recipient, if the event is about one.
    pub recipient_id: Option<Uuid>,
    /// The recipient's address.
    pub address: Option<String>,
    /// The message's tags, `[{"name", "value"}]`.
    pub tags: Option<serde_json::Value>,
    /// The message's metadata, an object of strings.
    pub metadata: Option<serde_json::Value>,
    /// Attempt number, starting at 1.
    pub attempt: Option<i16>,
    /// SMTP reply code.
    pub response_code: Option<i16>,
    /// Enhanced status code.
    pub response_enhanced: Option<String>,
    /// Reply text.
    pub response_text: Option<String>,
    /// Host name of the server.
    pub mx: Option<String>,
    /// IP address of the server.
    pub ip: Option<String>,
    /// TLS version and cipher.
    pub tls: Option<String>,
    /// Duration of the attempt, in milliseconds.
    pub duration_ms: Option<i32>,
    /// When the next attempt is due.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// The webhook endpoint, if the event is about one.
    pub endpoint_id: Option<Uuid>,
    /// The API key that the message was sent with, or that the event is about.
    pub key_id: Option<Uuid>,
    /// Bounce type.
    pub bounce_type: Option<String>,
    /// Bounce category.
    pub bounce_category: Option<String>,
    /// Source of the bounce.
    pub bounce_source: Option<String>,
    /// For an event from a DSN or complaint: whether the report came to a return path that only this recipient knows.
    pub vouched: Option<bool>,
    /// The message's subject.
    pub subject: Option<String>,
    /// The sender's address.
    pub from_address: Option<String>,
    /// The sender's name.
    pub from_name: Option<String>,
    /// The message's stream.
    pub stream: Option<String>,
    /// The Message-ID in the message's finished MIME.
    pub internet_message_id: Option<String>,
    /// For an accepted message, all its recipients: `[{"id", "address", "kind"}]`.
    pub recipients: Option<serde_json::Value>,
}

impl From<EventRow> for Event {
    fn from(row: EventRow) -> Self {
        let internet_message_id = row
            .message_id
            .zip(row.from_address.as_deref())
            .map(|(id, from)| message_id::header_value(MessageId(id), row.internet_message_id.as_deref(), from));
        let is_final = (row.kind == EventType::Uncertain.as_str()).then(|| row.next_attempt_at.is_none());
        Self {
            seq: row.seq,
            kind: row.kind,
            timestamp: row.recorded_at,
            data: EventData {
                message_id: row.message_id.map(MessageId),
                internet_message_id,
                recipient_id: row.recipient_id.map(RecipientId),
                recipient: row.address,
                recipients: row.recipients,
                from: row.from_address.map(|email| EventSender { email, name: row.from_name }),
                subject: row.subject,
                stream: row.stream,
                tags: row.tags.unwrap_or_else(|| json!([])),
                metadata: row.metadata.unwrap_or_else(|| json!({})),
                attempt: row.attempt,
                response: SmtpReply::from_row(row.response_code, row.response_enhanced, row.response_text),
                mx: row.mx,
                ip: row.ip,
                tls: row.tls,
                duration_ms: row.duration_ms,
                next_attempt_at: row.next_attempt_at,
                bounce: BounceView::from_row(row.bounce_type, row.bounce_category, row.bounce_source),
                endpoint_id: row.endpoint_id.map(EndpointId),
                key_id: row.key_id.map(KeyId),
                test: TenantId(row.tenant_id).is_test().then_some(true),
                vouched: row.vouched,
                is_final,
            },
        }
    }
}

/// Selects [`EventRow`]s. The first string is the FROM item, named `e`; the second contains the clauses after the
/// joins. `$1` is the tenant in both.
macro_rules! select_events {
    ($from:literal, $rest:literal, $($argument:expr),+ $(,)?) => {
        sqlx::query_as!(
            crate::db::events::EventRow,
            r#"SELECT e.tenant_id, e.seq, e.recorded_at, e.type AS kind, e.message_id, e.recipient_id, r.address AS "address?",
                      m.tags AS "tags?", m.metadata AS "metadata?", e.attempt, e.response_code, e.response_enhanced,
                      e.response_text, e.mx, e.ip, e.tls, e.duration_ms, e.next_attempt_at, e.endpoint_id,
                      e.bounce_type, e.bounce_category, e.bounce_source, e.vouched, coalesce(e.key_id, m.key_id) AS key_id,
                      m.subject AS "subject?", m.from_address AS "from_address?", m.from_name AS "from_name?",
                      m.stream AS "stream?", m.internet_message_id AS "internet_message_id?",
                      CASE WHEN e.recipient_id IS NULL AND e.type IN ('message.accepted', 'message.scheduled') THEN (
                          SELECT jsonb_agg(jsonb_build_object('id', 'rcp_' || replace(t.id::text, '-', ''),
                                                              'address', t.address, 'kind', t.kind) ORDER BY t.position)
                          FROM recipients t WHERE t.message_id = e.message_id AND t.tenant_id = $1) END AS "recipients?"
               FROM "#
                + $from
                + r#"
               LEFT JOIN recipients r ON r.message_id = e.message_id AND r.id = e.recipient_id AND r.tenant_id = $1
               LEFT JOIN messages m ON m.id = e.message_id AND m.tenant_id = $1
               "#
                + $rest,
            $($argument),+
        )
    };
}
pub(super) use select_events;

/// Returns a message's events with a `seq` above `after`, oldest first. `since` is a lower bound of their
/// `recorded_at`.
pub async fn of_message(
    db: &Db,
    tenant: TenantId,
    message: MessageId,
    since: DateTime<Utc>,
    after: i64,
    limit: i64,
) -> Result<Vec<EventRow>, DbError> {
    let query = select_events!(
        "events e",
        "WHERE e.tenant_id = $1 AND e.message_id = $2 AND e.seq > $3 AND e.recorded_at >= $5 ORDER BY e.seq LIMIT $4",
        tenant.0,
        message.0,
        after,
        limit,
        since
    );
    db.timed("events.of_message", query.fetch_all(&db.pool)).await
}
