//! The tables `blobs` and `blob_chunks`: attachments, stored once per tenant. Digests are SHA-256 in hexadecimal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::id::TenantId;

/// Minimum interval between updates of `used_at`.
const TOUCH_INTERVAL: TimeDelta = TimeDelta::hours(6);

/// Returns those of these digests whose blob is stored, and updates their `used_at`. May omit a digest whose `used_at`
/// another transaction is updating.
pub async fn find_and_touch(
    db: &Db,
    tenant: TenantId,
    digests: &[String],
    now: DateTime<Utc>,
) -> Result<Vec<String>, DbError> {
    let query = sqlx::query_scalar!(
        r#"WITH marked AS (
               UPDATE blobs SET used_at = $3
               WHERE tenant_id = $1 AND sha256 = ANY (SELECT decode(unnest($2::text[]), 'hex')) AND used_at < $4
               RETURNING sha256
           )
           SELECT encode(sha256, 'hex') AS "digest!" FROM blobs
           WHERE tenant_id = $1 AND sha256 = ANY (SELECT decode(unnest($2::text[]), 'hex')) AND used_at >= $4
           UNION ALL SELECT encode(sha256, 'hex') FROM marked"#,
        tenant.0,
        digests,
        now,
        now - TOUCH_INTERVAL
    );
    db.timed("blobs.find_and_touch", query.fetch_all(&db.pool)).await
}

/// Bytes per chunk.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Stores one blob unless it exists: first its chunks, then its row in `blobs`. If a crash prevents the latter, the
/// chunks are reused when the same bytes are stored again. Only the row's commit waits until the WAL is flushed, which
/// includes the chunks.
pub async fn insert(db: &Db, tenant: TenantId, sha256: &str, data: &[u8], now: DateTime<Utc>) -> Result<(), DbError> {
    for (n, chunk) in (0i32..).zip(data.chunks(CHUNK_BYTES)) {
        let query = sqlx::query!(
            "WITH unflushed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
             INSERT INTO blob_chunks (tenant_id, sha256, n, data)
             SELECT $1::uuid, decode($2::text, 'hex'), $3::integer, $4::bytea FROM unflushed
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

/// Small blobs to store together, ordered by tenant and digest, so that two processes that store the same blobs cannot
/// deadlock.
pub type Group = BTreeMap<(TenantId, String), Arc<Vec<u8>>>;

/// Stores blobs of at most one chunk each in one statement, and updates `used_at` of existing ones. Does not wait until
/// the WAL is flushed: the commit of the message, which comes later in the WAL, does. Uses a connection with cached
/// plans, because a custom plan would contain all bytes several times.
pub async fn insert_group(db: &Db, group: &Group, now: DateTime<Utc>) -> Result<(), DbError> {
    let keys: Vec<(TenantId, String)> = group.keys().cloned().collect();
    let data: Vec<&[u8]> = group.values().map(|blob| blob.as_slice()).collect();
    let (tenants, digests): (Vec<Uuid>, Vec<String>) =
        keys.iter().map(|(tenant, digest)| (tenant.0, digest.clone())).unzip();
    let sizes: Vec<i64> = data.iter().map(|data| i64::try_from(data.len()).unwrap_or(i64::MAX)).collect();
    // `unnest` is in the select list, where Postgres produces row by row; in FROM, it would materialise all bytes
    // first.
    let query = sqlx::query!(
        r#"WITH unflushed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)),
           chunks AS (
               INSERT INTO blob_chunks (tenant_id, sha256, n, data)
               SELECT unnest($1::uuid[]), decode(unnest($2::text[]), 'hex'), 0, unnest($3::bytea[])
               FROM unflushed
               ON CONFLICT DO NOTHING
           )
           INSERT INTO blobs (tenant_id, sha256, size, used_at)
           SELECT unnest($1::uuid[]), decode(unnest($2::text[]), 'hex'), unnest($4::bigint[]), $5 FROM unflushed
           ON CONFLICT DO NOTHING
           RETURNING tenant_id, encode(sha256, 'hex') AS "digest!""#,
        &tenants,
        &digests,
        &data as _,
        &sizes,
        now
    );
    let new = db.timed("blobs.insert_group", query.fetch_all(&db.pool.hot())).await?;
    let new: BTreeSet<_> = new.into_iter().map(|row| (TenantId(row.tenant_id), row.digest)).collect();
    let mut existing = BTreeMap::<TenantId, Vec<String>>::new();
    for (tenant, digest) in keys.iter().filter(|key| !new.contains(key)) {
        existing.entry(*tenant).or_default().push(digest.clone());
    }
    for (tenant, digests) in existing {
        let found = find_and_touch(db, tenant, &digests, now).await?;
        for (key, data) in keys.iter().zip(&data) {
            // Another transaction is updating its `used_at`, or it was deleted.
            if key.0 == tenant && digests.contains(&key.1) && !found.contains(&key.1) {
                insert(db, tenant, &key.1, data, now).await?;
            }
        }
    }
    Ok(())
}

/// Returns one chunk of a blob, counted from 0.
pub async fn chunk(db: &Db, tenant: TenantId, sha256: &str, n: i32) -> Result<Option<Vec<u8>>, DbError> {
    let query = sqlx::query_scalar!(
        "SELECT data FROM blob_chunks WHERE tenant_id = $1 AND sha256 = decode($2, 'hex') AND n = $3",
        tenant.0,
        sha256,
        n
    );
    db.timed("blobs.chunk", query.fetch_optional(&db.pool)).await
}

/// Returns a blob of `size` bytes; `None` if it is missing or incomplete.
pub async fn get(db: &Db, tenant: TenantId, sha256: &str, size: u64) -> Result<Option<Vec<u8>>, DbError> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let mut data = Vec::new();
    for n in (0i32..).take(size.div_ceil(CHUNK_BYTES)) {
        let Some(chunk) = chunk(db, tenant, sha256, n).await? else { return Ok(None) };
        if n == 0 {
            // The first chunk is not copied; most blobs have only one.
            data = chunk;
            data.reserve_exact(size.saturating_sub(data.len()));
        } else {
            data.extend_from_slice(&chunk);
        }
    }
    Ok((data.len() == size).then_some(data))
}
