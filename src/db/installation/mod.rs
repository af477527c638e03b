//! The table `installation`: the identity of this installation, the mark that shows whether the database is the newest state,
//! and the hold of the restore guard.

pub mod release;

use std::time::Duration;

use uuid::Uuid;

use super::events::skip::skip_numbers;
use super::pool::restore_gate::Witness;
use super::pool::scan::{SCAN_LIMIT, allow_scan};
use super::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::installation::restore::{Hold, HoldReason, KEPT_BRANCHES, Mark, Observation, Place};

/// Minimum age of a mark before the next one.
pub const MARK_INTERVAL: Duration = Duration::from_secs(1);

/// Reads what the server and the database say, over a connection that no long scan can occupy.
pub async fn observe(db: &Db) -> Result<Observation, DbError> {
    let query = sqlx::query!(
        r#"SELECT i.id, i.name, i.epoch, i.system_identifier AS marked_system_identifier, i.database_oid AS marked_database_oid,
                  i.table_oid AS marked_table_oid, i.mark, i.marked_at, i.branch, i.earlier_branches, i.branch_ends,
                  i.held_at, i.held_reason, i.held_detail,
                  p.system_identifier, p.timeline, p.lsn, p.replayed_lsn, p.is_standby AS "is_standby!",
                  (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS "database_oid!",
                  i.tableoid::bigint AS "table_oid!", pg_postmaster_start_time() AS "started_at!",
                  (SELECT last_seq FROM event_counters WHERE tenant_id = $1) AS event_seq,
                  (SELECT max(heartbeat_at) FROM workers) AS heartbeat_at, clock_timestamp() AS "now!"
           FROM installation i, server_position() p"#,
        TenantId::DEFAULT.0
    );
    let row = db.timed("installation.observe", query.fetch_one(&db.pool.hot())).await?;
    let marked_place = row.marked_database_oid.zip(row.marked_table_oid).map(|(database_oid, table_oid)| Place {
        system_identifier: row.marked_system_identifier,
        database_oid,
        table_oid,
    });
    let reason = row.held_reason.as_deref().and_then(HoldReason::from_word);
    let hold = row.held_at.map(|since| Hold {
        // A reason that this version does not know was recorded by a later one.
        reason: reason.unwrap_or(HoldReason::RolledBack),
        since,
        detail: row.held_detail.unwrap_or_default(),
    });
    Ok(Observation {
        installation: row.id,
        name: row.name,
        hold,
        epoch: row.epoch,
        mark: row.mark,
        marked_at: row.marked_at,
        branch: row.branch,
        earlier_branches: row.earlier_branches.into_iter().zip(row.branch_ends).collect(),
        event_seq: row.event_seq.unwrap_or_default(),
        marked_place,
        place: Place {
            system_identifier: row.system_identifier,
            database_oid: row.database_oid,
            table_oid: row.table_oid,
        },
        timeline: row.timeline,
        lsn: row.lsn,
        replayed_lsn: row.replayed_lsn,
        is_commit_lost: false,
        is_standby: row.is_standby,
        started_at: row.started_at,
        heartbeat_at: row.heartbeat_at,
        now: row.now,
    })
}

/// Returns whether the database lacks a transaction that this process has committed.
pub async fn lacks_any(db: &Db, witnesses: &[Witness]) -> Result<bool, DbError> {
    let tenants: Vec<Uuid> = witnesses.iter().map(|witness| witness.tenant).collect();
    let messages: Vec<Uuid> = witnesses.iter().map(|witness| witness.message).collect();
    let recipients: Vec<Option<Uuid>> = witnesses.iter().map(|witness| witness.recipient).collect();
    let attempts: Vec<Option<i16>> = witnesses.iter().map(|witness| witness.attempt).collect();
    // The events of a deleted tenant are deleted.
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::smallint[])
                   AS w (tenant_id, message_id, recipient_id, attempt)
               JOIN tenants t ON t.id = w.tenant_id AND t.deleting_at IS NULL
               WHERE NOT EXISTS (
                   SELECT FROM events e WHERE e.message_id = w.message_id AND e.tenant_id = w.tenant_id
                      AND (w.recipient_id IS NULL OR e.recipient_id = w.recipient_id AND e.attempt = w.attempt)))
               AS "lacks!""#,
        &tenants,
        &messages,
        &recipients as _,
        &attempts as _
    );
    db.timed("installation.lacks_any", query.fetch_one(&db.pool.hot())).await
}

/// Makes a mark, unless the last one is recent, and returns the newest one. `name` names an installation without a name;
/// `begins_branch` tells whether the mark begins a branch, as that of a process without a memory does. Returns `None` if the
/// database or the server is not as it was observed: the caller must look again.
pub async fn mark(
    db: &Db,
    observed: &Observation,
    name: Option<&str>,
    begins_branch: bool,
) -> Result<Option<Mark>, DbError> {
    // One statement: its transaction commits synchronously after it has read the end of the WAL, so a standby that has the
    // commit has all of the WAL before it.
    let query = sqlx::query_as!(
        Mark,
        r#"UPDATE installation i SET
               id = coalesce(i.id, gen_random_uuid()),
               epoch = CASE WHEN i.marked_at IS NULL THEN clock_timestamp() ELSE i.epoch END,
               mark = i.mark + 1, marked_at = clock_timestamp(), name = coalesce(i.name, $7 /* name */),
               system_identifier = p.system_identifier, timeline = p.timeline, lsn = p.lsn,
               database_oid = (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),
               table_oid = i.tableoid::bigint,
               branch = CASE WHEN $8 /* begins_branch */ THEN gen_random_uuid() ELSE i.branch END,
               earlier_branches = CASE WHEN $8 AND i.branch IS NOT NULL
                   THEN (i.earlier_branches || i.branch)[greatest(cardinality(i.earlier_branches) + 2 - $9 /* kept */, 1):]
                   ELSE i.earlier_branches END,
               branch_ends = CASE WHEN $8 AND i.branch IS NOT NULL
                   THEN (i.branch_ends || i.mark)[greatest(cardinality(i.branch_ends) + 2 - $9, 1):]
                   ELSE i.branch_ends END,
               event_seq = coalesce((SELECT last_seq FROM event_counters WHERE tenant_id = $1 /* tenant */), 0)
           FROM server_position() p
           WHERE i.held_at IS NULL AND i.epoch = $2 /* epoch */ AND i.mark = $3 /* mark */
             AND p.system_identifier IS NOT DISTINCT FROM $4 /* system_identifier */
             AND p.timeline IS NOT DISTINCT FROM $5 /* timeline */
             AND (i.marked_at IS NULL OR i.marked_at < clock_timestamp() - make_interval(secs => $6 /* interval */)
                  OR i.timeline IS DISTINCT FROM p.timeline OR $8)
           RETURNING i.id AS "installation!", i.epoch, i.mark AS number, i.marked_at AS "at!", i.timeline, i.lsn,
                     i.event_seq, i.branch"#,
        TenantId::DEFAULT.0,
        observed.epoch,
        observed.mark,
        observed.place.system_identifier,
        observed.timeline,
        MARK_INTERVAL.mul_f64(0.9).as_secs_f64(),
        name,
        begins_branch,
        i32::try_from(KEPT_BRANCHES).unwrap_or(i32::MAX)
    );
    let made = db.timed("installation.mark", query.fetch_optional(&db.pool.hot())).await?;
    if made.is_some() {
        return Ok(made);
    }
    // Another process made a mark. What is visible is committed, on a synchronous standby too.
    let query = sqlx::query_as!(
        Mark,
        r#"SELECT id AS "installation!", epoch, mark AS number, marked_at AS "at!", i.timeline, i.lsn, event_seq, branch
           FROM installation i, server_position() p
           WHERE held_at IS NULL AND epoch = $1 AND mark >= $2 AND marked_at IS NOT NULL
             AND i.timeline IS NOT DISTINCT FROM p.timeline AND p.timeline IS NOT DISTINCT FROM $3
             AND p.system_identifier IS NOT DISTINCT FROM $4"#,
        observed.epoch,
        observed.mark,
        observed.timeline,
        observed.place.system_identifier
    );
    db.timed("installation.last_mark", query.fetch_optional(&db.pool.hot())).await
}

/// Records a hold for all processes, and skips event numbers, so that no number is used a second time. Returns whether it was
/// recorded: another process may have done so, or an operator has released the guard.
pub async fn hold(db: &Db, observed: &Observation, hold: &Hold) -> Result<bool, DbError> {
    db.timed_for(SCAN_LIMIT, "installation.hold", async {
        let mut tx = db.pool.begin().await?;
        // It waits for every transaction that appends events.
        allow_scan(&mut tx).await?;
        let held = sqlx::query!(
            "UPDATE installation SET held_at = $1, held_reason = $2, held_detail = $3 WHERE held_at IS NULL AND epoch = $4",
            hold.since,
            hold.reason.as_str(),
            hold.detail,
            observed.epoch
        )
        .execute(&mut *tx)
        .await?;
        if held.rows_affected() == 0 {
            return Ok(false);
        }
        skip_numbers(&mut tx, observed.now).await?;
        tx.commit().await?;
        Ok(true)
    })
    .await
}

/// Ends a `stale` hold, and makes a mark, so that no other process finds the same
/// again. Changes nothing if the database is not as it was observed.
pub async fn end_stale(db: &Db, observed: &Observation) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE installation SET held_at = NULL, held_reason = NULL, held_detail = NULL, mark = mark + 1,
             marked_at = clock_timestamp()
         WHERE held_reason = $1 AND epoch = $2 AND mark = $3 AND marked_at IS NOT NULL",
        HoldReason::Stale.as_str(),
        observed.epoch,
        observed.mark
    );
    db.timed("installation.end_stale", query.execute(&db.pool.hot())).await.map(drop)
}
