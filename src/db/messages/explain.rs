//! Queries for explanations: a message's recipients and their queue rows in one snapshot, the number of messages ahead
//! of them, the recent throughput of their lane, and whether any worker is alive.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::explain::{Count, Throughput};
use crate::domain::id::{MessageId, TenantId};
use crate::domain::lane::Lane;

/// A recipient with its queue row, if any.
#[derive(Debug, Clone)]
pub struct RecipientQueueRow {
    /// `recipients.id`.
    pub id: Uuid,
    /// `to`, `cc` or `bcc`.
    pub kind: String,
    /// Email address.
    pub address: String,
    /// Status as shown in the API, including `scheduled` and `sending`.
    pub status: String,
    /// Number of attempts.
    pub attempts: i16,
    /// Start of the last attempt.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// When it reached its end state.
    pub finished_at: Option<DateTime<Utc>>,
    /// When a report moved it to this end state.
    pub reported_at: Option<DateTime<Utc>>,
    /// When the recipient reported the message as spam.
    pub complained_at: Option<DateTime<Utc>>,
    /// SMTP code of the last reply.
    pub response_code: Option<i16>,
    /// Enhanced status code of the last reply.
    pub response_enhanced: Option<String>,
    /// Text of the last reply.
    pub response_text: Option<String>,
    /// Host of the last attempt.
    pub mx: Option<String>,
    /// TLS version and cipher of the last attempt.
    pub tls: Option<String>,
    /// `lanes.id`; `None` if it has no queue row.
    pub lane_id: Option<i64>,
    /// When the next attempt is due; `None` while it is held.
    pub due_at: Option<DateTime<Utc>>,
    /// When the first attempt was due.
    pub first_due_at: Option<DateTime<Utc>>,
    /// Whether it is leased.
    pub is_leased: bool,
    /// Host of the leasing worker; `None` if the worker is not registered.
    pub worker: Option<String>,
    /// Seconds since that worker's last heartbeat.
    pub silence: Option<f64>,
    /// Number of worker crashes that this recipient may have caused since its last recorded attempt.
    pub crashes: Option<i16>,
    /// Why it is held for an operator.
    pub held: Option<String>,
    /// Why it could not be prepared.
    pub preparation_error: Option<String>,
    /// Since when it cannot be prepared.
    pub preparation_failed_at: Option<DateTime<Utc>>,
}

/// Returns a message's recipients in the order of the request.
pub async fn recipients(
    db: &Db,
    tenant: TenantId,
    message: MessageId,
    now: DateTime<Utc>,
) -> Result<Vec<RecipientQueueRow>, DbError> {
    let query = sqlx::query_as!(
        RecipientQueueRow,
        r#"SELECT r.id, r.kind, r.address, recipient_status(r.status, q.lease, q.first_due_at, $3) AS "status!", r.attempts,
                  r.last_attempt_at, r.finished_at, r.reported_at, r.complained_at, r.response_code, r.response_enhanced,
                  r.response_text, r.mx, r.tls,
                  q.lane_id AS "lane_id?", nullif(q.due_at, 'infinity') AS due_at, q.first_due_at AS "first_due_at?",
                  q.lease IS NOT NULL AS "is_leased!", w.host AS "worker?",
                  extract(epoch FROM clock_timestamp() - w.heartbeat_at)::float8 AS silence, q.crashes AS "crashes?", q.held,
                  q.preparation_error, q.preparation_failed_at
           FROM recipients r
           LEFT JOIN queue q ON q.message_id = r.message_id AND q.recipient_id = r.id AND q.tenant_id = r.tenant_id
           LEFT JOIN workers w ON w.id = q.lease
           WHERE r.tenant_id = $1 AND r.message_id = $2
           ORDER BY r.position"#,
        tenant.0,
        message.0,
        now
    );
    db.timed("explain.recipients", query.fetch_all(&db.pool)).await
}

/// Maximum number of rows counted for all recipients of one message together.
const COUNTED: i64 = 500_000;
/// Maximum and minimum number of rows counted per recipient.
const COUNTED_EACH: (i64, i64) = (10_000, 100);

/// Returns the number of other messages ahead of each unleased recipient of a message.
pub async fn ahead(
    db: &Db,
    tenant: TenantId,
    message: MessageId,
    recipients: usize,
) -> Result<Vec<(Uuid, Count)>, DbError> {
    let share = COUNTED / i64::try_from(recipients.max(1)).unwrap_or(COUNTED);
    let bound = share.clamp(COUNTED_EACH.1, COUNTED_EACH.0);
    // A message counts once, independent of its number of recipients, and is not ahead of itself. Recipients of the
    // message in one lane with the same due time have the same messages ahead of them, so these are counted once.
    let query = sqlx::query!(
        r#"WITH mine AS MATERIALIZED (
               SELECT q.recipient_id, q.lane_id, q.due_at, l.ready_at FROM queue q JOIN lanes l ON l.id = q.lane_id
               WHERE q.message_id = $2 AND q.tenant_id = $1 AND q.lease IS NULL AND q.held IS NULL),
               places AS MATERIALIZED (
                   SELECT place.lane_id, place.due_at, f.rows, f.mails
                   FROM (SELECT DISTINCT lane_id, due_at, ready_at FROM mine) place
                   CROSS JOIN LATERAL (
                       SELECT count(*) AS rows, count(DISTINCT counted.message_id) AS mails
                       FROM (SELECT f.message_id FROM queue f
                             WHERE f.lane_id = place.lane_id AND f.lease IS NULL AND f.due_at >= place.ready_at
                               AND f.due_at <= place.due_at AND (f.due_at, f.message_id) < (place.due_at, $2)
                               AND f.message_id <> $2
                             LIMIT $3) AS counted) f)
           SELECT mine.recipient_id, places.rows AS "rows!", places.mails AS "mails!"
           FROM places JOIN mine USING (lane_id, due_at)"#,
        tenant.0,
        message.0,
        bound + 1
    );
    let rows = db.timed("explain.ahead", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(|row| (row.recipient_id, message_count(row.mails, row.rows, bound))).collect())
}

/// Returns the number of due messages of each lane, in the given order. These messages are ahead of a message that is
/// accepted now.
pub async fn due(db: &Db, lanes: &[i64], now: DateTime<Utc>) -> Result<Vec<Count>, DbError> {
    let query = sqlx::query!(
        r#"SELECT w.rows AS "rows!", w.mails AS "mails!"
           FROM unnest($1::bigint[]) WITH ORDINALITY AS u (id, n)
           JOIN lanes l ON l.id = u.id
           CROSS JOIN LATERAL (
               SELECT count(*) AS rows, count(DISTINCT message_id) AS mails
               FROM (SELECT message_id FROM queue
                     WHERE lane_id = l.id AND lease IS NULL AND due_at >= l.ready_at AND due_at <= $2 LIMIT $3) q) w
           ORDER BY u.n"#,
        lanes,
        now,
        COUNTED_EACH.0 + 1
    );
    let rows = db.timed("explain.due", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(|row| message_count(row.mails, row.rows, COUNTED_EACH.0)).collect())
}

/// Returns the count for `messages` messages in `rows` rows, of which at most `bound` + 1 were read.
fn message_count(messages: i64, rows: i64, bound: i64) -> Count {
    Count { number: messages.min(bound), is_more: rows > bound }
}

/// Maximum number of events read for a lane's throughput.
const EVENTS: i64 = 500;
/// Maximum age of events considered for a lane's throughput.
const RECENT: TimeDelta = TimeDelta::hours(1);

/// Returns a lane's recent throughput. Counts the tenant's newest events, because events have no index by lane.
/// `relays` are the hosts of the lane's route.
pub async fn throughput(
    db: &Db,
    tenant: TenantId,
    lane: &Lane,
    relays: &[String],
    now: DateTime<Utc>,
) -> Result<Throughput, DbError> {
    let is_mx = lane.route == "mx";
    let domain = (lane.domain != "*").then_some(&lane.domain);
    // Events do not contain the lane. The stream is that of the message, and the route is derived from the host.
    // Messages of a dedicated lane do not count for the shared lane.
    let query = sqlx::query!(
        r#"WITH newest AS MATERIALIZED (
               SELECT recorded_at, type, message_id, recipient_id, mx FROM events
               WHERE tenant_id = $1 AND recorded_at > $3
                 AND seq > (SELECT last_seq FROM event_counters WHERE tenant_id = $1) - $4)
           SELECT count(*) AS "events!", min(recorded_at) AS oldest,
                  count(DISTINCT newest.message_id) FILTER (
                      WHERE type = $6 AND ($6 = 'message.delivered' OR newest.mx = ANY ($7))
                        AND EXISTS (
                          SELECT FROM messages m WHERE m.tenant_id = $1 AND m.id = newest.message_id AND m.stream = $2)
                        AND EXISTS (
                          SELECT FROM recipients r, substring(r.address FROM '@([^@]+)$') AS to_domain
                          WHERE r.tenant_id = $1 AND r.message_id = newest.message_id AND r.id = newest.recipient_id
                            AND CASE WHEN $5::text IS NOT NULL THEN to_domain = $5
                                ELSE NOT EXISTS (
                                    SELECT FROM lanes own WHERE own.tenant_id = $1 AND own.stream = $2 AND own.route = $8
                                      AND own.domain = to_domain
                                      AND num_nonnulls(connections, rate, mails_per_connection, learned_rate, paused_at,
                                                       blocked_since) > 0) END)) AS "mails!"
           FROM newest"#,
        tenant.0,
        lane.stream,
        now - RECENT,
        EVENTS,
        domain,
        if is_mx { "message.delivered" } else { "message.relayed" },
        relays,
        lane.route
    );
    let row = db.timed("explain.pace", query.fetch_one(&db.pool)).await?;
    let milliseconds = row.oldest.map_or(0, |oldest| (now - oldest).num_milliseconds().max(1));
    #[allow(clippy::cast_precision_loss, reason = "at most an hour")]
    let seconds = milliseconds as f64 / 1_000.0;
    Ok(Throughput { messages: row.mails, events: row.events, seconds })
}

/// Returns whether any worker sent a heartbeat within its lease time, by the database's clock. `lease` is the assumed
/// lease time of workers of earlier versions, which do not record it.
pub async fn has_workers(db: &Db, lease: Duration) -> Result<bool, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM workers
               WHERE heartbeat_at >= clock_timestamp() - make_interval(secs => coalesce(lease_seconds, $1))) AS "has!""#,
        lease.as_secs_f64()
    );
    db.timed("explain.has_workers", query.fetch_one(&db.pool)).await
}
