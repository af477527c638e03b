//! Actions on a queued message: cancel, reschedule, retry now; and on all messages that match a filter ([`jobs`]). They do
//! not change leased recipients, so each action is safe while a worker sends the message.

pub mod apply;
pub mod jobs;
pub mod redact;
pub mod select;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::events::{self, NewEvent};
use crate::db::pool::scan::look_up_by_keys;
use crate::db::queue::ready_at::{DueRow, lower, mark_due_now};
use crate::db::{Db, DbError};
use crate::domain::id::{MessageId, RecipientId, RecipientKey, TenantId};

/// Cancels all unleased recipients. Returns the recipients that this call canceled.
pub async fn cancel(db: &Db, tenant: TenantId, id: MessageId, now: DateTime<Utc>) -> Result<Vec<Uuid>, DbError> {
    db.timed("messages.actions.cancel", async {
        let mut tx = db.pool.begin().await?;
        let canceled = sqlx::query_scalar!(
            "WITH locked AS MATERIALIZED (
                 SELECT recipient_id FROM queue WHERE message_id = $1 AND tenant_id = $2 AND lease IS NULL
                 ORDER BY recipient_id FOR UPDATE)
             DELETE FROM queue q USING locked
             WHERE q.message_id = $1 AND q.tenant_id = $2 AND q.recipient_id = locked.recipient_id
             RETURNING q.recipient_id",
            id.0,
            tenant.0
        )
        .fetch_all(&mut *tx)
        .await?;
        if !canceled.is_empty() {
            let rows: Vec<(Uuid, Uuid)> = canceled.iter().map(|recipient| (id.0, *recipient)).collect();
            look_up_by_keys(&mut tx).await?;
            set_canceled(&mut tx, tenant, &rows, now).await?;
            append_events(&mut tx, (tenant, id), canceled.iter().copied(), NewEvent::canceled, now).await?;
        }
        tx.commit().await?;
        Ok(canceled)
    })
    .await
}

/// Reschedules the recipients that wait for the message's `scheduled_at`. Returns whether there were any.
pub async fn reschedule(
    db: &Db,
    tenant: TenantId,
    id: MessageId,
    at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    db.timed("messages.actions.reschedule", async {
        let mut tx = db.pool.begin().await?;
        let moved = sqlx::query!(
            "WITH locked AS MATERIALIZED (
                 SELECT recipient_id FROM queue
                 WHERE message_id = $1 AND tenant_id = $2 AND lease IS NULL AND attempts = 0 AND held IS NULL
                   AND first_due_at > $4
                 ORDER BY recipient_id FOR UPDATE)
             UPDATE queue q SET due_at = $3, first_due_at = $3 FROM locked
             WHERE q.message_id = $1 AND q.tenant_id = $2 AND q.recipient_id = locked.recipient_id
             RETURNING q.recipient_id, q.lane_id",
            id.0,
            tenant.0,
            at,
            now
        )
        .fetch_all(&mut *tx)
        .await?;
        if !moved.is_empty() {
            sqlx::query!("UPDATE messages SET scheduled_at = $3 WHERE tenant_id = $1 AND id = $2", tenant.0, id.0, at)
                .execute(&mut *tx)
                .await?;
            lower(&mut tx, moved.iter().map(|row| DueRow { lane: row.lane_id, due_at: at })).await?;
            let recipients = moved.iter().map(|row| row.recipient_id);
            append_events(&mut tx, (tenant, id), recipients, |key| NewEvent::rescheduled(key, at), now).await?;
        }
        tx.commit().await?;
        Ok(!moved.is_empty())
    })
    .await
}

/// Makes deferred and held recipients, and those that could not be prepared, due now. If the destination is
/// unreachable, its next probe is due now. Returns the affected recipients.
pub async fn retry(db: &Db, tenant: TenantId, id: MessageId, now: DateTime<Utc>) -> Result<Vec<Uuid>, DbError> {
    db.timed("messages.actions.retry", async {
        let mut tx = db.pool.begin().await?;
        let due = sqlx::query!(
            "WITH locked AS MATERIALIZED (
                 SELECT recipient_id FROM queue
                 WHERE message_id = $1 AND tenant_id = $2 AND lease IS NULL
                   AND (attempts > 0 OR held IS NOT NULL OR preparation_error IS NOT NULL)
                 ORDER BY recipient_id FOR UPDATE)
             UPDATE queue q SET due_at = $3, held = NULL, crashes = 0 FROM locked
             WHERE q.message_id = $1 AND q.tenant_id = $2 AND q.recipient_id = locked.recipient_id
             RETURNING q.recipient_id, q.lane_id",
            id.0,
            tenant.0,
            now
        )
        .fetch_all(&mut *tx)
        .await?;
        mark_due_now(&mut tx, due.iter().map(|row| row.lane_id), now).await?;
        tx.commit().await?;
        Ok(due.into_iter().map(|row| row.recipient_id).collect())
    })
    .await
}

/// An uncertain recipient to requeue.
#[derive(Debug, Clone, Copy)]
pub struct Requeued {
    /// The recipient.
    pub recipient_id: Uuid,
    /// The lane that it is queued in.
    pub lane_id: i64,
}

/// Requeues uncertain recipients of a message. Returns the affected recipients.
pub async fn requeue_uncertain(
    db: &Db,
    tenant: TenantId,
    id: MessageId,
    recipients: &[Requeued],
    now: DateTime<Utc>,
) -> Result<Vec<Uuid>, DbError> {
    db.timed("messages.actions.requeue_uncertain", async {
        let mut tx = db.pool.begin().await?;
        let requeued = insert_requeued(&mut tx, tenant, id, recipients, now).await?;
        if !requeued.is_empty() {
            mark_due_now(&mut tx, requeued.iter().map(|row| row.lane_id), now).await?;
            let recipients = requeued.iter().map(|row| row.recipient_id);
            append_events(&mut tx, (tenant, id), recipients, |key| NewEvent::requeued(key, now), now).await?;
        }
        tx.commit().await?;
        Ok(requeued.into_iter().map(|row| row.recipient_id).collect())
    })
    .await
}

/// Inserts queue rows for uncertain recipients of a message, without events. Returns those that were still uncertain; none if the content
/// of the message was deleted.
async fn insert_requeued(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: MessageId,
    recipients: &[Requeued],
    now: DateTime<Utc>,
) -> Result<Vec<Requeued>, sqlx::Error> {
    // As for redacting, the message is locked before its recipients: a call that waited for the other one sees what it did.
    let has_content = sqlx::query_scalar!(
        r#"SELECT content_deleted_at IS NULL AS "has_content!" FROM messages WHERE tenant_id = $1 AND id = $2 FOR SHARE"#,
        tenant.0,
        id.0
    );
    if has_content.fetch_optional(&mut *connection).await? != Some(true) {
        return Ok(Vec::new());
    }
    // `claims` starts at a random number. If it could equal that of the earlier queue row, the fence would accept a
    // late outcome of the earlier attempt for the new row.
    let (ids, lane_ids): (Vec<Uuid>, Vec<i64>) = recipients.iter().map(|r| (r.recipient_id, r.lane_id)).unzip();
    sqlx::query_as!(
        Requeued,
        "WITH back AS (
             UPDATE recipients r SET status = 'deferred', finished_at = NULL
             FROM unnest($3::uuid[], $4::bigint[]) AS u (id, lane_id)
             WHERE r.tenant_id = $1 AND r.message_id = $2 AND r.id = u.id AND r.status = 'uncertain'
             RETURNING r.id, u.lane_id, r.attempts)
         INSERT INTO queue (message_id, recipient_id, tenant_id, lane_id, due_at, first_due_at, expires_at, attempts,
                            claims)
         SELECT $2, id, $1, lane_id, $5, $5, (SELECT expires_at FROM messages WHERE tenant_id = $1 AND id = $2),
                attempts, floor(random() * 1e9)::integer FROM back
         RETURNING recipient_id, lane_id",
        tenant.0,
        id.0,
        &ids,
        &lane_ids,
        now
    )
    .fetch_all(connection)
    .await
}

/// Sets the status of recipients, given by message and id. The transaction [looks up rows by their keys](look_up_by_keys)
/// and has deleted their queue rows, so no worker records an outcome for them. A complaint may change them meanwhile. The
/// caller appends their events.
pub(in crate::db) async fn set_canceled(
    connection: &mut PgConnection,
    tenant: TenantId,
    recipients: &[(Uuid, Uuid)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let (messages, ids): (Vec<Uuid>, Vec<Uuid>) = recipients.iter().copied().unzip();
    sqlx::query!(
        "UPDATE recipients r SET status = 'canceled', finished_at = $4
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS u (tenant_id, message_id, id)
         WHERE r.tenant_id = u.tenant_id AND r.message_id = ANY (ARRAY[u.message_id]) AND r.id = u.id",
        &vec![tenant.0; ids.len()],
        &messages,
        &ids,
        now
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Appends one event for each of these recipients.
async fn append_events(
    connection: &mut PgConnection,
    (tenant, message): (TenantId, MessageId),
    recipients: impl IntoIterator<Item = Uuid>,
    event: impl Fn(RecipientKey) -> NewEvent<'static>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let keys = recipients.into_iter().map(|id| RecipientKey { tenant, message, recipient: RecipientId(id) });
    events::append(connection, now, keys.map(event).collect()).await
}
