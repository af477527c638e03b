//! Samples of the queue, by tenant and stream.

use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use crate::db::pool::scan::{SCAN_LIMIT, allow_scan};
use crate::db::{Db, DbError};
use crate::domain::statistics::Step;

/// Counting stops at this number of recipients in a lane.
const COUNTED: i64 = 100_000;
/// A long queue takes time to count. The next sample waits for at least this many times as long as the last one took.
const PAUSE: i32 = 50;

/// Measures the queues of all tenants, unless this was done in this minute already, or a moment ago and took long. Returns
/// whether it did.
pub async fn sample(db: &Db, now: DateTime<Utc>) -> Result<bool, DbError> {
    db.timed_for(SCAN_LIMIT, "statistics.sample_queue", async {
        let started = Instant::now();
        let mut tx = db.pool.begin().await?;
        allow_scan(&mut tx).await?;
        let is_measured = measure(&mut tx, now).await?;
        if is_measured {
            let took = TimeDelta::from_std(started.elapsed()).unwrap_or_default();
            postpone(&mut tx, now + took * PAUSE).await?;
        }
        tx.commit().await?;
        Ok(is_measured)
    })
    .await
}

/// Measures the queues, and stores for which time spans, if it is time for that and no other process does it.
async fn measure(tx: &mut PgConnection, now: DateTime<Utc>) -> Result<bool, sqlx::Error> {
    let minute = Step::Minute.floor(now);
    // Reads from `ready_at` on, as a claim does: before it, there are only dead index entries. Lanes without waiting
    // recipients are not looked at.
    sqlx::query!(
        "WITH turn AS MATERIALIZED (
             UPDATE queue_sampling SET next_at = $3
             WHERE id = (SELECT id FROM queue_sampling WHERE next_at <= $2 FOR UPDATE SKIP LOCKED)
             RETURNING id),
         step AS MATERIALIZED (
             SELECT name, date_trunc(name, $1, 'UTC') AS start_at
             FROM unnest('{minute,hour,day}'::text[]) AS u (name) WHERE (SELECT count(*) FROM turn) = 1),
         sampled AS (
             INSERT INTO queue_sampled (step, start_at) SELECT name, start_at FROM step ON CONFLICT DO NOTHING),
         sample AS MATERIALIZED (
             SELECT l.tenant_id, l.stream, sum(w.waiting)::bigint AS waiting, sum(w.due)::bigint AS due,
                    coalesce(floor(extract(epoch FROM $2 - min(w.oldest) FILTER (
                        WHERE l.paused_at IS NULL AND s.paused_at IS NULL AND l.blocked_since IS NULL))), 0)::bigint AS age
             FROM lanes l
             JOIN streams s ON s.tenant_id = l.tenant_id AND s.name = l.stream
             CROSS JOIN LATERAL (
                 SELECT count(*) AS waiting, count(*) FILTER (WHERE due_at <= $2) AS due, min(due_at) AS oldest
                 FROM (SELECT due_at FROM queue WHERE lane_id = l.id AND lease IS NULL AND due_at >= l.ready_at
                          AND due_at < 'infinity' ORDER BY due_at LIMIT $4) q) w
             WHERE l.ready_at < 'infinity' AND (SELECT count(*) FROM turn) = 1
             GROUP BY l.tenant_id, l.stream HAVING sum(w.waiting) > 0),
         stored AS (
             INSERT INTO queue_samples AS q (tenant_id, step, start_at, stream, waiting, due, oldest_due_seconds)
             SELECT sample.tenant_id, step.name, step.start_at, sample.stream, sample.waiting, sample.due,
                    greatest(sample.age, 0)
             FROM sample CROSS JOIN step
             ON CONFLICT (tenant_id, step, start_at, stream) DO UPDATE SET
                 waiting = greatest(q.waiting, excluded.waiting), due = greatest(q.due, excluded.due),
                 oldest_due_seconds = greatest(q.oldest_due_seconds, excluded.oldest_due_seconds))
         SELECT id FROM turn",
        minute,
        now,
        minute + Step::Minute.length(),
        COUNTED
    )
    .fetch_optional(tx)
    .await
    .map(|turn| turn.is_some())
}

/// Lets the next sample wait at least until this time, in all processes.
async fn postpone(tx: &mut PgConnection, until: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE queue_sampling SET next_at = $1 WHERE next_at < $1", until).execute(tx).await.map(|_| ())
}
