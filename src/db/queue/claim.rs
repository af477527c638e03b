//! Claims: leases due recipients to a worker.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{ClaimQuota, Claimed};
use crate::db::{Db, DbError};

/// Leases due recipients of these lanes to `worker`, the oldest of each lane first. If a lane's quota splits a message,
/// also leases the message's other due recipients, up to `most` rows in total. A worker that was declared dead leases
/// nothing, even if its statement arrives later. For lanes with limits, use [`crate::db::lanes::limits::claim`].
pub async fn claim(
    db: &Db,
    worker: Uuid,
    quotas: &[ClaimQuota],
    most: usize,
    now: DateTime<Utc>,
) -> Result<Vec<Claimed>, DbError> {
    db.timed("queue.claim", async {
        let mut connection = db.pool.acquire_hot().await?;
        let leased = lease_due(&mut connection, worker, quotas, now).await?;
        let possibly_split = possibly_split(&leased, quotas);
        let mut claimed: Vec<Claimed> = leased.into_iter().map(|row| row.claimed).collect();
        let limit = most.saturating_sub(claimed.len());
        let rest = lease_rest_of_messages(&mut connection, worker, &possibly_split, limit, now).await?;
        claimed.extend(rest);
        Ok(claimed)
    })
    .await
}

/// A claimed recipient, and when it was due.
pub(in crate::db) struct LeasedRow {
    pub claimed: Claimed,
    due_at: DateTime<Utc>,
}

/// Returns the last row of each lane whose quota is used up: other recipients of its message may still be unleased.
fn possibly_split(leased: &[LeasedRow], quotas: &[ClaimQuota]) -> Vec<Claimed> {
    let last = |quota: &ClaimQuota| {
        let lane_rows = || leased.iter().filter(|row| row.claimed.lane_id == quota.lane);
        let is_full = i32::try_from(lane_rows().count()).map_or(true, |rows| rows >= quota.rows);
        let last = lane_rows().filter(|_| is_full).max_by_key(|row| (row.due_at, row.claimed.key()))?;
        Some(last.claimed.clone())
    };
    quotas.iter().filter_map(last).collect()
}

/// Leases due recipients of these lanes, the oldest of each lane first.
pub(in crate::db) async fn lease_due(
    connection: &mut PgConnection,
    worker: Uuid,
    quotas: &[ClaimQuota],
    now: DateTime<Utc>,
) -> Result<Vec<LeasedRow>, sqlx::Error> {
    let lanes: Vec<i64> = quotas.iter().map(|quota| quota.lane).collect();
    let rows: Vec<i32> = quotas.iter().map(|quota| quota.rows).collect();
    let from: Vec<DateTime<Utc>> = quotas.iter().map(|quota| quota.from).collect();
    // Rows are selected by `ctid`, which cannot change while they are locked. With a join, Postgres would scan the
    // whole queue, because it does not know that the quotas are small.
    let rows = sqlx::query!(
        "WITH me AS MATERIALIZED (SELECT id FROM workers WHERE id = $4 FOR KEY SHARE)
         UPDATE queue SET lease = $4, claims = claims + 1
         WHERE ctid = ANY (ARRAY(
             SELECT free.ctid
             FROM me CROSS JOIN unnest($1::bigint[], $2::integer[], $5::timestamptz[]) AS room (lane_id, rows, since)
             CROSS JOIN LATERAL (
                 SELECT ctid FROM queue
                 WHERE lane_id = room.lane_id AND lease IS NULL AND due_at <= $3 AND due_at >= room.since
                 ORDER BY due_at, message_id, recipient_id LIMIT room.rows FOR UPDATE SKIP LOCKED) AS free))
         RETURNING message_id, recipient_id, tenant_id, lane_id, attempts, crashes, first_due_at, claims, due_at",
        &lanes,
        &rows,
        now,
        worker,
        &from
    )
    .fetch_all(connection)
    .await?;
    let leased = rows.into_iter().map(|row| LeasedRow {
        due_at: row.due_at,
        claimed: Claimed {
            message_id: row.message_id,
            recipient_id: row.recipient_id,
            tenant_id: row.tenant_id,
            lane_id: row.lane_id,
            attempts: row.attempts,
            crashes: row.crashes,
            first_due_at: row.first_due_at,
            lease: worker,
            claims: row.claims,
        },
    });
    Ok(leased.collect())
}

/// Leases the other due recipients of these messages in the same lanes, at most `most` rows, so that a message to
/// several recipients is transferred once instead of once per claim.
pub(in crate::db) async fn lease_rest_of_messages(
    connection: &mut PgConnection,
    worker: Uuid,
    claimed: &[Claimed],
    most: usize,
    now: DateTime<Utc>,
) -> Result<Vec<Claimed>, sqlx::Error> {
    if claimed.is_empty() || most == 0 {
        return Ok(Vec::new());
    }
    let (messages, lanes): (Vec<Uuid>, Vec<i64>) = claimed.iter().map(|row| (row.message_id, row.lane_id)).unzip();
    sqlx::query_as!(
        Claimed,
        "WITH me AS MATERIALIZED (SELECT id FROM workers WHERE id = $1 FOR KEY SHARE)
         UPDATE queue SET lease = $1, claims = claims + 1
         WHERE ctid = ANY (ARRAY(
             SELECT q.ctid FROM me CROSS JOIN queue q
             JOIN (SELECT DISTINCT message_id, lane_id FROM unnest($2::uuid[], $3::bigint[]) AS u (message_id, lane_id)) u
                  USING (message_id, lane_id)
             WHERE q.message_id = ANY ($2) AND q.lease IS NULL AND q.due_at <= $4
             LIMIT $5 FOR UPDATE OF q SKIP LOCKED))
         RETURNING message_id, recipient_id, tenant_id, lane_id, attempts, crashes, first_due_at, $1::uuid AS \"lease!\",
                   claims",
        worker,
        &messages,
        &lanes,
        now,
        i64::try_from(most).unwrap_or(i64::MAX)
    )
    .fetch_all(connection)
    .await
}
