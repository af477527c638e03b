//! `lanes`: what waits together, and which of them have something due.
//!
//! `ready_at` is a lower bound of the due times of a lane's free rows. Whoever adds or frees rows calls `lower` in the
//! same transaction, which holds a share lock on the lane until it commits; [`settle`] raises the bound only under an
//! exclusive lock, so that no row is ever overlooked.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Db, DbError};
use crate::domain::id::TenantId;

/// What makes a lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneName {
    /// Whose mail.
    pub tenant: TenantId,
    /// In which stream.
    pub stream: String,
    /// `relay` or `mx`.
    pub route: &'static str,
    /// Destination domain; `*` for all that goes through a relay.
    pub domain: String,
}

/// A lane with something due.
#[derive(Debug, Clone)]
pub struct ReadyLane {
    /// `lanes.id`.
    pub id: i64,
    /// Lower goes first.
    pub priority: i16,
    /// `relay` or `mx`.
    pub route: String,
    /// No free row of it is due earlier.
    pub ready_at: DateTime<Utc>,
}

/// Finds or makes a lane.
pub async fn ensure(db: &Db, name: &LaneName) -> Result<i64, DbError> {
    // The update changes nothing: it makes the statement answer the id of a lane that was there. Not of a key column:
    // that would wait for every commit that adds to the lane.
    let query = sqlx::query_scalar!(
        "INSERT INTO lanes (tenant_id, stream, route, domain, priority)
         SELECT $1, $2, $3, $4, priority FROM streams WHERE tenant_id = $1 AND name = $2
         ON CONFLICT (tenant_id, stream, route, domain) DO UPDATE SET priority = lanes.priority
         RETURNING id",
        name.tenant.0,
        name.stream,
        name.route,
        name.domain
    );
    db.timed("lanes.ensure", query.fetch_one(&db.pool)).await
}

/// Lanes with something due, the most urgent first, and among those the one that has waited longest.
pub async fn ready(db: &Db, now: DateTime<Utc>, limit: i64) -> Result<Vec<ReadyLane>, DbError> {
    let query = sqlx::query_as!(
        ReadyLane,
        "SELECT id, priority, route, ready_at FROM lanes
         WHERE paused_at IS NULL AND ready_at < 'infinity' AND ready_at <= $1
         ORDER BY priority, ready_at LIMIT $2",
        now,
        limit
    );
    db.timed("lanes.ready", query.fetch_all(&db.pool)).await
}

/// A row that was added to a lane or freed in it.
#[derive(Debug, Clone, Copy)]
pub struct Lowered {
    /// `lanes.id`.
    pub lane: i64,
    /// When the row is due.
    pub due_at: DateTime<Utc>,
}

/// Makes sure that these lanes count as ready when their new rows are due.
pub(super) async fn lower(
    connection: &mut PgConnection,
    rows: impl IntoIterator<Item = Lowered>,
) -> Result<(), sqlx::Error> {
    let mut earliest = BTreeMap::new();
    for row in rows {
        let due = earliest.entry(row.lane).or_insert(row.due_at);
        *due = row.due_at.min(*due);
    }
    if earliest.is_empty() {
        return Ok(());
    }
    let (ids, due): (Vec<i64>, Vec<DateTime<Utc>>) = earliest.into_iter().unzip();
    // In the order of their ids, so that two commits never wait for each other.
    sqlx::query!("SELECT id FROM lanes WHERE id = ANY ($1) ORDER BY id FOR KEY SHARE", &ids)
        .fetch_all(&mut *connection)
        .await?;
    sqlx::query!(
        "WITH late AS (
             SELECT l.id, u.due_at FROM lanes l
             JOIN unnest($1::bigint[], $2::timestamptz[]) AS u (id, due_at) USING (id)
             WHERE l.ready_at > u.due_at ORDER BY l.id FOR NO KEY UPDATE OF l)
         UPDATE lanes SET ready_at = late.due_at FROM late WHERE lanes.id = late.id",
        &ids,
        &due
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Raises `ready_at` of lanes to when they next have something due. Lanes that are being added to are left alone.
pub async fn settle(db: &Db, lanes: &[i64]) -> Result<(), DbError> {
    db.timed("lanes.settle", async {
        let mut tx = db.pool.begin().await?;
        let locked =
            sqlx::query_scalar!("SELECT id FROM lanes WHERE id = ANY ($1) ORDER BY id FOR UPDATE SKIP LOCKED", lanes)
                .fetch_all(&mut *tx)
                .await?;
        // A statement of its own: it sees what was committed before the lock was had.
        sqlx::query!(
            "UPDATE lanes SET ready_at = coalesce(
                 (SELECT min(due_at) FROM queue
                  WHERE lane_id = lanes.id AND lease IS NULL AND due_at >= lanes.ready_at), 'infinity')
             WHERE id = ANY ($1)",
            &locked
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    })
    .await
}
