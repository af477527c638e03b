//! Pauses, resumes and cancels bulks. Leased recipients are not changed, because they are being sent. If a leased
//! recipient is deferred afterwards, `accept::bulk::expander` holds or cancels it.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::BulkRow;
use crate::db::events::{self, NewEvent};
use crate::db::messages::actions::set_canceled;
use crate::db::pool::scan::look_up_by_keys;
use crate::db::queue::ready_at::{DueRow, lower};
use crate::db::{Db, DbError};
use crate::domain::id::{BulkId, MessageId, RecipientId, RecipientKey, TenantId};
use crate::domain::message::bulk::BulkState;

/// Maximum number of recipients that one transaction changes, so that it holds its locks only for a short time.
const PART: i64 = 200;

/// The beginning of `queue.held` of recipients that are held because their bulk is paused.
pub(in crate::db::messages) const PAUSED_PREFIX: &str = "held: the bulk ";

/// Sets the state of a bulk. A canceled bulk stays canceled. Returns whether the bulk is in the new state now.
pub async fn set_state(
    db: &Db,
    tenant: TenantId,
    id: BulkId,
    state: BulkState,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    let query = sqlx::query!(
        "UPDATE bulks SET state = $3, settled_at = CASE WHEN state = $3 THEN settled_at END,
                          state_changed_at = CASE WHEN state = $3 THEN state_changed_at ELSE $4 END,
                          resumed_from = CASE WHEN state = 'paused' AND $3 = 'active'
                                              THEN coalesce(resumed_from, state_changed_at) ELSE resumed_from END
         WHERE tenant_id = $1 AND id = $2 AND (state <> 'canceled' OR $3 = 'canceled')",
        tenant.0,
        id.0,
        state.as_str(),
        now
    );
    Ok(db.timed("bulks.set_state", query.execute(&db.pool)).await?.rows_affected() > 0)
}

/// Returns why recipients of a paused bulk are held (`queue.held`).
fn pause_reason(bulk: &BulkRow) -> String {
    let id = BulkId(bulk.id);
    format!("{PAUSED_PREFIX}{id} is paused; resume it with POST /v1/bulks/{id}/resume")
}

/// Holds the queued recipients of a bulk while it is paused. Each statement locks the bulk, so that resuming it waits.
pub async fn hold(db: &Db, bulk: &BulkRow) -> Result<(), DbError> {
    let reason = pause_reason(bulk);
    loop {
        let query = sqlx::query!(
            "WITH paused AS MATERIALIZED (
                 SELECT true FROM bulks WHERE tenant_id = $1 AND id = $2 AND state = 'paused' FOR SHARE)
             UPDATE queue q SET due_at = 'infinity', held = $3
             FROM (SELECT q.message_id, q.recipient_id FROM bulk_messages m
                   JOIN queue q ON q.message_id = m.message_id AND q.tenant_id = m.tenant_id
                   WHERE m.bulk_id = $2 AND m.tenant_id = $1 AND q.lease IS NULL AND q.held IS NULL
                     AND EXISTS (SELECT FROM paused)
                   ORDER BY q.message_id, q.recipient_id LIMIT $4 FOR UPDATE OF q SKIP LOCKED) AS found
             WHERE q.message_id = found.message_id AND q.recipient_id = found.recipient_id AND q.tenant_id = $1",
            bulk.tenant_id,
            bulk.id,
            reason,
            PART
        );
        if db.timed("bulks.hold", query.execute(&db.pool)).await?.rows_affected() == 0 {
            return Ok(());
        }
    }
}

/// Releases the recipients that were held by the pause that began at `bulk.resumed_from`, while the bulk is active.
/// Each transaction locks the bulk, so that pausing it again waits. The pause does not count towards the retry window.
pub async fn release_held(db: &Db, bulk: &BulkRow, now: DateTime<Utc>) -> Result<(), DbError> {
    let reason = pause_reason(bulk);
    let paused =
        bulk.resumed_from.map_or(TimeDelta::zero(), |from| (bulk.state_changed_at - from).max(TimeDelta::zero()));
    while release_part(db, bulk, &reason, paused, now).await? > 0 {}
    Ok(())
}

/// Releases some held recipients. Returns how many.
async fn release_part(
    db: &Db,
    bulk: &BulkRow,
    reason: &str,
    paused: TimeDelta,
    now: DateTime<Utc>,
) -> Result<usize, DbError> {
    db.timed("bulks.release_held", async {
        let mut tx = db.pool.begin().await?;
        let released = sqlx::query!(
            "WITH active AS MATERIALIZED (
                 SELECT true FROM bulks WHERE tenant_id = $1 AND id = $2 AND state = 'active' FOR SHARE)
             UPDATE queue q SET held = NULL, due_at = greatest(q.first_due_at, $5),
                    first_due_at = CASE WHEN q.first_due_at > $5 THEN q.first_due_at
                                        ELSE least(q.first_due_at + $6::interval, $5) END
             FROM (SELECT q.message_id, q.recipient_id FROM bulk_messages m
                   JOIN queue q ON q.message_id = m.message_id AND q.tenant_id = m.tenant_id
                   WHERE m.bulk_id = $2 AND m.tenant_id = $1 AND q.lease IS NULL AND q.held = $3
                     AND EXISTS (SELECT FROM active)
                   ORDER BY q.message_id, q.recipient_id LIMIT $4 FOR UPDATE OF q) AS found
             WHERE q.message_id = found.message_id AND q.recipient_id = found.recipient_id AND q.tenant_id = $1
             RETURNING q.lane_id, q.due_at",
            bulk.tenant_id,
            bulk.id,
            reason,
            PART,
            now,
            paused as _
        )
        .fetch_all(&mut *tx)
        .await?;
        lower(&mut tx, released.iter().map(|row| DueRow { lane: row.lane_id, due_at: row.due_at })).await?;
        tx.commit().await?;
        Ok(released.len())
    })
    .await
}

/// Cancels the queued recipients of a canceled bulk.
pub async fn cancel_queued(db: &Db, bulk: &BulkRow, now: DateTime<Utc>) -> Result<(), DbError> {
    while cancel_part(db, bulk, now).await? > 0 {}
    Ok(())
}

/// Cancels some queued recipients. Returns how many.
async fn cancel_part(db: &Db, bulk: &BulkRow, now: DateTime<Utc>) -> Result<usize, DbError> {
    db.timed("bulks.cancel_queued", async {
        let mut tx = db.pool.begin().await?;
        let canceled = sqlx::query!(
            "DELETE FROM queue q
             USING (SELECT q.message_id, q.recipient_id FROM bulk_messages m
                    JOIN queue q ON q.message_id = m.message_id AND q.tenant_id = m.tenant_id
                    WHERE m.bulk_id = $2 AND m.tenant_id = $1 AND q.lease IS NULL
                    ORDER BY q.message_id, q.recipient_id LIMIT $3 FOR UPDATE OF q SKIP LOCKED) AS found
             WHERE q.message_id = found.message_id AND q.recipient_id = found.recipient_id AND q.tenant_id = $1
             RETURNING q.message_id, q.recipient_id",
            bulk.tenant_id,
            bulk.id,
            PART
        )
        .fetch_all(&mut *tx)
        .await?;
        if !canceled.is_empty() {
            let rows: Vec<(Uuid, Uuid)> = canceled.iter().map(|row| (row.message_id, row.recipient_id)).collect();
            let tenant = TenantId(bulk.tenant_id);
            look_up_by_keys(&mut tx).await?;
            set_canceled(&mut tx, tenant, &rows, now).await?;
            let keys = canceled.iter().map(|row| RecipientKey {
                tenant,
                message: MessageId(row.message_id),
                recipient: RecipientId(row.recipient_id),
            });
            events::append(&mut tx, now, keys.map(NewEvent::canceled).collect()).await?;
        }
        tx.commit().await?;
        Ok(canceled.len())
    })
    .await
}

/// Returns whether the queue contains recipients of a bulk that are leased or not held: they are being sent, or were
/// being sent when the bulk was paused or canceled.
pub async fn is_sending(db: &Db, bulk: &BulkRow) -> Result<bool, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM bulk_messages m JOIN queue q ON q.message_id = m.message_id AND q.tenant_id = m.tenant_id
               WHERE m.bulk_id = $2 AND m.tenant_id = $1 AND (q.lease IS NOT NULL OR q.held IS NULL)) AS "is_sending!""#,
        bulk.tenant_id,
        bulk.id
    );
    db.timed("bulks.is_sending", query.fetch_one(&db.pool)).await
}
