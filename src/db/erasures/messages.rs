//! Erases the messages to an address: cancels what is queued, erases content, and replaces the address.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Examined, Job, Step, advance, lock, records};
use crate::db::events::{self, NewEvent};
use crate::db::messages::actions::apply::delete_queued;
use crate::db::messages::actions::redact::{self, REDACTED};
use crate::db::messages::actions::set_canceled;
use crate::db::pool::scan::look_up_by_keys;
use crate::db::{Db, DbError};
use crate::domain::id::{MessageId, RecipientId, RecipientKey, TenantId};

/// Messages that are examined at once. While a transaction appends their events, others of the tenant wait for the event counter.
const PAGE: i64 = 50;

/// Examines the next messages.
pub(super) async fn step(db: &Db, job: &mut Job, now: DateTime<Utc>) -> Result<Step, DbError> {
    let messages = db.timed("erasures.messages", page(db, job)).await?;
    if !messages.is_empty() && !db.timed("erasures.cancel", cancel(db, job, &messages, now)).await? {
        return Ok(Step::Lost);
    }
    let (step, files) = db.timed("erasures.redact", redact(db, job, &messages, now)).await?;
    if !files.is_empty() {
        redact::release_files(db, job.lease.tenant, &files, now).await?;
    }
    Ok(step)
}

/// Returns the next messages to the address, and those that pass received messages from it on. Those of a bulk belong to the erasure if
/// the bulk was accepted before it.
async fn page(db: &Db, job: &Job) -> Result<Vec<Uuid>, sqlx::Error> {
    // Finds the recipients by their address: because of LIMIT, Postgres could otherwise read all of them in the order of messages.
    sqlx::query_scalar!(
        r#"WITH found AS MATERIALIZED (
               SELECT DISTINCT message_id FROM recipients
               WHERE tenant_id = $1 AND lower(address) = ANY ($2) AND message_id > $3
               UNION
               SELECT l.message_id FROM relays l
               LEFT JOIN received_messages v ON v.tenant_id = l.tenant_id AND v.id = l.received_id
               WHERE l.tenant_id = $1 AND l.message_id > $3
                 AND (lower(l.reverse_path) = ANY ($2) OR lower(v.from_address) = ANY ($2)))
           SELECT message_id AS "message_id!" FROM found
           WHERE message_id < uuid_floor($4)
              OR (SELECT m.bulk_id FROM messages m WHERE m.id = message_id AND m.tenant_id = $1) < uuid_floor($4)
           ORDER BY message_id LIMIT $5"#,
        job.lease.tenant.0,
        &job.address.notations,
        job.after(),
        job.end(),
        PAGE
    )
    .fetch_all(&db.pool)
    .await
}

/// Cancels recipients with the address that are queued and not leased. Returns `false` if the erasure is not leased by this process
/// any more.
async fn cancel(db: &Db, job: &mut Job, messages: &[Uuid], now: DateTime<Utc>) -> Result<bool, sqlx::Error> {
    let tenant = job.lease.tenant;
    let mut tx = db.pool.begin().await?;
    if !lock(&mut tx, job.lease).await? {
        return Ok(false);
    }
    let queued = sqlx::query!(
        "SELECT message_id, id FROM recipients
         WHERE tenant_id = $1 AND message_id = ANY ($2) AND lower(address) = ANY ($3) AND finished_at IS NULL",
        tenant.0,
        messages,
        &job.address.notations
    )
    .fetch_all(&mut *tx)
    .await?;
    let queued: Vec<(Uuid, Uuid)> = queued.into_iter().map(|row| (row.message_id, row.id)).collect();
    if queued.is_empty() {
        return Ok(true);
    }
    look_up_by_keys(&mut tx).await?;
    let canceled = delete_queued(&mut tx, tenant, &queued).await?;
    if canceled.is_empty() {
        return Ok(true);
    }
    set_canceled(&mut tx, tenant, &canceled, now).await?;
    let mut counts = job.counts;
    counts.canceled += canceled.len() as u64;
    sqlx::query!(
        "UPDATE erasures SET counts = $3 WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        job.lease.id.0,
        sqlx::types::Json(counts) as _
    )
    .execute(&mut *tx)
    .await?;
    let key = |(message, recipient): &(Uuid, Uuid)| RecipientKey {
        tenant,
        message: MessageId(*message),
        recipient: RecipientId(*recipient),
    };
    events::append(&mut tx, now, canceled.iter().map(key).map(NewEvent::canceled).collect()).await?;
    tx.commit().await?;
    job.counts = counts;
    Ok(true)
}

/// Erases those of the messages that have ended. Returns the SHA-256 of their attachments, too.
async fn redact(
    db: &Db,
    job: &mut Job,
    messages: &[Uuid],
    now: DateTime<Utc>,
) -> Result<(Step, Vec<Vec<u8>>), sqlx::Error> {
    let tenant = job.lease.tenant;
    let mut tx = db.pool.begin().await?;
    if !lock(&mut tx, job.lease).await? {
        return Ok((Step::Lost, Vec::new()));
    }
    let (mut counts, mut files, mut events) = (job.counts, Vec::new(), Vec::new());
    let is_last = i64::try_from(messages.len()).is_ok_and(|count| count < PAGE);
    let last = messages.last().filter(|_| !is_last);
    let (mut examined, mut ended) = (Examined { position: last.map(Uuid::to_string), waiting: 0 }, Vec::new());
    for id in messages.iter().copied().map(MessageId) {
        let message = redact::lock_message(&mut tx, tenant, id).await?;
        lock_recipients(&mut tx, tenant, id).await?;
        if redact::is_queued(&mut tx, tenant, id).await? {
            examined.waiting += 1;
        } else {
            ended.push((id, message));
        }
    }
    if !ended.is_empty() {
        // Bounces and complaints since the list was examined have added the address. Those that follow find the pseudonym.
        records::suppressions(&mut tx, job, &mut counts).await?;
    }
    for (id, message) in ended {
        if let Some(message) = message.filter(|message| message.redacted_at.is_none()) {
            redact::redact_recipients(&mut tx, tenant, id).await?;
            files.extend(redact::erase_content(&mut tx, tenant, id, &message, now).await?);
            events.push(NewEvent::redacted(tenant, id));
        } else {
            // Earlier versions stored the text of a bounce that came after the message was redacted.
            redact::redact_history(&mut tx, tenant, id).await?;
        }
        counts.messages += 1;
        counts.recipients += replace_address(&mut tx, job, id).await?;
    }
    let moved = advance(&mut tx, job, &examined, counts).await?;
    if !events.is_empty() {
        events::append(&mut tx, now, events).await?;
    }
    tx.commit().await?;
    Ok((moved.apply(job), files))
}

/// Locks the recipients of a message, so that none can be queued again.
async fn lock_recipients(connection: &mut PgConnection, tenant: TenantId, id: MessageId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "SELECT FROM recipients WHERE tenant_id = $1 AND message_id = $2 ORDER BY id FOR UPDATE",
        tenant.0,
        id.0
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Replaces the address in the recipients of a message. Returns their number.
async fn replace_address(connection: &mut PgConnection, job: &Job, id: MessageId) -> Result<u64, sqlx::Error> {
    let replaced = sqlx::query!(
        "UPDATE recipients
         SET address = $4, name = NULL, response_text = CASE WHEN response_text IS NOT NULL THEN $5 END
         WHERE tenant_id = $1 AND message_id = $2 AND lower(address) = ANY ($3)",
        job.lease.tenant.0,
        id.0,
        &job.address.notations,
        job.pseudonym,
        REDACTED
    );
    Ok(replaced.execute(connection).await?.rows_affected())
}
