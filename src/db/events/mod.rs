//! The table `events`: what happened, numbered without gaps.
//!
//! `append` is the last statement of every transaction that changes a recipient's state: it locks the tenant's counter
//! row, so commits of one tenant are serialised for the duration of a commit, and a rollback leaves no gap.

pub mod bounces;
pub mod feed;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::bounce::Bounce;
use crate::domain::event::{BounceSaid, Event, EventData, EventSender, EventType};
use crate::domain::explain::Said;
use crate::domain::id::{EndpointId, MessageId, RecipientId, TenantId};
use crate::domain::outcome::Outcome;

/// An event to append.
#[derive(Debug, Clone)]
pub(super) struct NewEvent<'a> {
    pub tenant: Uuid,
    pub kind: EventType,
    pub message_id: Option<Uuid>,
    pub recipient_id: Option<Uuid>,
    /// The webhook endpoint concerned.
    pub endpoint_id: Option<Uuid>,
    pub attempt: Option<i16>,
    pub outcome: Option<&'a Outcome>,
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Classification of a permanent failure.
    pub bounce: Option<Bounce>,
    /// For an event from a report: whether only this recipient knows its return path.
    pub vouched: Option<bool>,
}

/// Numbers and inserts events, in the order given within each tenant.
pub(super) async fn append(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    events: Vec<NewEvent<'_>>,
) -> Result<(), sqlx::Error> {
    let mut by_tenant = BTreeMap::<Uuid, Vec<NewEvent<'_>>>::new();
    for event in events {
        by_tenant.entry(event.tenant).or_default().push(event);
    }
    for (tenant, events) in by_tenant {
        append_to(connection, now, tenant, &events).await?;
    }
    Ok(())
}

async fn append_to(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    tenant: Uuid,
    events: &[NewEvent<'_>],
) -> Result<(), sqlx::Error> {
    let column = |pick: fn(&NewEvent<'_>) -> Option<Uuid>| events.iter().map(pick).collect::<Vec<_>>();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    let attempts: Vec<Option<i16>> = events.iter().map(|event| event.attempt).collect();
    let codes: Vec<Option<i16>> =
        events.iter().map(|e| e.outcome.and_then(|o| o.reply.code).and_then(|code| i16::try_from(code).ok())).collect();
    let enhanced: Vec<Option<String>> =
        events.iter().map(|e| e.outcome.and_then(|o| o.reply.enhanced).map(|code| code.to_string())).collect();
    let texts: Vec<Option<&str>> = events.iter().map(|e| e.outcome.map(|o| o.reply.text.as_str())).collect();
    let mx: Vec<Option<&str>> = events.iter().map(|e| e.outcome.and_then(|o| o.peer.mx.as_deref())).collect();
    let ips: Vec<Option<String>> =
        events.iter().map(|e| e.outcome.and_then(|o| o.peer.ip).map(|ip| ip.to_string())).collect();
    let tls: Vec<Option<&str>> = events.iter().map(|e| e.outcome.and_then(|o| o.peer.tls.as_deref())).collect();
    let durations: Vec<Option<i32>> =
        events.iter().map(|e| e.outcome.filter(|_| e.attempt.is_some()).map(|o| milliseconds(o.duration))).collect();
    let next: Vec<Option<DateTime<Utc>>> = events.iter().map(|event| event.next_attempt_at).collect();
    let vouched: Vec<Option<bool>> = events.iter().map(|event| event.vouched).collect();
    let bounce = |pick: fn(Bounce) -> &'static str| events.iter().map(|e| e.bounce.map(pick)).collect::<Vec<_>>();
    // Every transaction waits for the counter row, so only the statement timeout applies, not the lock timeout.
    let written = sqlx::query!(
        "WITH patient AS MATERIALIZED (SELECT set_config('lock_timeout', '0', true)),
         counter AS MATERIALIZED (SELECT take_event_numbers($1, $3) AS base FROM patient)
         INSERT INTO events (tenant_id, seq, recorded_at, type, message_id, recipient_id, attempt, response_code,
                             response_enhanced, response_text, mx, ip, tls, duration_ms, next_attempt_at, endpoint_id,
                             bounce_type, bounce_category, bounce_source, vouched)
         SELECT $1, counter.base + e.n, $2, e.type, e.message_id, e.recipient_id, e.attempt, e.code, e.enhanced,
                e.text, e.mx, e.ip, e.tls, e.duration_ms, e.next_attempt_at, e.endpoint_id, e.bounce_type,
                e.bounce_category, e.bounce_source, e.vouched
         FROM counter, unnest($4::text[], $5::uuid[], $6::uuid[], $7::smallint[], $8::smallint[], $9::text[],
                              $10::text[], $11::text[], $12::text[], $13::text[], $14::integer[], $15::timestamptz[],
                              $16::uuid[], $17::text[], $18::text[], $19::text[], $20::boolean[])
              WITH ORDINALITY AS e (type, message_id, recipient_id, attempt, code, enhanced, text, mx, ip, tls,
                                    duration_ms, next_attempt_at, endpoint_id, bounce_type, bounce_category,
                                    bounce_source, vouched, n)
         WHERE counter.base IS NOT NULL",
        tenant,
        now,
        i64::try_from(events.len()).unwrap_or(i64::MAX),
        &kinds as _,
        &column(|event| event.message_id) as _,
        &column(|event| event.recipient_id) as _,
        &attempts as _,
        &codes as _,
        &enhanced as _,
        &texts as _,
        &mx as _,
        &ips as _,
        &tls as _,
        &durations as _,
        &next as _,
        &column(|event| event.endpoint_id) as _,
        &bounce(|bounce| bounce.judgement.kind.as_str()) as _,
        &bounce(|bounce| bounce.judgement.category.as_str()) as _,
        &bounce(|bounce| bounce.source.as_str()) as _,
        &vouched as _,
    )
    .execute(connection)
    .await?;
    // Without a counter row, the tenant's events would be lost silently.
    if usize::try_from(written.rows_affected()).ok() == Some(events.len()) {
        Ok(())
    } else {
        Err(sqlx::Error::RowNotFound)
    }
}

fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// A stored event.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// Sequence number within the tenant.
    pub seq: i64,
    /// Time of recording.
    pub recorded_at: DateTime<Utc>,
    /// `message.…` or `webhook.…`.
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
    /// Bounce type.
    pub bounce_type: Option<String>,
    /// Bounce category.
    pub bounce_category: Option<String>,
    /// Source of the bounce.
    pub bounce_source: Option<String>,
    /// For an event from a report: whether only this recipient knows its return path.
    pub vouched: Option<bool>,
    /// The message's subject.
    pub subject: Option<String>,
    /// The sender's address.
    pub from_address: Option<String>,
    /// The sender's name.
    pub from_name: Option<String>,
    /// The message's stream.
    pub stream: Option<String>,
    /// For an accepted message, all its recipients: `[{"id", "address", "kind"}]`.
    pub recipients: Option<serde_json::Value>,
}

impl From<EventRow> for Event {
    fn from(row: EventRow) -> Self {
        let is_final = (row.kind == EventType::Uncertain.as_str()).then(|| row.next_attempt_at.is_none());
        Self {
            seq: row.seq,
            kind: row.kind,
            timestamp: row.recorded_at,
            data: EventData {
                message_id: row.message_id.map(MessageId),
                recipient_id: row.recipient_id.map(RecipientId),
                recipient: row.address,
                recipients: row.recipients,
                from: row.from_address.map(|email| EventSender { email, name: row.from_name }),
                subject: row.subject,
                stream: row.stream,
                tags: row.tags.unwrap_or_else(|| json!([])),
                metadata: row.metadata.unwrap_or_else(|| json!({})),
                attempt: row.attempt,
                response: Said::from_row(row.response_code, row.response_enhanced, row.response_text),
                mx: row.mx,
                ip: row.ip,
                tls: row.tls,
                duration_ms: row.duration_ms,
                next_attempt_at: row.next_attempt_at,
                bounce: BounceSaid::from_row(row.bounce_type, row.bounce_category, row.bounce_source),
                endpoint_id: row.endpoint_id.map(EndpointId),
                vouched: row.vouched,
                is_final,
            },
        }
    }
}

/// Returns a message's events with a `seq` above `after`, oldest first. All were recorded at or after `since`.
pub async fn of_message(
    db: &Db,
    tenant: TenantId,
    message: MessageId,
    since: DateTime<Utc>,
    after: i64,
    limit: i64,
) -> Result<Vec<EventRow>, DbError> {
    let query = sqlx::query_as!(
        EventRow,
        r#"SELECT e.seq, e.recorded_at, e.type AS kind, e.message_id, e.recipient_id, r.address AS "address?",
                  m.tags AS "tags?", m.metadata AS "metadata?", e.attempt, e.response_code, e.response_enhanced,
                  e.response_text, e.mx, e.ip, e.tls, e.duration_ms, e.next_attempt_at, e.endpoint_id,
                  e.bounce_type, e.bounce_category, e.bounce_source, e.vouched,
                  m.subject AS "subject?", m.from_address AS "from_address?", m.from_name AS "from_name?", m.stream AS "stream?",
                  CASE WHEN e.recipient_id IS NULL AND e.type IN ('message.accepted', 'message.scheduled') THEN (
                      SELECT jsonb_agg(jsonb_build_object('id', 'rcp_' || replace(t.id::text, '-', ''),
                                                          'address', t.address, 'kind', t.kind) ORDER BY t.position)
                      FROM recipients t WHERE t.message_id = e.message_id AND t.tenant_id = $1) END AS "recipients?"
           FROM events e
           LEFT JOIN recipients r ON r.tenant_id = $1 AND r.message_id = $2 AND r.id = e.recipient_id
           LEFT JOIN messages m ON m.id = $2 AND m.tenant_id = $1
           WHERE e.tenant_id = $1 AND e.message_id = $2 AND e.seq > $3 AND e.recorded_at >= $5
           ORDER BY e.seq LIMIT $4"#,
        tenant.0,
        message.0,
        after,
        limit,
        since
    );
    db.timed("events.of_message", query.fetch_all(&db.pool)).await
}
