//! `workers`: who is alive, and what becomes of the rows of one that is not.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::lanes::Lowered;
use super::queue::{SCAN_LIMIT, allow_scan};
use super::{Db, DbError, lanes};

/// Makes a worker known. Heartbeats are told by the database's clock, so that replicas need not agree on the time.
pub async fn register(db: &Db, id: Uuid, host: &str, pid: i32) -> Result<(), DbError> {
    let query = sqlx::query!(
        "INSERT INTO workers (id, host, pid, started_at, heartbeat_at)
         VALUES ($1, $2, $3, clock_timestamp(), clock_timestamp())",
        id,
        host,
        pid
    );
    db.timed("workers.register", query.execute(&db.pool)).await.map(|_| ())
}

/// Says that a worker is alive. Answers `false` where it has been declared dead: its leases are gone.
pub async fn heartbeat(db: &Db, id: Uuid) -> Result<bool, DbError> {
    let query = sqlx::query!("UPDATE workers SET heartbeat_at = clock_timestamp() WHERE id = $1", id);
    db.timed("workers.heartbeat", query.execute(&db.pool)).await.map(|done| done.rows_affected() == 1)
}

/// What a worker left behind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// Workers declared dead.
    pub workers: usize,
    /// Recipients freed for others.
    pub freed: usize,
    /// Recipients held because workers kept dying with them.
    pub held: usize,
}

/// A recipient that so many workers died with is held for an operator.
const CRASHES_TO_HOLD: i16 = 3;

/// Declares workers dead that have not been heard of for `lease`, and frees what they had in hand, due at `now`.
pub async fn reap(db: &Db, lease: Duration, now: DateTime<Utc>) -> Result<Reaped, DbError> {
    db.timed_for(SCAN_LIMIT, "workers.reap", async {
        let mut tx = db.pool.begin().await?;
        allow_scan(&mut tx).await?;
        let dead = sqlx::query_scalar!(
            "DELETE FROM workers WHERE id IN
                 (SELECT id FROM workers WHERE heartbeat_at < clock_timestamp() - make_interval(secs => $1)
                  ORDER BY id FOR UPDATE SKIP LOCKED)
             RETURNING id",
            lease.as_secs_f64()
        )
        .fetch_all(&mut *tx)
        .await?;
        if dead.is_empty() {
            return Ok(Reaped::default());
        }
        // No index on lease: it would cost every claim, and this scan runs only when a worker has died.
        let freed = sqlx::query!(
            r#"UPDATE queue SET lease = NULL, crashes = crashes + 1,
                   held = CASE WHEN crashes + 1 >= $3::smallint
                          THEN 'held: ' || (crashes + 1) || ' workers died while they had this message in hand' END,
                   due_at = CASE WHEN crashes + 1 >= $3::smallint THEN timestamptz 'infinity' ELSE $2::timestamptz END
               WHERE lease = ANY ($1)
               RETURNING lane_id, held IS NOT NULL AS "held!""#,
            &dead,
            now,
            CRASHES_TO_HOLD
        )
        .fetch_all(&mut *tx)
        .await?;
        let lowered = freed.iter().filter(|row| !row.held).map(|row| Lowered { lane: row.lane_id, due_at: now });
        lanes::lower(&mut tx, lowered).await?;
        tx.commit().await?;
        let held = freed.iter().filter(|row| row.held).count();
        Ok(Reaped { workers: dead.len(), freed: freed.len() - held, held })
    })
    .await
}

/// Takes a worker off the list once it has nothing in hand; what it still has is freed without blame.
pub async fn deregister(db: &Db, id: Uuid) -> Result<(), DbError> {
    db.timed_for(SCAN_LIMIT, "workers.deregister", async {
        let mut tx = db.pool.begin().await?;
        allow_scan(&mut tx).await?;
        // First, so that no claim of ours comes after.
        sqlx::query!("DELETE FROM workers WHERE id = $1", id).execute(&mut *tx).await?;
        let freed = sqlx::query_as!(
            Lowered,
            "UPDATE queue SET lease = NULL WHERE lease = $1 RETURNING lane_id AS lane, due_at",
            id
        )
        .fetch_all(&mut *tx)
        .await?;
        lanes::lower(&mut tx, freed).await?;
        tx.commit().await
    })
    .await
}
