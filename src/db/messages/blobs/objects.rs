//! Attachments in the object store: `blobs.object_key`, and the table `unreferenced_objects`.
//!
//! Every object is in exactly one of the two tables, and so in one of these states, each of which follows the one before:
//!
//! | state | row | who moves it on |
//! |---|---|---|
//! | uploading | `unreferenced_objects`, due in a day | [`complete`], if it is still uploading; otherwise its uploader discards it |
//! | stored | `blobs` | [`crate::db::messages::blob_cleanup`] or the deletion of a tenant, in the transaction that deletes the row |
//! | discarded | `unreferenced_objects`, due | [`claim_due`]; what is being uploaded becomes due after a day |
//! | deleting | the same, `is_deleting` | the worker that claimed it deletes the object, and then [`forget`]s it |
//! | gone | none | |
//!
//! The object of an attachment is never deleted: [`complete`] and [`claim_due`] change the same row, so only one of them succeeds,
//! and nothing returns to the first two states, because no key is used twice. For the same reason, a request that the store processes
//! late cannot affect another object.
//!
//! An object has a row until it is deleted, with one exception: if a worker deletes it before a slow upload has stored it, and the
//! uploader ends before it can [`discard`] it, the object stays. Otherwise [`complete`] fails, and the uploader discards it.
//! If the upload itself fails, the uploader enters the object again ([`begin`]), because the store may get it later.

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use sqlx::PgConnection;

use super::FIRST_CHECK;
use crate::db::messages::stored::StoredMessageError;
use crate::db::messages::uploads::Completed;
use crate::db::queue::ready_at::mark_due_now;
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::object_storage::ObjectError;

/// How long an upload may take. Objects of uploads that were interrupted are deleted afterwards.
const MAX_UPLOAD: TimeDelta = TimeDelta::hours(24);
/// When the deletion of an object is tried again.
const DELETE_RETRY: TimeDelta = TimeDelta::minutes(10);
/// Objects deleted per claim.
const OBJECTS_PER_CLAIM: i64 = 100;
/// Reasons read at a time.
const REASONS_PER_PAGE: i64 = 200;
/// Recipients released per transaction.
const RECIPIENTS_PER_STEP: i64 = 500;

/// Prefix of the reason for holding recipients whose attachment is missing (`queue.held`). The key of the object follows.
const MISSING_PREFIX: &str = "held: an attachment is missing: object ";

/// Returns the reason for holding recipients because of an object. The recipients of a missing one are released when it is back.
pub fn hold_reason(error: &ObjectError) -> Option<String> {
    match error {
        ObjectError::Missing { bucket, key } => Some(format!(
            "{MISSING_PREFIX}{key} is not in bucket {bucket}; it is released when the object is back, or with the action `release`"
        )),
        ObjectError::Damaged { .. } => {
            Some(format!("held: an attachment is damaged: {error}; restore it, then use the action `release`"))
        }
        ObjectError::Unavailable | ObjectError::NotConfigured => None,
    }
}

/// Returns the key of the object in a reason of [`hold_reason`].
fn missing_key(reason: &str) -> Option<&str> {
    reason.strip_prefix(MISSING_PREFIX)?.split(' ').next()
}

/// Returns the bytes of an attachment, from the database or from the object store.
pub async fn load(db: &Db, tenant: TenantId, sha256: &str, size: u64) -> Result<Vec<u8>, StoredMessageError> {
    if let Some(data) = super::get(db, tenant, sha256, size).await? {
        return Ok(data);
    }
    let missing = || StoredMessageError::MissingBlob(sha256.to_owned());
    let key = find(db, tenant, sha256).await?.ok_or_else(missing)?;
    let objects = db.objects().ok_or(ObjectError::NotConfigured)?;
    // Boxed, because the future is large.
    Ok(Box::pin(objects.get(&key, size, sha256)).await?)
}

/// Returns the key of the object of an attachment; `None` if its bytes are in the database, or it is not stored.
pub async fn find(db: &Db, tenant: TenantId, sha256: &str) -> Result<Option<String>, DbError> {
    let query = sqlx::query_scalar!(
        "SELECT object_key FROM blobs WHERE tenant_id = $1 AND sha256 = decode($2, 'hex')",
        tenant.0,
        sha256
    );
    Ok(db.timed("objects.find", query.fetch_optional(&db.pool)).await?.flatten())
}

/// Enters an object that is about to be stored; or one again that the store may get later although the upload failed, because a
/// worker may have deleted it too early: that worker then does not [`forget`] it.
pub async fn begin(db: &Db, key: &str, now: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "INSERT INTO unreferenced_objects (object_key, delete_at) VALUES ($1, $2)
         ON CONFLICT (object_key) DO UPDATE SET delete_at = EXCLUDED.delete_at, is_deleting = false",
        key,
        now + MAX_UPLOAD
    );
    db.timed("objects.begin", query.execute(&db.pool)).await.map(|_| ())
}

/// A stored object and its attachment.
#[derive(Debug, Clone, Copy)]
pub struct NewObject<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// SHA-256 in hexadecimal.
    pub sha256: &'a str,
    /// Size in bytes.
    pub size: u64,
    /// The key of the object.
    pub key: &'a str,
}

/// Inserts the blob of a stored object, unless the blob exists already.
pub async fn complete(db: &Db, object: NewObject<'_>, now: DateTime<Utc>) -> Result<Completed, DbError> {
    db.timed("objects.complete", async {
        let mut tx = db.pool.begin().await?;
        let completed = complete_in(&mut tx, object, now).await?;
        if completed == Completed::New {
            tx.commit().await?;
        }
        Ok(completed)
    })
    .await
}

async fn complete_in(
    tx: &mut PgConnection,
    object: NewObject<'_>,
    now: DateTime<Utc>,
) -> Result<Completed, sqlx::Error> {
    let open = sqlx::query!(
        "DELETE FROM unreferenced_objects WHERE object_key = $1 AND NOT is_deleting AND delete_at > $2",
        object.key,
        now
    );
    if open.execute(&mut *tx).await?.rows_affected() == 0 {
        return Ok(Completed::Expired);
    }
    // Waits for transactions that insert or delete the same blob.
    let new = sqlx::query!(
        "INSERT INTO blobs (tenant_id, sha256, size, used_at, check_at, object_key)
         VALUES ($1, decode($2, 'hex'), $3, $4, $5, $6)
         ON CONFLICT DO NOTHING",
        object.tenant.0,
        object.sha256,
        i64::try_from(object.size).unwrap_or(i64::MAX),
        now,
        now + FIRST_CHECK,
        object.key
    );
    let is_new = new.execute(tx).await?.rows_affected() > 0;
    Ok(if is_new { Completed::New } else { Completed::Existing })
}

/// Lets a worker delete an object that its uploader does not need, even if a worker has deleted it too early, before it was stored:
/// that worker then does not [`forget`] it.
pub async fn discard(db: &Db, key: &str) -> Result<(), DbError> {
    let query = sqlx::query!(
        "INSERT INTO unreferenced_objects (object_key, delete_at) VALUES ($1, 'epoch')
         ON CONFLICT (object_key) DO UPDATE SET delete_at = 'epoch', is_deleting = false",
        key
    );
    db.timed("objects.discard", query.execute(&db.pool)).await.map(|_| ())
}

/// Enters objects whose blobs are deleted in the same transaction.
pub(in crate::db) async fn release(connection: &mut PgConnection, keys: &[String]) -> Result<(), sqlx::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO unreferenced_objects (object_key, delete_at) SELECT unnest($1::text[]), 'epoch'
         ON CONFLICT (object_key) DO UPDATE SET delete_at = 'epoch'",
        keys
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Objects that a worker is deleting.
#[derive(Debug)]
pub struct Claim {
    /// The keys of the objects.
    pub keys: Vec<String>,
    /// When the claim ends (`unreferenced_objects.delete_at`). A later claim of the same object ends later.
    pub until: DateTime<Utc>,
}

/// Claims some objects that are to be deleted. A claim ends after ten minutes: if the worker has not [`forget`]ten them by then,
/// another one deletes them.
pub async fn claim_due(db: &Db, now: DateTime<Utc>) -> Result<Claim, DbError> {
    // As precise as in the database, so that `forget` finds it.
    let until = (now + DELETE_RETRY).trunc_subsecs(6);
    let query = sqlx::query_scalar!(
        "UPDATE unreferenced_objects SET is_deleting = true, delete_at = $2
         WHERE object_key = ANY (ARRAY(
             SELECT object_key FROM unreferenced_objects WHERE delete_at <= $1
             ORDER BY delete_at LIMIT $3 FOR UPDATE SKIP LOCKED))
         RETURNING object_key",
        now,
        until,
        OBJECTS_PER_CLAIM
    );
    let keys = db.timed("objects.claim_due", query.fetch_all(&db.pool)).await?;
    Ok(Claim { keys, until })
}

/// Removes objects that were deleted during a claim that ends at this time, unless they were claimed again or discarded meanwhile.
pub async fn forget(db: &Db, keys: &[String], until: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "DELETE FROM unreferenced_objects WHERE object_key = ANY ($1) AND is_deleting AND delete_at = $2",
        keys,
        until
    );
    db.timed("objects.forget", query.execute(&db.pool)).await.map(|_| ())
}

/// Recipients that are held because an object is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFor {
    /// The key of the object.
    pub key: String,
    /// Why they are held.
    reason: String,
}

/// Returns for which missing objects recipients are held, in the order of their keys, after this one. Reads lane by lane: an
/// index finds the held recipients without the backlog.
pub async fn held(db: &Db, after: Option<&HeldFor>) -> Result<Vec<HeldFor>, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT DISTINCT q.held AS "held!" FROM lanes l CROSS JOIN LATERAL (
               SELECT held COLLATE "C" AS held FROM queue
               WHERE lane_id = l.id AND lease IS NULL AND due_at = 'infinity' AND starts_with(held, $1)) q
           WHERE q.held > $2 ORDER BY 1 LIMIT $3"#,
        MISSING_PREFIX,
        after.map_or("", |after| after.reason.as_str()),
        REASONS_PER_PAGE
    );
    let reasons = db.timed("objects.held", query.fetch_all(&db.pool)).await?;
    let held = reasons.into_iter().filter_map(|reason| Some(HeldFor { key: missing_key(&reason)?.to_owned(), reason }));
    Ok(held.collect())
}

/// Releases the recipients that are held because an object was missing. Their retry window begins again. Returns how many.
pub async fn release_held(db: &Db, held: &HeldFor, now: DateTime<Utc>) -> Result<u64, DbError> {
    let mut released = 0;
    loop {
        let step = db.timed("objects.release_held", release_step(db, held, now)).await?;
        released += step;
        if step < RECIPIENTS_PER_STEP.unsigned_abs() {
            return Ok(released);
        }
    }
}

async fn release_step(db: &Db, held: &HeldFor, now: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let mut tx = db.pool.begin().await?;
    let rows = sqlx::query_scalar!(
        "WITH waiting AS MATERIALIZED (
             SELECT q.place FROM lanes l CROSS JOIN LATERAL (
                 SELECT q.ctid AS place FROM queue q
                 WHERE q.lane_id = l.id AND q.lease IS NULL AND q.due_at = 'infinity' AND q.held = $1
                 LIMIT $3 FOR UPDATE SKIP LOCKED) q
             LIMIT $3)
         UPDATE queue SET due_at = $2, first_due_at = greatest(first_due_at, $2), held = NULL, crashes = 0
         WHERE ctid = ANY (ARRAY(SELECT place FROM waiting))
         RETURNING lane_id",
        held.reason,
        now,
        RECIPIENTS_PER_STEP
    )
    .fetch_all(&mut *tx)
    .await?;
    let released = rows.len() as u64;
    let lanes: std::collections::BTreeSet<i64> = rows.into_iter().collect();
    if !lanes.is_empty() {
        mark_due_now(&mut tx, lanes.into_iter(), now).await?;
    }
    tx.commit().await?;
    Ok(released)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_names_the_missing_object() {
        let error = ObjectError::Missing { bucket: "files".into(), key: "postrider/ab-1".into() };
        let reason = hold_reason(&error).unwrap();
        assert!(reason.starts_with("held: "), "{reason}");
        assert_eq!(missing_key(&reason), Some("postrider/ab-1"));
        assert_eq!(hold_reason(&ObjectError::Unavailable), None);
        let damaged = ObjectError::Damaged { bucket: "files".into(), key: "ab-1".into() };
        assert_eq!(missing_key(&hold_reason(&damaged).unwrap()), None, "it is there, so it is not waited for");
    }
}
