//! The table `events`: events, numbered without gaps.
//!
//! `append` is the last statement of every transaction that changes a recipient's state. It locks the tenant's row in
//! `event_counters` until the commit, so transactions of one tenant commit one after the other, and a rollback leaves
//! no gap.

mod append;
pub mod bounces;
pub mod feed;
pub(super) mod skip;

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
    /// For a rejected message, what was sent: `{"from", "subject", "stream", "tags", "metadata"}`.
    pub rejected: Option<serde_json::Value>,
    /// The received message ([`EventReceived`](crate::domain::event::EventReceived)), if the event is about one.
    pub received: Option<serde_json::Value>,
}

impl EventRow {
    /// Fills in the fields of a rejected message, which is stored in another table.
    fn with_rejected(mut self) -> Self {
        let Some(mut sent) = self.rejected.take() else { return self };
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        self.from_address = self.from_address.or_else(|| text(&sent["from"]));
        self.subject = self.subject.or_else(|| text(&sent["subject"]));
        self.stream = self.stream.or_else(|| text(&sent["stream"]));
        let mut take = |name: &str| Some(sent[name].take()).filter(|value| !value.is_null());
        self.tags = self.tags.or_else(|| take("tags"));
        self.metadata = self.metadata.or_else(|| take("metadata"));
        self
    }
}

impl From<EventRow> for Event {
    fn from(row: EventRow) -> Self {
        // A rejected message was never given a Message-ID.
        let is_message = row.from_address.is_some();
        let row = row.with_rejected();
        let internet_message_id = row
            .message_id
            .filter(|_| is_message)
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
                received: row.received,
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
                          FROM recipients t WHERE t.message_id = e.message_id AND t.tenant_id = $1) END AS "recipients?",
                      CASE WHEN e.type = 'message.rejected' THEN (
                          SELECT jsonb_build_object('from', sql_send_email(i.payload -> 'from'), 'subject', i.payload -> 'subject',
                                                    'stream', i.stream, 'tags', i.payload -> 'tags',
                                                    'metadata', i.payload -> 'metadata')
                          FROM sql_inbox i WHERE i.tenant_id = $1 AND i.id = e.message_id) END AS "rejected?",
                      CASE WHEN e.received_id IS NOT NULL THEN (
                          SELECT jsonb_build_object(
                              'id', 'rcv_' || replace(e.received_id::text, '-', ''),
                              'route_id', 'irt_' || replace(v.route_id::text, '-', ''), 'from', v.from_address,
                              'to', v.envelope_to, 'subject', v.subject,
                              'internet_message_id', '<' || v.internet_message_id || '>',
                              'answers', 'msg_' || replace(v.answered_message_id::text, '-', ''),
                              'is_auto_reply', CASE WHEN v.id IS NOT NULL THEN v.auto_reply IS NOT NULL END,
                              'attachments', jsonb_array_length(v.attachments), 'size', v.size)
                          FROM (SELECT) one LEFT JOIN received_messages v
                               ON v.id = e.received_id AND v.tenant_id = $1) END AS "received?"
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
    // Finds the events by the message alone: in a new week's partition, which has no statistics, Postgres could otherwise
    // read all events of the tenant in the order of `seq`.
    let query = select_events!(
        "(SELECT own.* FROM (SELECT * FROM events WHERE message_id = $2 AND seq > $3 AND recorded_at >= $5 OFFSET 0) own
          WHERE own.tenant_id = $1 ORDER BY own.seq LIMIT $4) e",
        "ORDER BY e.seq",
        tenant.0,
        message.0,
        after,
        limit,
        since
    );
    db.timed("events.of_message", query.fetch_all(&db.pool)).await
}
