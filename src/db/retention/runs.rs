//! Which worker deletes old data: the table `retention_runs`.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::db::{Db, DbError};

/// How long a worker that does not renew its lease keeps the others from deleting.
const LEASE: TimeDelta = TimeDelta::minutes(5);

/// Begins a run, unless another holder's run is in progress. Returns whether it began.
pub async fn begin(db: &Db, holder: Uuid, now: DateTime<Utc>) -> Result<bool, DbError> {
    let query = sqlx::query!(
        "UPDATE retention_runs SET holder = $1, leased_until = $3, started_at = $2
         WHERE holder = $1 OR leased_until <= $2",
        holder,
        now,
        now + LEASE
    );
    db.timed("retention.runs.begin", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Renews the lease. Returns whether this run may continue.
pub async fn renew(db: &Db, holder: Uuid, now: DateTime<Utc>) -> Result<bool, DbError> {
    let query = sqlx::query!("UPDATE retention_runs SET leased_until = $2 WHERE holder = $1", holder, now + LEASE);
    db.timed("retention.runs.renew", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Ends a run.
pub async fn end(db: &Db, holder: Uuid, now: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE retention_runs SET leased_until = '-infinity', ended_at = $2, holder = NULL WHERE holder = $1",
        holder,
        now
    );
    db.timed("retention.runs.end", query.execute(&db.pool)).await.map(drop)
}
