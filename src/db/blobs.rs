//! `blobs` and `blob_chunks`: attachments' bytes, once a tenant. Digests are SHA-256 in hexadecimal.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Db, DbError};
use crate::domain::id::TenantId;

/// How often a blob's last use is written down: often enough for the clean-up, which spares a day.
const TOUCH_EVERY: TimeDelta = TimeDelta::hours(6);

/// Which of these digests are stored already; marks them as used, so that no clean-up takes them away.
pub async fn known(db: &Db, tenant: TenantId, digests: &[String], now: DateTime<Utc>) -> Result<Vec<String>, DbError> {
    db.timed("blobs.known", async {
        sqlx::query!(
            "UPDATE blobs SET used_at = $3 WHERE tenant_id = $1 AND sha256 = ANY (SELECT decode(unnest($2::text[]), 'hex')) AND used_at < $4",
            tenant.0,
            digests,
            now,
            now - TOUCH_EVERY
        )
        .execute(&db.pool)
        .await?;
        sqlx::query_scalar!(
            r#"SELECT encode(sha256, 'hex') AS "digest!" FROM blobs
               WHERE tenant_id = $1 AND sha256 = ANY (SELECT decode(unnest($2::text[]), 'hex'))"#,
            tenant.0,
            digests
        )
        .fetch_all(&db.pool)
            .await
    })
    .await
}

/// Octets a chunk.
const CHUNK: usize = 1 << 20;

/// Stores one blob, unless it is there: chunk by chunk, and then the row that says it is whole. A crash in between
/// leaves chunks that the next one to store the same bytes finds.
pub async fn insert(db: &Db, tenant: TenantId, sha256: &str, data: &[u8], now: DateTime<Utc>) -> Result<(), DbError> {
    for (n, chunk) in (0i32..).zip(data.chunks(CHUNK)) {
        let query = sqlx::query!(
            "INSERT INTO blob_chunks (tenant_id, sha256, n, data) VALUES ($1, decode($2, 'hex'), $3, $4)
             ON CONFLICT DO NOTHING",
            tenant.0,
            sha256,
            n,
            chunk
        );
        db.timed("blobs.insert_chunk", query.execute(&db.pool)).await?;
    }
    let query = sqlx::query!(
        "INSERT INTO blobs (tenant_id, sha256, size, used_at) VALUES ($1, decode($2, 'hex'), $3, $4)
         ON CONFLICT (tenant_id, sha256) DO UPDATE SET used_at = EXCLUDED.used_at",
        tenant.0,
        sha256,
        i64::try_from(data.len()).unwrap_or(i64::MAX),
        now
    );
    db.timed("blobs.insert", query.execute(&db.pool)).await.map(|_| ())
}

/// One blob's bytes.
pub async fn get(db: &Db, tenant: TenantId, sha256: &str) -> Result<Option<Vec<u8>>, DbError> {
    let query = sqlx::query_scalar!(
        "SELECT size FROM blobs WHERE tenant_id = $1 AND sha256 = decode($2, 'hex')",
        tenant.0,
        sha256
    );
    let Some(size) = db.timed("blobs.size", query.fetch_optional(&db.pool)).await? else { return Ok(None) };
    let size = usize::try_from(size).unwrap_or(0);
    let mut data = Vec::with_capacity(size);
    for n in (0i32..).take(size.div_ceil(CHUNK)) {
        let query = sqlx::query_scalar!(
            "SELECT data FROM blob_chunks WHERE tenant_id = $1 AND sha256 = decode($2, 'hex') AND n = $3",
            tenant.0,
            sha256,
            n
        );
        let chunk = db.timed("blobs.chunk", query.fetch_optional(&db.pool)).await?;
        let Some(chunk) = chunk else { return Ok(None) };
        data.extend_from_slice(&chunk);
    }
    Ok(Some(data))
}
