//! Samples of the queue, by tenant and stream.

use chrono::{DateTime, Utc};

use crate::db::pool::scan::{SCAN_LIMIT, allow_scan};
use crate::db::{Db, DbError};
use crate::domain::statistics::Step;

/// Counting stops at this number of recipients in a lane.
const COUNTED: i64 = 100_000;

/// Measures the queues of all tenants, unless this was done in this minute already. Returns whether it did.
pub async fn sample(db: &Db, now: DateTime<Utc>) -> Result<bool, DbError> {
    // Reads from `ready_at` on, as a claim does: before it, there are only dead index entries. Lanes without waiting
    // recipients are not looked at.
    db.timed_for(SCAN_LIMIT, "statistics.sample_queue", async {
        let mut tx = db.pool.begin().await?;
        allow_scan(&mut tx).await?;
        let turn = sqlx::query!(
        "WITH turn AS MATERIALIZED (
             UPDATE queue_sampling SET sampled_at = $1
             WHERE id = (SELECT id FROM queue_sampling WHERE sampled_at < $1 FOR UPDATE SKIP LOCKED)
             RETURNING id),
         sample AS MATERIALIZED (
             SELECT l.tenant_id, l.stream, sum(w.waiting)::bigint AS waiting, sum(w.due)::bigint AS due,
                    coalesce(floor(extract(epoch FROM $2 - min(w.oldest) FILTER (
                        WHERE l.paused_at IS NULL AND s.paused_at IS NULL AND l.blocked_since IS NULL))), 0)::bigint AS age
             FROM lanes l
             JOIN streams s ON s.tenant_id = l.tenant_id AND s.name = l.stream
             CROSS JOIN LATERAL (
                 SELECT count(*) AS waiting, count(*) FILTER (WHERE due_at <= $2) AS due, min(due_at) AS oldest
                 FROM (SELECT due_at FROM queue WHERE lane_id = l.id AND lease IS NULL AND due_at >= l.ready_at
                          AND due_at < 'infinity' ORDER BY due_at LIMIT $3) q) w
             WHERE l.ready_at < 'infinity' AND (SELECT count(*) FROM turn) = 1
             GROUP BY l.tenant_id, l.stream HAVING sum(w.waiting) > 0),
         stored AS (
             INSERT INTO queue_samples AS q (tenant_id, step, start_at, stream, waiting, due, oldest_due_seconds)
             SELECT sample.tenant_id, step.name, date_trunc(step.name, $1, 'UTC'), sample.stream, sample.waiting, sample.due,
                    greatest(sample.age, 0)
             FROM sample CROSS JOIN (VALUES ('minute'), ('hour'), ('day')) AS step (name)
             ON CONFLICT (tenant_id, step, start_at, stream) DO UPDATE SET
                 waiting = greatest(q.waiting, excluded.waiting), due = greatest(q.due, excluded.due),
                 oldest_due_seconds = greatest(q.oldest_due_seconds, excluded.oldest_due_seconds))
         SELECT id FROM turn",
        Step::Minute.floor(now),
        now,
        COUNTED
    )
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(turn.is_some())
    })
    .await
}
