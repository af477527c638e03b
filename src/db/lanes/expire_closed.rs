//! Expiry of recipients in closed lanes and streams. These recipients are not claimed for sending, but still expire.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::pauses::Pauses;
use crate::db::queue::Claimed;
use crate::db::{Db, DbError};
use crate::domain::delivery::retry;

/// A position in a lane's queue, in claim order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePosition {
    /// `queue.due_at`.
    pub due_at: DateTime<Utc>,
    /// `queue.message_id`.
    pub message_id: Uuid,
    /// `queue.recipient_id`.
    pub recipient_id: Uuid,
}

/// An unleased recipient in a closed lane.
#[derive(Debug, Clone, Copy)]
pub struct WaitingRecipient {
    /// `lanes.id`.
    pub lane: i64,
    /// Position in the lane's queue.
    pub position: QueuePosition,
    /// Whether its retry window has passed.
    pub is_window_over: bool,
}

/// A lane from which nothing may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedLane {
    /// `lanes.id`.
    pub id: i64,
    /// Whether the lane or its stream is paused, or its tenant suspended. Paused time does not count towards retry windows.
    pub is_paused: bool,
}

/// Returns closed lanes with due recipients: the lane or its stream is paused, the tenant is suspended, the destination is
/// unreachable, or a rate limit is used up. Not of tenants that are being deleted.
pub async fn closed(db: &Db, now: DateTime<Utc>) -> Result<Vec<ClosedLane>, DbError> {
    let query = sqlx::query_as!(
        ClosedLane,
        r#"SELECT l.id, num_nonnulls(l.paused_at, s.paused_at, t.suspended_at) > 0 AS "is_paused!"
         FROM lanes l
         JOIN streams s ON s.tenant_id = l.tenant_id AND s.name = l.stream
         JOIN tenants t ON t.id = l.tenant_id
         WHERE l.ready_at <= $1 AND t.deleting_at IS NULL
           AND (l.paused_at IS NOT NULL OR l.open_at > $1 OR s.paused_at IS NOT NULL OR s.open_at > $1
                OR t.suspended_at IS NOT NULL)
         ORDER BY l.id"#,
        now
    );
    db.timed("lanes.expire_closed.closed", query.fetch_all(&db.pool)).await
}

/// A paused lane in which messages reach their `expires_at` soon.
#[derive(Debug, Clone)]
pub struct Expiring {
    /// `lanes.id`.
    pub lane: i64,
    /// The stream.
    pub stream: String,
    /// `mx`, `relay`, `relay:NAME`, `inbound:ID` or `simulator`.
    pub route: String,
    /// Destination domain; `*` for all domains of a relay route.
    pub domain: String,
    /// When the lane or its stream was paused, or its tenant suspended.
    pub paused_at: DateTime<Utc>,
    /// Number of recipients, counted up to 1,000.
    pub count: i64,
    /// When the first of these recipients expires.
    pub first: DateTime<Utc>,
}

/// Returns the paused lanes among `lanes` that contain messages whose `expires_at` is not later than `until`.
pub async fn expiring(db: &Db, lanes: &[i64], until: DateTime<Utc>) -> Result<Vec<Expiring>, DbError> {
    let query = sqlx::query_as!(
        Expiring,
        r#"SELECT l.id AS lane, l.stream, l.route, l.domain, coalesce(l.paused_at, s.paused_at, t.suspended_at) AS "paused_at!",
                  q.count AS "count!", q.first AS "first!"
           FROM lanes l
           JOIN streams s ON s.tenant_id = l.tenant_id AND s.name = l.stream
           JOIN tenants t ON t.id = l.tenant_id
           CROSS JOIN LATERAL (
               SELECT count(*) AS count, min(expires_at) AS first
               FROM (SELECT expires_at FROM queue
                     WHERE lane_id = l.id AND lease IS NULL AND expires_at IS NOT NULL AND expires_at <= $2 AND held IS NULL
                     ORDER BY expires_at LIMIT 1000) AS soon) q
           WHERE l.id = ANY ($1) AND q.count > 0
             AND coalesce(l.paused_at, s.paused_at, t.suspended_at) IS NOT NULL"#,
        lanes,
        until
    );
    db.timed("lanes.expire_closed.expiring", query.fetch_all(&db.pool)).await
}

/// Returns up to `limit` recipients of these lanes whose message's `expires_at` has passed.
pub async fn expired(db: &Db, lanes: &[i64], limit: i64, now: DateTime<Utc>) -> Result<Vec<QueuePosition>, DbError> {
    let query = sqlx::query_as!(
        QueuePosition,
        "SELECT q.due_at, q.message_id, q.recipient_id
         FROM unnest($1::bigint[]) AS closed (lane_id)
         CROSS JOIN LATERAL (
             SELECT due_at, message_id, recipient_id FROM queue
             WHERE lane_id = closed.lane_id AND lease IS NULL AND expires_at IS NOT NULL AND expires_at <= $3
               AND held IS NULL
             ORDER BY expires_at LIMIT $2) q
         LIMIT $2",
        lanes,
        limit,
        now
    );
    db.timed("lanes.expire_closed.expired", query.fetch_all(&db.pool)).await
}

/// Returns the next recipients of these lanes, at most `limit` per lane, after the given positions. `window` is the
/// default retry window for streams without one; paused time does not count.
pub async fn page(
    db: &Db,
    lanes: &[(i64, Option<QueuePosition>)],
    limit: i64,
    window: Duration,
    pauses: &Pauses,
    now: DateTime<Utc>,
) -> Result<Vec<WaitingRecipient>, DbError> {
    let ids: Vec<i64> = lanes.iter().map(|(lane, _)| *lane).collect();
    let due: Vec<DateTime<Utc>> =
        lanes.iter().map(|(_, position)| position.map_or(DateTime::UNIX_EPOCH, |position| position.due_at)).collect();
    let messages: Vec<Uuid> =
        lanes.iter().map(|(_, position)| position.map_or(Uuid::nil(), |p| p.message_id)).collect();
    let recipients: Vec<Uuid> =
        lanes.iter().map(|(_, position)| position.map_or(Uuid::nil(), |p| p.recipient_id)).collect();
    let query = sqlx::query!(
        r#"SELECT l.id AS lane, q.due_at, q.message_id, q.recipient_id, q.first_due_at, s.retry_window,
                  s.tenant_id, s.name AS stream
           FROM unnest($1::bigint[], $2::timestamptz[], $3::uuid[], $4::uuid[])
                AS after (lane_id, due_at, message_id, recipient_id)
           JOIN lanes l ON l.id = after.lane_id
           JOIN streams s ON s.tenant_id = l.tenant_id AND s.name = l.stream
           CROSS JOIN LATERAL (
               SELECT due_at, message_id, recipient_id, first_due_at FROM queue
               WHERE lane_id = after.lane_id AND lease IS NULL AND due_at <= $6
                 AND (due_at, message_id, recipient_id) > (after.due_at, after.message_id, after.recipient_id)
               ORDER BY due_at, message_id, recipient_id LIMIT $5) q"#,
        &ids,
        &due,
        &messages,
        &recipients,
        limit,
        now
    );
    let rows = db.timed("lanes.expire_closed.page", query.fetch_all(&db.pool)).await?;
    let position = |due_at, message_id, recipient_id| QueuePosition { due_at, message_id, recipient_id };
    let waiting = rows.into_iter().map(|row| WaitingRecipient {
        lane: row.lane,
        position: position(row.due_at, row.message_id, row.recipient_id),
        is_window_over: (now
            - row.first_due_at
            - pauses.paused_time((row.tenant_id, &row.stream), row.lane, row.first_due_at, now))
        .to_std()
        .is_ok_and(|waited| waited >= retry::window(row.retry_window, window)),
    });
    Ok(waiting.collect())
}

/// Leases the recipients at these positions as a claim does, except for recipients that are leased or held by now.
pub async fn lease(db: &Db, worker: Uuid, positions: &[QueuePosition]) -> Result<Vec<Claimed>, DbError> {
    let messages: Vec<Uuid> = positions.iter().map(|position| position.message_id).collect();
    let recipients: Vec<Uuid> = positions.iter().map(|position| position.recipient_id).collect();
    let query = sqlx::query_as!(
        Claimed,
        r#"WITH claimer AS MATERIALIZED (SELECT id FROM workers WHERE id = $1 FOR KEY SHARE),
               free AS MATERIALIZED (
                   SELECT q.message_id, q.recipient_id FROM claimer, queue q
                   JOIN unnest($2::uuid[], $3::uuid[]) AS u (message_id, recipient_id) USING (message_id, recipient_id)
                   WHERE q.lease IS NULL AND q.held IS NULL FOR UPDATE OF q SKIP LOCKED)
           UPDATE queue SET lease = $1, claims = claims + 1 FROM free
           WHERE queue.message_id = free.message_id AND queue.recipient_id = free.recipient_id
           RETURNING queue.message_id, queue.recipient_id, tenant_id, lane_id, attempts, crashes, first_due_at,
                     $1::uuid AS "lease!", claims"#,
        worker,
        &messages,
        &recipients
    );
    db.timed("lanes.expire_closed.lease", query.fetch_all(&db.pool)).await
}
