//! What an explanation needs: a message's recipients and their places in the queue, read at one moment; how many stand
//! before them; how fast their lane moved of late; whether anyone works at all.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::explain::{Count, Pace};
use crate::domain::id::{MessageId, TenantId};
use crate::domain::lane::Lane;

/// A recipient, and its row in the queue where it has one.
#[derive(Debug, Clone)]
pub struct PlaceRow {
    /// Its id.
    pub id: Uuid,
    /// `to`, `cc` or `bcc`.
    pub kind: String,
    /// Its address.
    pub address: String,
    /// As shown: `scheduled` and `sending` included.
    pub status: String,
    /// Attempts made.
    pub attempts: i16,
    /// When the last one began.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// The last reply's three digits.
    pub response_code: Option<i16>,
    /// The last reply's enhanced code.
    pub response_enhanced: Option<String>,
    /// The last reply's text.
    pub response_text: Option<String>,
    /// Host last spoken to.
    pub mx: Option<String>,
    /// TLS version and cipher last used.
    pub tls: Option<String>,
    /// Where it waits; `None` where it has no row in the queue.
    pub lane_id: Option<i64>,
    /// When the next attempt may start; `None` while it is held.
    pub due_at: Option<DateTime<Utc>>,
    /// When the first one could start.
    pub first_due_at: Option<DateTime<Utc>>,
    /// Whether a worker has it in hand.
    pub is_leased: bool,
    /// Where that worker runs.
    pub worker: Option<String>,
    /// Why it waits for an operator.
    pub held: Option<String>,
}

/// A message's recipients in the order of the request.
pub async fn places(
    db: &Db,
    tenant: TenantId,
    message: MessageId,
    now: DateTime<Utc>,
) -> Result<Vec<PlaceRow>, DbError> {
    let query = sqlx::query_as!(
        PlaceRow,
        r#"SELECT r.id, r.kind, r.address, recipient_status(r.status, q.lease, q.first_due_at, $3) AS "status!", r.attempts,
                  r.last_attempt_at, r.finished_at, r.response_code, r.response_enhanced, r.response_text, r.mx, r.tls,
                  q.lane_id AS "lane_id?", nullif(q.due_at, 'infinity') AS due_at, q.first_due_at AS "first_due_at?",
                  q.lease IS NOT NULL AS "is_leased!", w.host AS "worker?", q.held
           FROM recipients r
           LEFT JOIN queue q ON q.message_id = r.message_id AND q.recipient_id = r.id AND q.tenant_id = r.tenant_id
           LEFT JOIN workers w ON w.id = q.lease
           WHERE r.tenant_id = $1 AND r.message_id = $2
           ORDER BY r.position"#,
        tenant.0,
        message.0,
        now
    );
    db.timed("explain.places", query.fetch_all(&db.pool)).await
}

/// Rows that are counted for all recipients of one message together.
const COUNTED: i64 = 500_000;
/// Rows that are counted for one recipient at most, and at least.
const COUNTED_EACH: (i64, i64) = (10_000, 100);

/// How many go before each recipient of a message that waits freely in a lane.
pub async fn ahead(
    db: &Db,
    tenant: TenantId,
    message: MessageId,
    recipients: usize,
) -> Result<Vec<(Uuid, Count)>, DbError> {
    let share = COUNTED / i64::try_from(recipients.max(1)).unwrap_or(COUNTED);
    let bound = share.clamp(COUNTED_EACH.1, COUNTED_EACH.0);
    let query = sqlx::query!(
        r#"SELECT q.recipient_id, f.count AS "count!"
           FROM queue q
           JOIN lanes l ON l.id = q.lane_id
           CROSS JOIN LATERAL (
               SELECT count(*) AS count
               FROM (SELECT FROM queue f
                     WHERE f.lane_id = q.lane_id AND f.lease IS NULL AND f.due_at >= l.ready_at AND f.due_at <= q.due_at
                       AND (f.due_at, f.message_id, f.recipient_id) < (q.due_at, q.message_id, q.recipient_id)
                     LIMIT $3) AS counted) f
           WHERE q.message_id = $2 AND q.tenant_id = $1 AND q.lease IS NULL AND q.held IS NULL"#,
        tenant.0,
        message.0,
        bound + 1
    );
    let rows = db.timed("explain.ahead", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(|row| (row.recipient_id, Count::bounded(row.count, bound))).collect())
}

/// Events that are looked at for a lane's pace.
const EVENTS: i64 = 500;
/// Events older than this say nothing of today.
const RECENT: TimeDelta = TimeDelta::hours(1);

/// What a lane handed over, out of the tenant's newest events: no index knows a lane's own.
pub async fn pace(db: &Db, tenant: TenantId, lane: &Lane, now: DateTime<Utc>) -> Result<Pace, DbError> {
    let domain = (lane.domain != "*").then_some(&lane.domain);
    let query = sqlx::query!(
        r#"WITH newest AS MATERIALIZED (
               SELECT recorded_at, type, message_id, recipient_id FROM events
               WHERE tenant_id = $1 AND recorded_at > $3
                 AND seq > (SELECT last_seq FROM event_counters WHERE tenant_id = $1) - $4)
           SELECT count(*) AS "events!", min(recorded_at) AS oldest,
                  count(*) FILTER (WHERE type IN ('message.relayed', 'message.delivered') AND EXISTS (
                      SELECT FROM messages m WHERE m.tenant_id = $1 AND m.id = newest.message_id AND m.stream = $2)
                    AND ($5::text IS NULL OR EXISTS (
                      SELECT FROM recipients r WHERE r.tenant_id = $1 AND r.message_id = newest.message_id
                        AND r.id = newest.recipient_id AND right(r.address, length($5) + 1) = '@' || $5))) AS "mails!"
           FROM newest"#,
        tenant.0,
        lane.stream,
        now - RECENT,
        EVENTS,
        domain
    );
    let row = db.timed("explain.pace", query.fetch_one(&db.pool)).await?;
    let milliseconds = row.oldest.map_or(0, |oldest| (now - oldest).num_milliseconds().max(1));
    #[allow(clippy::cast_precision_loss, reason = "at most an hour")]
    let seconds = milliseconds as f64 / 1_000.0;
    Ok(Pace { mails: row.mails, events: row.events, seconds })
}

/// Whether a worker has been heard of within `lease`, by the database's clock.
pub async fn has_workers(db: &Db, lease: Duration) -> Result<bool, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM workers WHERE heartbeat_at >= clock_timestamp() - make_interval(secs => $1)) AS "has!""#,
        lease.as_secs_f64()
    );
    db.timed("explain.has_workers", query.fetch_one(&db.pool)).await
}
