//! Erases messages to the address that applications sent from SQL and that are not accepted yet, or were refused.
//!
//! A message that goes to nobody else is deleted, and so is a refused one. Otherwise it no longer goes to the address. A process that has
//! claimed the row then accepts nothing of its claim, and claims the row again.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Examined, Job, Step, advance, lock};
use crate::db::messages::actions::redact;
use crate::db::{Db, DbError};
use crate::domain::id::MessageId;
use crate::domain::records::erasure::RemovedRecipients;

/// Rows that a step reads.
const PAGE: i64 = 200;

/// A row that has the address, perhaps within another one.
#[derive(Debug)]
struct LockedRow {
    id: Uuid,
    is_refused: bool,
    /// `to`, `cc` and `bcc` of the message.
    recipients: Json<Map<String, Value>>,
    /// The SHA-256 of the uploaded files that it refers to.
    files: Vec<Vec<u8>>,
}

/// Examines the next rows.
pub(super) async fn step(db: &Db, job: &mut Job, now: DateTime<Utc>) -> Result<Step, DbError> {
    let (step, files) = db
        .timed("erasures.sql_inbox", async {
            let mut tx = db.pool.begin().await?;
            if !lock(&mut tx, job.lease).await? {
                return Ok((Step::Lost, Vec::new()));
            }
            let mut counts = job.counts;
            let (found, position) = find(&mut tx, job).await?;
            let mut files = Vec::new();
            for mut row in lock_rows(&mut tx, job, &found).await? {
                match job.address.remove_from(&mut row.recipients) {
                    RemovedRecipients::None => continue,
                    RemovedRecipients::Some if !row.is_refused => set_recipients(&mut tx, job, &row).await?,
                    RemovedRecipients::Some | RemovedRecipients::All => {
                        delete(&mut tx, job, &row).await?;
                        files.append(&mut row.files);
                    }
                }
                counts.sql_messages += 1;
            }
            let moved = advance(&mut tx, job, &Examined { position, waiting: 0 }, counts).await?;
            tx.commit().await?;
            Ok((moved.apply(job), files))
        })
        .await?;
    if !files.is_empty() {
        redact::release_files(db, job.lease.tenant, &files, now).await?;
    }
    Ok(step)
}

/// Returns those of the next rows whose recipients may have the address, and the position after the next rows. Locks none, so that the
/// others are accepted meanwhile.
async fn find(connection: &mut PgConnection, job: &Job) -> Result<(Vec<Uuid>, Option<String>), sqlx::Error> {
    let row = sqlx::query!(
        r#"WITH next AS MATERIALIZED (
               SELECT id, payload, created_at FROM sql_inbox WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3)
           SELECT ARRAY(SELECT id FROM next
                        WHERE created_at < $4 AND concat_ws(' ', payload -> 'to', payload -> 'cc', payload -> 'bcc') ~* $5)
                      AS "found!",
                  (SELECT count(*) FROM next) AS "read!", (SELECT id FROM next ORDER BY id DESC LIMIT 1) AS last"#,
        job.lease.tenant.0,
        job.after(),
        PAGE,
        job.end(),
        job.address.pattern()
    )
    .fetch_one(connection)
    .await?;
    Ok((row.found, row.last.filter(|_| row.read >= PAGE).map(|id| id.to_string())))
}

async fn lock_rows(connection: &mut PgConnection, job: &Job, ids: &[Uuid]) -> Result<Vec<LockedRow>, sqlx::Error> {
    sqlx::query_as!(
        LockedRow,
        r#"SELECT id, refused_at IS NOT NULL AS "is_refused!",
                  jsonb_build_object('to', payload -> 'to', 'cc', payload -> 'cc', 'bcc', payload -> 'bcc')
                      AS "recipients!: Json<Map<String, Value>>",
                  ARRAY(SELECT decode(file ->> 'sha256', 'hex')
                        FROM jsonb_path_query(payload, '$.attachments[*] ? (exists(@.sha256))') AS file) AS "files!"
           FROM sql_inbox WHERE tenant_id = $1 AND id = ANY ($2) ORDER BY id FOR UPDATE"#,
        job.lease.tenant.0,
        ids
    )
    .fetch_all(connection)
    .await
}

/// Replaces the recipients of a message, and ends the claim of a process that has read the earlier ones. If it waited for a quota,
/// it may fit now.
async fn set_recipients(connection: &mut PgConnection, job: &Job, row: &LockedRow) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE sql_inbox i SET payload = p.payload, size = octet_length(p.payload::text), claimed_until = '-infinity',
                                waits_for = NULL, recipients = NULL
         FROM (SELECT payload - ARRAY['to', 'cc', 'bcc'] || $3 AS payload FROM sql_inbox WHERE tenant_id = $1 AND id = $2) p
         WHERE i.tenant_id = $1 AND i.id = $2",
        job.lease.tenant.0,
        row.id,
        &row.recipients as _
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Deletes a message, its references to uploaded files, and the reason in its event if it was rejected, which may quote it.
async fn delete(connection: &mut PgConnection, job: &Job, row: &LockedRow) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM sql_inbox WHERE tenant_id = $1 AND id = $2", job.lease.tenant.0, row.id)
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "DELETE FROM blob_references WHERE sha256 = ANY ($3) AND tenant_id = $1 AND content_id = $2",
        job.lease.tenant.0,
        row.id,
        &row.files
    )
    .execute(&mut *connection)
    .await?;
    redact::redact_history(connection, job.lease.tenant, MessageId(row.id)).await
}
