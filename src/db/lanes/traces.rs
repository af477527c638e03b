//! Lanes whose attempts are traced: the SMTP conversations of their next attempts are kept, also of successful ones.

use std::collections::HashSet;

use crate::db::{Db, DbError};
use crate::domain::id::{LaneId, TenantId};

/// Traces the next attempts of a lane, instead of those that remain from an earlier request. Returns whether the lane
/// exists.
pub async fn request(db: &Db, tenant: TenantId, lane: LaneId, attempts: i32) -> Result<bool, DbError> {
    let query = sqlx::query!(
        "INSERT INTO lane_traces (tenant_id, lane_id, remaining)
         SELECT tenant_id, id, $3::integer FROM lanes WHERE tenant_id = $1 AND id = $2
         ON CONFLICT (lane_id) DO UPDATE SET remaining = excluded.remaining",
        tenant.0,
        lane.0,
        attempts
    );
    db.timed("lanes.traces.request", query.execute(&db.pool)).await.map(|done| done.rows_affected() == 1)
}

/// Returns the ids of all lanes with attempts to trace.
pub async fn all(db: &Db) -> Result<HashSet<i64>, DbError> {
    let query = sqlx::query_scalar!("SELECT lane_id FROM lane_traces WHERE remaining > 0");
    db.timed("lanes.traces.all", query.fetch_all(&db.pool)).await.map(|ids| ids.into_iter().collect())
}

/// Counts an attempt of a lane. Returns whether it is one of those to trace.
pub async fn take_turn(db: &Db, lane: i64) -> Result<bool, DbError> {
    // The attempt does not wait for the disk. If a server crash loses the commit, one more attempt is traced.
    let query = sqlx::query!(
        "WITH durability AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
         UPDATE lane_traces SET remaining = remaining - 1 FROM durability WHERE lane_id = $1 AND remaining > 0",
        lane
    );
    db.timed("lanes.traces.take_turn", query.execute(&db.pool)).await.map(|done| done.rows_affected() == 1)
}

/// Gives back the turn of an attempt that was not made. Returns whether the lane has a trace.
pub async fn return_turn(db: &Db, lane: i64) -> Result<bool, DbError> {
    let query = sqlx::query!(
        "WITH durability AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
         UPDATE lane_traces SET remaining = least(remaining + 1, 100) FROM durability WHERE lane_id = $1",
        lane
    );
    db.timed("lanes.traces.return_turn", query.execute(&db.pool)).await.map(|done| done.rows_affected() == 1)
}
