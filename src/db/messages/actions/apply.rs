//! Changes some of the recipients that an action has found, and moves the action's position, in one transaction: after a
//! crash, the next process continues where the last transaction ended. The changes are those of the actions on a single
//! message.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::jobs::Lease;
use super::select::Position;
use super::{Requeued, insert_requeued, set_canceled};
use crate::db::events::{self, NewEvent};
use crate::db::messages::bulks::control::PAUSED_PREFIX;
use crate::db::pool::scan::look_up_by_keys;
use crate::db::queue::ready_at::mark_due_now;
use crate::db::{Db, DbError};
use crate::domain::id::{MessageId, RecipientId, RecipientKey, TenantId};
use crate::domain::message::action::ActionKind;

/// A part of the recipients that an action has found.
#[derive(Debug)]
pub struct Part<'a> {
    /// The action.
    pub lease: Lease,
    /// What to do.
    pub kind: ActionKind,
    /// The message and the id of each recipient that matched.
    pub recipients: &'a [(Uuid, Uuid)],
    /// The position after this part.
    pub position: Position,
    /// Number of rows of the queue that were examined for this part.
    pub examined: i64,
}

/// Changes queued recipients. Those that are leased now do not change. Returns the number of changed recipients; `None` if
/// nothing was changed because the action is not running, or not leased by this process any more.
pub async fn apply(db: &Db, part: &Part<'_>, now: DateTime<Utc>) -> Result<Option<usize>, DbError> {
    db.timed("actions.apply", async {
        let mut tx = db.pool.begin().await?;
        if !lock(&mut tx, part.lease).await? {
            return Ok(None);
        }
        let tenant = part.lease.tenant;
        let changed = if part.recipients.is_empty() {
            Vec::new()
        } else if part.kind == ActionKind::Cancel {
            delete_queued(&mut tx, tenant, part.recipients).await?
        } else {
            make_due(&mut tx, tenant, part, now).await?
        };
        if part.kind == ActionKind::Cancel && !changed.is_empty() {
            set_canceled(&mut tx, tenant, &changed, now).await?;
        }
        advance(&mut tx, part, part.recipients.len(), changed.len()).await?;
        if part.kind == ActionKind::Cancel && !changed.is_empty() {
            let keys = changed.iter().map(|(message, recipient)| key(tenant, *message, *recipient));
            events::append(&mut tx, now, keys.map(NewEvent::canceled).collect()).await?;
        }
        tx.commit().await?;
        Ok(Some(changed.len()))
    })
    .await
}

/// Requeues uncertain recipients, given by their messages. Returns the number of changed recipients; `None` as in
/// [`apply`].
pub async fn requeue(
    db: &Db,
    part: &Part<'_>,
    messages: &[(MessageId, Vec<Requeued>)],
    now: DateTime<Utc>,
) -> Result<Option<usize>, DbError> {
    db.timed("actions.requeue", async {
        let mut tx = db.pool.begin().await?;
        if !lock(&mut tx, part.lease).await? {
            return Ok(None);
        }
        let tenant = part.lease.tenant;
        let (mut lanes, mut keys) = (Vec::new(), Vec::new());
        for (message, recipients) in messages {
            let requeued = insert_requeued(&mut tx, tenant, *message, recipients, now).await?;
            lanes.extend(requeued.iter().map(|row| row.lane_id));
            keys.extend(requeued.iter().map(|row| key(tenant, message.0, row.recipient_id)));
        }
        if !lanes.is_empty() {
            mark_due_now(&mut tx, lanes.into_iter(), now).await?;
        }
        let (matched, changed) = (messages.iter().map(|(_, recipients)| recipients.len()).sum(), keys.len());
        advance(&mut tx, part, matched, changed).await?;
        if changed > 0 {
            let events = keys.into_iter().map(|key| NewEvent::requeued(key, now)).collect();
            events::append(&mut tx, now, events).await?;
        }
        tx.commit().await?;
        Ok(Some(changed))
    })
    .await
}

fn key(tenant: TenantId, message: Uuid, recipient: Uuid) -> RecipientKey {
    RecipientKey { tenant, message: MessageId(message), recipient: RecipientId(recipient) }
}

/// Locks the action; returns `false` if it is not running, or not leased by this process any more. From here on, the
/// transaction [looks up rows by their keys](look_up_by_keys).
async fn lock(connection: &mut PgConnection, lease: Lease) -> Result<bool, sqlx::Error> {
    look_up_by_keys(connection).await?;
    let locked = sqlx::query_scalar!(
        "SELECT id FROM message_actions
         WHERE tenant_id = $1 AND id = $2 AND leased_until = $3 AND status = 'running' FOR UPDATE",
        lease.tenant.0,
        lease.id.0,
        lease.until
    );
    Ok(locked.fetch_optional(connection).await?.is_some())
}

/// Deletes the queue rows of recipients that are not leased. Returns these recipients. The transaction
/// [looks up rows by their keys](look_up_by_keys).
pub(in crate::db) async fn delete_queued(
    connection: &mut PgConnection,
    tenant: TenantId,
    recipients: &[(Uuid, Uuid)],
) -> Result<Vec<(Uuid, Uuid)>, sqlx::Error> {
    let locked = lock_queued(connection, tenant, ActionKind::Cancel, recipients).await?;
    let (messages, ids): (Vec<Uuid>, Vec<Uuid>) = locked.into_iter().unzip();
    let rows = sqlx::query!(
        "DELETE FROM queue q USING unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS u (tenant_id, message_id, recipient_id)
         WHERE q.tenant_id = u.tenant_id AND q.message_id = ANY (ARRAY[u.message_id]) AND q.recipient_id = u.recipient_id
         RETURNING q.message_id, q.recipient_id",
        &vec![tenant.0; ids.len()],
        &messages,
        &ids
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.message_id, row.recipient_id)).collect())
}

/// Makes recipients due now that are deferred, could not be prepared or are held, as the kind of action says. Returns the
/// changed recipients.
async fn make_due(
    connection: &mut PgConnection,
    tenant: TenantId,
    part: &Part<'_>,
    now: DateTime<Utc>,
) -> Result<Vec<(Uuid, Uuid)>, sqlx::Error> {
    let locked = lock_queued(connection, tenant, part.kind, part.recipients).await?;
    let (messages, ids): (Vec<Uuid>, Vec<Uuid>) = locked.into_iter().unzip();
    let rows = sqlx::query!(
        "UPDATE queue q SET due_at = $4, held = NULL, crashes = 0
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS u (tenant_id, message_id, recipient_id)
         WHERE q.tenant_id = u.tenant_id AND q.message_id = ANY (ARRAY[u.message_id]) AND q.recipient_id = u.recipient_id
         RETURNING q.message_id, q.recipient_id, q.lane_id",
        &vec![tenant.0; ids.len()],
        &messages,
        &ids,
        now
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut lanes: Vec<i64> = rows.iter().map(|row| row.lane_id).collect();
    lanes.sort_unstable();
    lanes.dedup();
    if !lanes.is_empty() {
        mark_due_now(connection, lanes.into_iter(), now).await?;
    }
    Ok(rows.into_iter().map(|row| (row.message_id, row.recipient_id)).collect())
}

/// Locks the queue rows of recipients that still match, and returns these recipients. Those that are leased, or that another
/// transaction changes now, do not match. The change is a separate statement: it sees rows that were changed while this one
/// ran, which one statement for both would lock and then miss.
async fn lock_queued(
    connection: &mut PgConnection,
    tenant: TenantId,
    kind: ActionKind,
    recipients: &[(Uuid, Uuid)],
) -> Result<Vec<(Uuid, Uuid)>, sqlx::Error> {
    let (messages, ids): (Vec<Uuid>, Vec<Uuid>) = recipients.iter().copied().unzip();
    let rows = sqlx::query!(
        "SELECT q.message_id, q.recipient_id FROM unnest($2::uuid[], $3::uuid[]) AS u (message_id, recipient_id)
         CROSS JOIN LATERAL (
             SELECT message_id, recipient_id FROM queue
             WHERE message_id = u.message_id AND recipient_id = u.recipient_id AND tenant_id = $1 AND lease IS NULL
               AND CASE $4::text
                   WHEN 'cancel' THEN true
                   WHEN 'release' THEN held IS NOT NULL AND NOT starts_with(held, $5)
                   ELSE held IS NULL AND crashes = 0 AND (attempts > 0 OR preparation_error IS NOT NULL) END
             FOR UPDATE SKIP LOCKED) q",
        tenant.0,
        &messages,
        &ids,
        kind.as_str(),
        PAUSED_PREFIX
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.message_id, row.recipient_id)).collect())
}

/// Moves the action's position, and adds to its counts.
async fn advance(
    connection: &mut PgConnection,
    part: &Part<'_>,
    matched: usize,
    changed: usize,
) -> Result<(), sqlx::Error> {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    sqlx::query!(
        "UPDATE message_actions
         SET last_message = $3, last_recipient = $4, matched = matched + $5, changed = changed + $6,
             skipped = skipped + $5 - $6, examined = examined + $7
         WHERE tenant_id = $1 AND id = $2",
        part.lease.tenant.0,
        part.lease.id.0,
        part.position.message,
        part.position.recipient,
        number(matched),
        number(changed),
        part.examined
    )
    .execute(connection)
    .await
    .map(drop)
}
