//! The table `uploads`: blobs of several chunks, which are stored as they arrive. The chunks have the upload's id in
//! place of the digest until [`Upload::complete`] inserts the blob, so that bytes that are incomplete, or that do not
//! have the declared digest, are never part of a blob.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::blobs::{FIRST_CHECK, execute_large};
use crate::db::{Db, DbError};
use crate::domain::id::{TenantId, uuid_at};

/// Maximum duration of an upload. A body of the maximum size that arrives at the minimum speed takes about as long.
const MAX_DURATION: TimeDelta = TimeDelta::hours(24);
/// Chunks deleted per transaction.
const CHUNKS_PER_STEP: i64 = 16;

/// An upload in progress. If it is neither completed nor discarded, workers delete its chunks once it has expired.
#[derive(Debug)]
pub struct Upload {
    tenant: TenantId,
    id: Uuid,
    chunks: i32,
    size: u64,
}

/// The result of completing an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completed {
    /// The blob was stored.
    New,
    /// The blob was already stored. The upload remains and must be discarded.
    Existing,
    /// The upload took too long, and its chunks are being deleted; or some of them were lost.
    Expired,
}

impl Upload {
    /// Creates an upload. Nothing is stored before the first chunk.
    pub fn new(tenant: TenantId, now: DateTime<Utc>) -> Self {
        Self { tenant, id: uuid_at(now), chunks: 0, size: 0 }
    }

    /// Stores the next chunk. Every chunk except the last must have [`super::blobs::CHUNK_BYTES`] bytes. Returns
    /// `false` if the upload has expired.
    ///
    /// Does not wait until the WAL is flushed: the transaction that completes the upload, which comes later in the WAL, does.
    /// If the server crashes before that, chunks are missing, and the upload counts as expired.
    pub async fn add(&mut self, db: &Db, data: &[u8], now: DateTime<Utc>) -> Result<bool, DbError> {
        let stored = if self.chunks == 0 {
            let query = sqlx::query!(
                "WITH unflushed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)),
                 upload AS (
                     INSERT INTO uploads (tenant_id, id, expires_at) SELECT $1, $2, $4 FROM unflushed
                     RETURNING tenant_id, id
                 )
                 INSERT INTO blob_chunks (tenant_id, sha256, n, data) SELECT tenant_id, uuid_send(id), 0, $3 FROM upload",
                self.tenant.0,
                self.id,
                data,
                now + MAX_DURATION
            );
            db.timed("uploads.begin", execute_large(&db.pool, query)).await?
        } else {
            // The lock keeps a worker from deleting the upload's row, without which the chunk would never be deleted.
            let query = sqlx::query!(
                "WITH unflushed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
                 INSERT INTO blob_chunks (tenant_id, sha256, n, data)
                 SELECT tenant_id, uuid_send(id), $3, $4 FROM uploads, unflushed
                 WHERE tenant_id = $1 AND id = $2 AND expires_at > $5 FOR KEY SHARE OF uploads",
                self.tenant.0,
                self.id,
                self.chunks,
                data,
                now
            );
            db.timed("uploads.add", execute_large(&db.pool, query)).await?
        };
        self.chunks += 1;
        self.size += data.len() as u64;
        Ok(stored.rows_affected() == 1)
    }

    /// Returns the number of bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns all bytes; `None` if the upload has expired and its chunks are being deleted.
    pub async fn read(&self, db: &Db) -> Result<Option<Vec<u8>>, DbError> {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let mut data = Vec::with_capacity(size);
        for n in 0..self.chunks {
            let query = sqlx::query_scalar!(
                "SELECT data FROM blob_chunks WHERE tenant_id = $1 AND sha256 = uuid_send($2) AND n = $3",
                self.tenant.0,
                self.id,
                n
            );
            let Some(chunk) = db.timed("uploads.read", query.fetch_optional(&db.pool)).await? else { return Ok(None) };
            data.extend_from_slice(&chunk);
        }
        Ok((data.len() == size).then_some(data))
    }

    /// Makes the chunks a blob with this digest, unless it is already stored.
    pub async fn complete(&self, db: &Db, sha256: &str, now: DateTime<Utc>) -> Result<Completed, DbError> {
        db.timed("uploads.complete", async {
            let mut tx = db.pool.begin().await?;
            let completed = self.complete_in(&mut tx, sha256, now).await?;
            if completed == Completed::New {
                tx.commit().await?;
            }
            Ok(completed)
        })
        .await
    }

    /// Does the same as [`complete`](Self::complete) within a transaction. The caller must roll it back unless the blob
    /// is new.
    async fn complete_in(
        &self,
        tx: &mut PgConnection,
        sha256: &str,
        now: DateTime<Utc>,
    ) -> Result<Completed, sqlx::Error> {
        let open = sqlx::query!(
            "DELETE FROM uploads WHERE tenant_id = $1 AND id = $2 AND expires_at > $3",
            self.tenant.0,
            self.id,
            now
        );
        if open.execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(Completed::Expired);
        }
        // Waits for transactions that insert or delete the same blob.
        let new = sqlx::query!(
            "INSERT INTO blobs (tenant_id, sha256, size, used_at, check_at) VALUES ($1, decode($2, 'hex'), $3, $4, $5)
             ON CONFLICT DO NOTHING",
            self.tenant.0,
            sha256,
            i64::try_from(self.size).unwrap_or(i64::MAX),
            now,
            now + FIRST_CHECK
        );
        if new.execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(Completed::Existing);
        }
        // An earlier version, which stored chunks before their blob, may have left some after a crash.
        sqlx::query!(
            "DELETE FROM blob_chunks WHERE tenant_id = $1 AND sha256 = decode($2, 'hex')",
            self.tenant.0,
            sha256
        )
        .execute(&mut *tx)
        .await?;
        let moved = sqlx::query!(
            "UPDATE blob_chunks SET sha256 = decode($2, 'hex') WHERE tenant_id = $1 AND sha256 = uuid_send($3)",
            self.tenant.0,
            sha256,
            self.id
        );
        let moved = moved.execute(&mut *tx).await?.rows_affected();
        Ok(if moved == u64::from(self.chunks.unsigned_abs()) { Completed::New } else { Completed::Expired })
    }

    /// Ends the upload; a worker deletes its chunks.
    pub async fn discard(self, db: &Db, now: DateTime<Utc>) -> Result<(), DbError> {
        let query = sqlx::query!(
            "UPDATE uploads SET expires_at = $3 WHERE tenant_id = $1 AND id = $2",
            self.tenant.0,
            self.id,
            now
        );
        db.timed("uploads.discard", query.execute(&db.pool)).await.map(|_| ())
    }
}

/// Deletes the chunks of expired uploads, a few per transaction, and then the uploads. Skips uploads that another
/// worker is deleting. Returns the number of deleted uploads.
pub async fn remove_expired(db: &Db, now: DateTime<Utc>) -> Result<u64, DbError> {
    let mut removed = 0;
    while let Some(is_last) = remove_step(db, now).await? {
        removed += u64::from(is_last);
    }
    Ok(removed)
}

/// Deletes some chunks of one expired upload. Returns whether it also deleted the upload; `None` if there is none.
async fn remove_step(db: &Db, now: DateTime<Utc>) -> Result<Option<bool>, DbError> {
    db.timed("uploads.remove_expired", async {
        let mut tx = db.pool.begin().await?;
        let upload = sqlx::query!(
            "SELECT tenant_id, id FROM uploads WHERE expires_at <= $1
             ORDER BY expires_at LIMIT 1 FOR UPDATE SKIP LOCKED",
            now
        );
        let Some(upload) = upload.fetch_optional(&mut *tx).await? else { return Ok(None) };
        let chunks = sqlx::query!(
            "DELETE FROM blob_chunks WHERE tenant_id = $1 AND sha256 = uuid_send($2) AND n = ANY (ARRAY(
                 SELECT n FROM blob_chunks WHERE tenant_id = $1 AND sha256 = uuid_send($2) ORDER BY n LIMIT $3))",
            upload.tenant_id,
            upload.id,
            CHUNKS_PER_STEP
        );
        let is_last = chunks.execute(&mut *tx).await?.rows_affected() < CHUNKS_PER_STEP.unsigned_abs();
        if is_last {
            sqlx::query!("DELETE FROM uploads WHERE tenant_id = $1 AND id = $2", upload.tenant_id, upload.id)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(Some(is_last))
    })
    .await
}
