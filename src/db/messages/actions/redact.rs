//! Erases the content of one message by request, and everything that quotes it. States and events stay.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::events::{self, NewEvent};
use crate::db::{Db, DbError};
use crate::domain::id::{MessageId, TenantId};

/// What becomes of the text of a reply.
pub(in crate::db) const REDACTED: &str = "[redacted]";
/// The clocks of replicas differ by less than this, so no event of a message was recorded earlier than this before it.
const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::days(1);
/// The previous version refers to an attachment without a lock, within this time after it has found it.
const FIND_TO_REFER: TimeDelta = TimeDelta::minutes(1);

/// The result of [`redact`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redacted {
    /// The content was erased.
    Done,
    /// An earlier call erased it, or there is no such message.
    Already,
    /// A recipient is still to be sent to; nothing was changed.
    NotEnded,
}

/// Erases the subject, names, reply-to addresses, headers, bodies, attachments, variables, tags, metadata and own Message-ID of a
/// message, the texts of replies, and its SMTP conversations. Of a bulk, the content that its messages share stays.
pub async fn redact(db: &Db, tenant: TenantId, id: MessageId, now: DateTime<Utc>) -> Result<Redacted, DbError> {
    let (redacted, files) = db
        .timed("messages.actions.redact", async {
            let mut tx = db.pool.begin().await?;
            let message = lock_message(&mut tx, tenant, id).await?;
            let Some(message) = message.filter(|message| message.redacted_at.is_none()) else {
                return Ok((Redacted::Already, Vec::new()));
            };
            redact_recipients(&mut tx, tenant, id).await?;
            // The recipients are locked, so none of them can be requeued any more.
            if is_queued(&mut tx, tenant, id).await? {
                return Ok((Redacted::NotEnded, Vec::new()));
            }
            let files = erase_content(&mut tx, tenant, id, &message, now).await?;
            events::append(&mut tx, now, vec![NewEvent::redacted(tenant, id)]).await?;
            tx.commit().await?;
            Ok((Redacted::Done, files))
        })
        .await?;
    if !files.is_empty() {
        release_files(db, tenant, &files, now).await?;
    }
    Ok(redacted)
}

/// A message that is locked until the end of the transaction.
#[derive(Debug)]
pub(in crate::db) struct LockedMessage {
    content_id: Uuid,
    internet_message_id: Option<String>,
    /// When it was redacted.
    pub redacted_at: Option<DateTime<Utc>>,
}

/// Locks a message. Its recipients must be locked next, before [`is_queued`].
pub(in crate::db) async fn lock_message(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: MessageId,
) -> Result<Option<LockedMessage>, sqlx::Error> {
    sqlx::query_as!(
        LockedMessage,
        "SELECT content_id, internet_message_id, redacted_at FROM messages WHERE tenant_id = $1 AND id = $2 FOR UPDATE",
        tenant.0,
        id.0
    )
    .fetch_optional(connection)
    .await
}

/// Erases everything but the recipients of a locked message of which none is queued. Returns the SHA-256 of the attachments, for
/// [`release_files`].
pub(in crate::db) async fn erase_content(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: MessageId,
    message: &LockedMessage,
    now: DateTime<Utc>,
) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    redact_message(connection, tenant, id, message.internet_message_id.as_deref(), now).await?;
    let has_own = message.content_id == id.0;
    let files = if has_own { delete_content(connection, tenant, id).await? } else { Vec::new() };
    redact_history(connection, tenant, id).await?;
    Ok(files)
}

/// Returns whether a recipient of the message is still to be sent to.
pub(in crate::db) async fn is_queued(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: MessageId,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM queue WHERE message_id = $2 AND tenant_id = $1) AS "is_queued!""#,
        tenant.0,
        id.0
    )
    .fetch_one(connection)
    .await
}

/// Erases the names of a message's recipients, and the texts of their replies.
pub(in crate::db) async fn redact_recipients(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: MessageId,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH locked AS MATERIALIZED (
             SELECT id FROM recipients WHERE tenant_id = $1 AND message_id = $2 ORDER BY id FOR UPDATE)
         UPDATE recipients r SET name = NULL, response_text = CASE WHEN response_text IS NOT NULL THEN $3 END
         FROM locked WHERE r.tenant_id = $1 AND r.message_id = $2 AND r.id = locked.id",
        tenant.0,
        id.0,
        REDACTED
    )
    .execute(connection)
    .await
    .map(drop)
}

async fn redact_message(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: MessageId,
    message_id: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    // An uncertain recipient cannot be requeued any more. The sender of a message that passes a received one on is not the tenant.
    sqlx::query!(
        "UPDATE messages SET subject = '', from_name = NULL,
             from_address = CASE WHEN received_id IS NULL THEN from_address ELSE 'erased@redacted.invalid' END, reply_to = '[]', tags = '[]', metadata = '{}', variables = NULL,
             internet_message_id = NULL, on_uncertain = CASE on_uncertain WHEN 'hold' THEN 'fail' ELSE on_uncertain END,
             content_deleted_at = coalesce(content_deleted_at, $3), redacted_at = $3
         WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0,
        now
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "DELETE FROM custom_message_ids WHERE message_id = $3 AND tenant_id = $1 AND id = $2",
        tenant.0,
        id.0,
        message_id
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Deletes the content, and its references to attachments. Returns the SHA-256 of the attachments.
async fn delete_content(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: MessageId,
) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    let files = sqlx::query_scalar!(
        r#"DELETE FROM contents WHERE tenant_id = $1 AND id = $2
           RETURNING ARRAY(SELECT decode(file ->> 'sha256', 'hex') FROM jsonb_array_elements(attachments) file) AS "files!""#,
        tenant.0,
        id.0
    )
    .fetch_optional(&mut *connection)
    .await?
    .unwrap_or_default();
    sqlx::query!(
        "DELETE FROM blob_references WHERE sha256 = ANY ($3) AND tenant_id = $1 AND content_id = $2",
        tenant.0,
        id.0,
        &files
    )
    .execute(connection)
    .await?;
    Ok(files)
}

/// Erases what quotes the message: replies in events, SMTP conversations, and simulated reports that are to come.
pub(in crate::db) async fn redact_history(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: MessageId,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE events SET response_text = $4
         WHERE message_id = $2 AND tenant_id = $1 AND recorded_at >= $3 AND response_text IS NOT NULL",
        tenant.0,
        id.0,
        id.accepted_at() - MAX_CLOCK_SKEW,
        REDACTED
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("DELETE FROM smtp_conversations WHERE message_id = $2 AND tenant_id = $1", tenant.0, id.0)
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "WITH locked AS MATERIALIZED (
             SELECT recipient_id FROM simulator_followups WHERE tenant_id = $1 AND message_id = $2
             ORDER BY recipient_id FOR UPDATE)
         DELETE FROM simulator_followups f USING locked l
         WHERE f.tenant_id = $1 AND f.message_id = $2 AND f.recipient_id = l.recipient_id",
        tenant.0,
        id.0
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Lets a cleanup delete attachments that no other content refers to, whenever they were last used. A request that is about to
/// attach one keeps it with its reference, or fails: see [`crate::db::messages::blob_cleanup`]. Only for replicas of the previous
/// version, the cleanup waits a minute. A separate transaction, because of the order of locks.
pub(in crate::db) async fn release_files(
    db: &Db,
    tenant: TenantId,
    files: &[Vec<u8>],
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE blobs b SET check_at = $3, used_at = 'epoch'
         FROM (SELECT sha256 FROM blobs WHERE tenant_id = $1 AND sha256 = ANY ($2)
                  AND NOT EXISTS (SELECT FROM blob_references r WHERE r.sha256 = blobs.sha256 AND r.tenant_id = $1)
               ORDER BY sha256 FOR UPDATE) unused
         WHERE b.tenant_id = $1 AND b.sha256 = unused.sha256",
        tenant.0,
        files,
        now + FIND_TO_REFER
    );
    db.timed("messages.actions.release_files", query.execute(&db.pool)).await.map(drop)
}
