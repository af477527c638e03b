//! Deletes blobs that no content refers to and no request has used for a while. Any number of workers may run it at the
//! same time.
//!
//! A message never refers to a deleted blob, however long a request takes:
//!
//! - A step locks some blobs whose check is due, and then, in later statements, which see everything that was committed before the
//!   locks were granted, looks for references. It deletes only blobs without any.
//! - A request locks the blobs that it attaches and adds its references in one statement ([`super::blobs::refer`]), before its message
//!   is committed. The two locks exclude each other, so one comes first. If it is the request's, the step sees the references. If it
//!   is the step's, the request does not find the blob, and fails without a message.
//! - Small attachments of one message are stored with their references ([`super::blobs::insert_group`]). A blob that exists already is
//!   looked for after the references are committed: a step that does not see them has locked the blob before, so the look waits for
//!   it, and the blob is stored again if it was deleted.
//! - The references of a request that failed have no content. They are deleted after a day, by when the request has ended.
//!
//! So neither `used_at` nor a delay has to protect what a request of this version uses. They only make it rare that a request fails,
//! and protect the requests of replicas of the previous version, which add references without a lock.
//!
//! The object of a deleted blob, if it has one, is left to [`super::blobs::objects`].

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::blobs::objects;
use crate::db::{Db, DbError};
use crate::domain::id::uuid_at;

/// Blobs checked per transaction.
const BLOBS_PER_STEP: i64 = 50;
/// References checked per blob, newest first. A content that refers to a blob is usually among the newest.
const REFERENCES_PER_STEP: i64 = 100;
/// Maximum number of steps of one run.
const MAX_STEPS: usize = 200;
/// A reference whose content is missing counts for this long: its message may not be committed yet.
const COMMIT_TIME: TimeDelta = TimeDelta::days(1);

/// The number and the size of deleted blobs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct RemovedBlobs {
    /// Number of blobs.
    pub blobs: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// The keys of blobs, as columns in the same order.
#[derive(Debug, Default)]
struct Keys {
    tenants: Vec<Uuid>,
    digests: Vec<Vec<u8>>,
}

/// Deletes blobs that are not referred to and were not used for `unused`. Their bytes become expired uploads, which
/// [`super::uploads::remove_expired`] deletes.
pub async fn remove_unused(db: &Db, unused: Duration, now: DateTime<Utc>) -> Result<RemovedBlobs, DbError> {
    let mut removed = RemovedBlobs::default();
    for _ in 0..MAX_STEPS {
        let step = db.timed("blobs.remove_unused", async {
            let mut tx = db.pool.begin().await?;
            let step = remove_step(&mut tx, unused, now).await?;
            tx.commit().await?;
            Ok(step)
        });
        let Some(step) = step.await? else { break };
        removed.blobs += step.blobs;
        removed.bytes += step.bytes;
    }
    Ok(removed)
}

/// Checks some blobs; returns `None` if no check is due.
async fn remove_step(
    tx: &mut PgConnection,
    unused: Duration,
    now: DateTime<Utc>,
) -> Result<Option<RemovedBlobs>, sqlx::Error> {
    let due = lock_due(tx, now).await?;
    if due.tenants.is_empty() {
        return Ok(None);
    }
    let idle = TimeDelta::from_std(unused).unwrap_or(TimeDelta::MAX);
    let unused_since = now.checked_sub_signed(idle).unwrap_or(DateTime::<Utc>::MIN_UTC);
    postpone_used(tx, &due, unused_since, unused).await?;
    let unfinished = remove_dead_references(tx, &due, now).await?;
    let removed = remove(tx, &due, unused_since, now).await?;
    // Blobs with references are checked again later; those with more dead references than one step deletes, in the next
    // step.
    postpone_referenced(tx, &due, &unfinished, now + idle, now).await?;
    Ok(Some(removed))
}

async fn lock_due(tx: &mut PgConnection, now: DateTime<Utc>) -> Result<Keys, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT tenant_id, sha256 FROM blobs WHERE check_at <= $1
         ORDER BY check_at LIMIT $2 FOR UPDATE SKIP LOCKED",
        now,
        BLOBS_PER_STEP
    );
    let rows = rows.fetch_all(tx).await?;
    let (tenants, digests) = rows.into_iter().map(|row| (row.tenant_id, row.sha256)).unzip();
    Ok(Keys { tenants, digests })
}

/// Postpones the checks of blobs that were used recently to the earliest time at which they can count as unused.
async fn postpone_used(
    tx: &mut PgConnection,
    keys: &Keys,
    unused_since: DateTime<Utc>,
    unused: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE blobs b SET check_at = b.used_at + make_interval(secs => $4)
         FROM unnest($1::uuid[], $2::bytea[]) AS k (tenant_id, sha256)
         WHERE b.tenant_id = k.tenant_id AND b.sha256 = k.sha256 AND b.used_at > $3",
        &keys.tenants,
        &keys.digests,
        unused_since,
        unused.as_secs_f64()
    )
    .execute(tx)
    .await
    .map(|_| ())
}

/// Deletes references whose content is missing, among the newest of each blob. Returns the blobs for which every
/// examined reference was deleted; they may have more dead references.
async fn remove_dead_references(tx: &mut PgConnection, keys: &Keys, now: DateTime<Utc>) -> Result<Keys, sqlx::Error> {
    let dead = sqlx::query!(
        r#"DELETE FROM blob_references r USING (
               SELECT k.tenant_id, k.sha256, newest.content_id
               FROM unnest($1::uuid[], $2::bytea[]) AS k (tenant_id, sha256)
               CROSS JOIN LATERAL (
                   SELECT content_id FROM blob_references
                   WHERE sha256 = k.sha256 AND tenant_id = k.tenant_id ORDER BY content_id DESC LIMIT $3) newest
               LEFT JOIN LATERAL (
                   SELECT true AS is_stored FROM contents
                   WHERE id = newest.content_id AND tenant_id = k.tenant_id LIMIT 1) content ON true
               WHERE content.is_stored IS NULL AND newest.content_id < uuid_floor($4)
                 AND NOT EXISTS (SELECT FROM sql_inbox i WHERE i.tenant_id = k.tenant_id AND i.id = newest.content_id)) dead
           WHERE r.sha256 = dead.sha256 AND r.tenant_id = dead.tenant_id AND r.content_id = dead.content_id
           RETURNING r.tenant_id, r.sha256"#,
        &keys.tenants,
        &keys.digests,
        REFERENCES_PER_STEP,
        now - COMMIT_TIME
    );
    let mut counts = HashMap::<(Uuid, Vec<u8>), i64>::new();
    for row in dead.fetch_all(tx).await? {
        *counts.entry((row.tenant_id, row.sha256)).or_default() += 1;
    }
    let unfinished = counts.into_iter().filter(|(_, count)| *count >= REFERENCES_PER_STEP).map(|(key, _)| key);
    let (tenants, digests) = unfinished.unzip();
    Ok(Keys { tenants, digests })
}

/// Deletes the unused blobs among these, and turns their chunks into expired uploads.
async fn remove(
    tx: &mut PgConnection,
    keys: &Keys,
    unused_since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<RemovedBlobs, sqlx::Error> {
    let rows = sqlx::query!(
        "DELETE FROM blobs b USING unnest($1::uuid[], $2::bytea[]) AS k (tenant_id, sha256)
         WHERE b.tenant_id = k.tenant_id AND b.sha256 = k.sha256 AND b.used_at <= $3
           AND NOT EXISTS (SELECT FROM blob_references r WHERE r.sha256 = b.sha256 AND r.tenant_id = b.tenant_id)
         RETURNING b.tenant_id, b.sha256, b.size, b.object_key",
        &keys.tenants,
        &keys.digests,
        unused_since
    );
    let rows = rows.fetch_all(&mut *tx).await?;
    if rows.is_empty() {
        return Ok(RemovedBlobs::default());
    }
    let bytes = rows.iter().map(|row| u64::try_from(row.size).unwrap_or(0)).sum();
    let removed = RemovedBlobs { blobs: rows.len() as u64, bytes };
    let keys: Vec<String> = rows.iter().filter_map(|row| row.object_key.clone()).collect();
    objects::release(tx, &keys).await?;
    let uploads: Vec<Uuid> = rows.iter().map(|_| uuid_at(now)).collect();
    let (tenants, digests): (Vec<Uuid>, Vec<Vec<u8>>) = rows.into_iter().map(|row| (row.tenant_id, row.sha256)).unzip();
    sqlx::query!(
        "INSERT INTO uploads (tenant_id, id, expires_at)
         SELECT tenant_id, id, $3 FROM unnest($1::uuid[], $2::uuid[]) AS u (tenant_id, id)",
        &tenants,
        &uploads,
        now
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "UPDATE blob_chunks c SET sha256 = uuid_send(u.id)
         FROM unnest($1::uuid[], $2::bytea[], $3::uuid[]) AS u (tenant_id, sha256, id)
         WHERE c.tenant_id = u.tenant_id AND c.sha256 = u.sha256",
        &tenants,
        &digests,
        &uploads
    )
    .execute(tx)
    .await?;
    Ok(removed)
}

/// Postpones the checks of the blobs that remain, except those in `unfinished`.
async fn postpone_referenced(
    tx: &mut PgConnection,
    keys: &Keys,
    unfinished: &Keys,
    until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE blobs b SET check_at = $3
         FROM unnest($1::uuid[], $2::bytea[]) AS k (tenant_id, sha256)
         WHERE b.tenant_id = k.tenant_id AND b.sha256 = k.sha256 AND b.check_at <= $4
           AND (b.tenant_id, b.sha256) NOT IN (SELECT * FROM unnest($5::uuid[], $6::bytea[]))",
        &keys.tenants,
        &keys.digests,
        until,
        now,
        &unfinished.tenants,
        &unfinished.digests
    )
    .execute(tx)
    .await
    .map(|_| ())
}
