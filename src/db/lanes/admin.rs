//! Operator actions on a lane: set limits, pause, reset, retry now.

use chrono::{DateTime, Utc};

use crate::db::queue::ready_at::mark_due_now;
use crate::db::{Db, DbError};
use crate::domain::id::{LaneId, TenantId};
use crate::domain::limits::{LaneChange, LaneLimits};

/// Identifies a lane that may not exist yet.
#[derive(Debug, Clone, Copy)]
pub struct LaneKey<'a> {
    /// The stream.
    pub stream: &'a str,
    /// `mx`, `relay`, `relay:NAME`, `inbound:ID` or `simulator`.
    pub route: &'a str,
    /// Destination domain; `*` for all domains of a relay route.
    pub domain: &'a str,
}

/// Replaces a lane's limits and creates the lane if it is missing. Returns its id and whether it was created; `None`
/// if the stream does not exist.
pub async fn put(
    db: &Db,
    tenant: TenantId,
    key: LaneKey<'_>,
    limits: &LaneLimits,
    now: DateTime<Utc>,
) -> Result<Option<(LaneId, bool)>, DbError> {
    // For `open_at` and `next_turn_at`, see [`change`].
    let query = sqlx::query!(
        r#"INSERT INTO lanes (tenant_id, stream, route, domain, priority, connections, rate, mails_per_connection)
           SELECT $1, $2, $3, $4, priority, $5, $6, $7 FROM streams WHERE tenant_id = $1 AND name = $2
           ON CONFLICT (tenant_id, stream, route, domain) DO UPDATE SET
               connections = EXCLUDED.connections, rate = EXCLUDED.rate,
               mails_per_connection = EXCLUDED.mails_per_connection,
               open_at = CASE WHEN lanes.rate IS DISTINCT FROM EXCLUDED.rate AND lanes.blocked_since IS NULL
                         THEN '-infinity' ELSE lanes.open_at END,
               next_turn_at = CASE WHEN lanes.rate IS DISTINCT FROM EXCLUDED.rate
                              THEN least(lanes.next_turn_at, $8) ELSE lanes.next_turn_at END
           RETURNING id, xmax = 0 AS "is_new!""#,
        tenant.0,
        key.stream,
        key.route,
        key.domain,
        limits.connections,
        limits.rate,
        limits.messages_per_connection,
        now
    );
    let row = db.timed("lanes.admin.put", query.fetch_optional(&db.pool)).await?;
    Ok(row.map(|row| (LaneId(row.id), row.is_new)))
}

/// Changes a lane's limits. Returns whether the lane exists.
pub async fn change(
    db: &Db,
    tenant: TenantId,
    id: LaneId,
    change: &LaneChange,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    // A different rate moves a later next send time, which may be a day away, to now. The time is not moved into the
    // past, so that the lane does not get a second burst. Setting the same rate again changes nothing.
    let query = sqlx::query!(
        "UPDATE lanes SET
             connections = CASE WHEN $3 THEN $4 ELSE connections END,
             rate = CASE WHEN $5 THEN $6 ELSE rate END,
             mails_per_connection = CASE WHEN $7 THEN $8 ELSE mails_per_connection END,
             open_at = CASE WHEN $5 AND rate IS DISTINCT FROM $6 AND blocked_since IS NULL
                       THEN '-infinity' ELSE open_at END,
             next_turn_at = CASE WHEN $5 AND rate IS DISTINCT FROM $6 THEN least(next_turn_at, $9) ELSE next_turn_at END
         WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0,
        change.connections.is_change(),
        change.connections.value(),
        change.rate.is_change(),
        change.rate.value(),
        change.messages_per_connection.is_change(),
        change.messages_per_connection.value(),
        now
    );
    db.timed("lanes.admin.change", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Pauses a lane; messages are still accepted and queued. Pausing it again changes only the reason. Returns whether the
/// lane exists.
pub async fn pause(
    db: &Db,
    tenant: TenantId,
    id: LaneId,
    reason: Option<&str>,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    let query = sqlx::query!(
        "UPDATE lanes SET paused_at = coalesce(paused_at, $4), pause_reason = $3 WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0,
        reason,
        now
    );
    db.timed("lanes.admin.pause", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Clears a lane's unreachable state and learned rate, so that the destination is tried at once. Returns whether the
/// lane exists. Configured limits still apply, and a lane without such state is unchanged.
pub async fn reset(db: &Db, tenant: TenantId, id: LaneId, now: DateTime<Utc>) -> Result<bool, DbError> {
    let query = sqlx::query!(
        "UPDATE lanes SET blocked_since = NULL, block_failures = 0, block_reply = NULL, block_cause = NULL,
             block_host = NULL, learned_rate = NULL,
             learned_ceiling = NULL, learned_at = NULL, raised_at = NULL, learned_reply = NULL,
             open_at = CASE WHEN blocked_since IS NULL AND learned_rate IS NULL THEN open_at ELSE '-infinity' END,
             next_turn_at = CASE WHEN learned_rate IS NULL THEN next_turn_at ELSE least(next_turn_at, $3) END
         WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0,
        now
    );
    db.timed("lanes.admin.reset", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Maximum number of recipients per transaction of [`due_now`].
const BATCH: i64 = 2_000;
/// Maximum number of batches per call.
const BATCHES: usize = 50;

/// Selects the recipients of a lane that [`due_now`] makes due now.
#[derive(Debug, Clone, Copy, Default)]
pub struct RetryFilter<'a> {
    /// Only recipients at this domain.
    pub domain: Option<&'a str>,
    /// Only recipients whose message could not be prepared for sending.
    pub unprepared: bool,
}

/// The result of [`due_now`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MadeDue {
    /// Number of recipients whose due time was moved to now.
    pub count: u64,
    /// Whether other recipients may remain, because one call handles a bounded number.
    pub has_more: bool,
}

/// Makes deferred recipients of a lane, and those that could not be prepared, due now. Scheduled, held and
/// crash-quarantined recipients are not changed. If the destination is unreachable, its next
/// probe is due now; with `unprepared` only if recipients were made due. Each batch is one transaction.
pub async fn due_now(
    db: &Db,
    tenant: TenantId,
    id: LaneId,
    filter: RetryFilter<'_>,
    now: DateTime<Utc>,
) -> Result<MadeDue, DbError> {
    let (mut done, mut from) = (MadeDue::default(), now);
    for _ in 0..BATCHES {
        let (count, last) = due_batch(db, tenant, id, filter, from, now).await?;
        done.count += count;
        match last {
            Some(last) if count >= BATCH.unsigned_abs() => from = last,
            _ => return Ok(done),
        }
    }
    Ok(MadeDue { has_more: true, ..done })
}

async fn due_batch(
    db: &Db,
    tenant: TenantId,
    id: LaneId,
    filter: RetryFilter<'_>,
    from: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(u64, Option<DateTime<Utc>>), DbError> {
    db.timed("lanes.admin.due_batch", async {
        let mut tx = db.pool.begin().await?;
        let done = sqlx::query!(
            r#"WITH later AS MATERIALIZED (
                   SELECT q.ctid AS place, q.due_at FROM queue q
                   WHERE q.lane_id = $2 AND q.tenant_id = $1 AND q.lease IS NULL AND q.due_at >= $3 AND q.due_at > $4
                     AND q.due_at < 'infinity' AND q.first_due_at <= $4 AND q.crashes = 0
                     AND (NOT $6::boolean OR q.preparation_error IS NOT NULL)
                     AND ($5::text IS NULL OR EXISTS (
                         SELECT FROM recipients r
                         WHERE r.message_id = q.message_id AND r.id = q.recipient_id AND r.tenant_id = q.tenant_id
                           AND lower(substring(r.address FROM '@([^@]+)$')) = lower($5)))
                   ORDER BY q.due_at LIMIT $7 FOR UPDATE SKIP LOCKED),
               moved AS (
                   UPDATE queue SET due_at = $4 WHERE ctid = ANY (ARRAY(SELECT place FROM later)) RETURNING 1)
               SELECT (SELECT count(*) FROM moved) AS "count!", (SELECT max(due_at) FROM later) AS last"#,
            tenant.0,
            id.0,
            from,
            now,
            filter.domain,
            filter.unprepared,
            BATCH
        )
        .fetch_one(&mut *tx)
        .await?;
        // A retry of the lane also probes if all of its recipients are due and wait for the probe.
        if done.count > 0 || !filter.unprepared {
            mark_due_now(&mut tx, std::iter::once(id.0), now).await?;
        }
        tx.commit().await?;
        Ok((done.count.unsigned_abs(), done.last))
    })
    .await
}
