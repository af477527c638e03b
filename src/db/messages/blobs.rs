//! The tables `blobs`, `blob_chunks` and `blob_references`: attachments, stored once per tenant. Digests are SHA-256 in
//! hexadecimal. [`super::uploads`] stores blobs of more than one chunk, [`super::blob_cleanup`] deletes unused ones, and
//! [`objects`] refers to those in the object store.
//!
//! A blob that a message refers to is never deleted: [`super::blob_cleanup`] says why. A blob that a request has found or
//! inserted, but not referred to yet, is rarely deleted: both set `used_at`, and only blobs without references whose `used_at` is
//! longer than a day ago are deleted, except when a message with the blob is redacted.

pub mod objects;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::{PgArguments, PgQueryResult};
use sqlx::query::Query;
use sqlx::{Connection as _, PgConnection, Postgres};
use uuid::Uuid;

use crate::db::pool::Pool;
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;

/// Minimum interval between updates of `used_at`.
const TOUCH_INTERVAL: TimeDelta = TimeDelta::hours(6);

/// Time from the insertion of a blob to the first check whether it is unused. No unused blob is deleted earlier.
pub const FIRST_CHECK: TimeDelta = TimeDelta::days(1);

/// Sizes of blobs in bytes, by digest.
pub type Sizes = HashMap<String, u64>;

/// Returns the sizes of those of these blobs that are stored. Updates a `used_at` that is older than six hours.
pub async fn find(db: &Db, tenant: TenantId, digests: &[String], now: DateTime<Utc>) -> Result<Sizes, DbError> {
    let mut found = find_and_touch(db, tenant, digests, now).await?;
    if found.len() < digests.len() {
        let missing: Vec<String> = digests.iter().filter(|digest| !found.contains_key(*digest)).cloned().collect();
        // Another transaction may have updated `used_at` in the meantime.
        found.extend(find_and_touch(db, tenant, &missing, now).await?);
    }
    Ok(found)
}

/// Like [`find`], but may omit a digest whose `used_at` another transaction is updating.
pub async fn find_and_touch(
    db: &Db,
    tenant: TenantId,
    digests: &[String],
    now: DateTime<Utc>,
) -> Result<Sizes, DbError> {
    if digests.is_empty() {
        return Ok(Sizes::new());
    }
    // Locks the rows in the order of their keys, so that two requests that use the same blobs cannot deadlock.
    let query = sqlx::query!(
        r#"WITH stale AS (
               SELECT sha256 FROM blobs
               WHERE tenant_id = $1 AND sha256 = ANY (ARRAY(SELECT decode(unnest($2::text[]), 'hex'))) AND used_at < $4
               ORDER BY sha256 FOR NO KEY UPDATE
           ),
           marked AS (
               UPDATE blobs b SET used_at = $3 FROM stale WHERE b.tenant_id = $1 AND b.sha256 = stale.sha256
               RETURNING b.sha256, b.size
           )
           SELECT encode(sha256, 'hex') AS "digest!", size AS "size!" FROM blobs
           WHERE tenant_id = $1 AND sha256 = ANY (ARRAY(SELECT decode(unnest($2::text[]), 'hex'))) AND used_at >= $4
           UNION ALL SELECT encode(sha256, 'hex'), size FROM marked"#,
        tenant.0,
        digests,
        now,
        now - TOUCH_INTERVAL
    );
    let rows = db.timed("blobs.find_and_touch", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(|row| (row.digest, u64::try_from(row.size).unwrap_or(0))).collect())
}

/// Bytes per chunk.
pub const CHUNK_BYTES: usize = 1 << 20;

/// A blob of at most one chunk to store.
#[derive(Debug, Clone)]
pub struct SmallBlob {
    /// The bytes.
    pub data: Arc<Vec<u8>>,
    /// The contents that will refer to it.
    pub contents: BTreeSet<Uuid>,
}

/// Small blobs to store together, ordered by tenant and digest, so that two processes that store the same blobs cannot
/// deadlock.
pub type Group = BTreeMap<(TenantId, String), SmallBlob>;

/// Stores blobs of at most one chunk each in one statement, with references to them, and updates `used_at` of existing
/// ones. Looks for existing ones only after the references are committed, and stores those that it does not find: a cleanup has
/// either deleted them by then, or sees the references. Does not wait until the WAL is flushed: the commit of the message, which
/// comes later in the WAL, does. Uses a connection with cached plans, because a custom plan would contain all bytes several times.
pub async fn insert_group(db: &Db, group: &Group, now: DateTime<Utc>) -> Result<(), DbError> {
    let keys: Vec<&(TenantId, String)> = group.keys().collect();
    let data: Vec<&[u8]> = group.values().map(|blob| blob.data.as_slice()).collect();
    let (tenants, digests): (Vec<Uuid>, Vec<&str>) =
        keys.iter().map(|(tenant, digest)| (tenant.0, digest.as_str())).unzip();
    let sizes: Vec<i64> = data.iter().map(|data| i64::try_from(data.len()).unwrap_or(i64::MAX)).collect();
    let references = || group.iter().flat_map(|(key, blob)| blob.contents.iter().map(move |content| (key, content)));
    let from_tenants: Vec<Uuid> = references().map(|((tenant, _), _)| tenant.0).collect();
    let to: Vec<&str> = references().map(|((_, digest), _)| digest.as_str()).collect();
    let contents: Vec<Uuid> = references().map(|(_, content)| *content).collect();
    // `unnest` is in the select list, where Postgres produces row by row; in FROM, it would materialise all bytes
    // first. The condition on `blob` makes Postgres insert the rows of `blobs` before the chunks: an insert waits for a
    // transaction that deletes the same blob, and only then are its chunks gone.
    let query = sqlx::query!(
        r#"WITH unflushed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)),
           blob AS (
               INSERT INTO blobs (tenant_id, sha256, size, used_at, check_at)
               SELECT unnest($1::uuid[]), decode(unnest($2::text[]), 'hex'), unnest($4::bigint[]), $5, $6 FROM unflushed
               ON CONFLICT DO NOTHING
               RETURNING tenant_id, sha256
           ),
           chunks AS (
               INSERT INTO blob_chunks (tenant_id, sha256, n, data)
               SELECT unnest($1::uuid[]), decode(unnest($2::text[]), 'hex'), 0, unnest($3::bytea[])
               WHERE (SELECT count(*) FROM blob) >= 0
               ON CONFLICT DO NOTHING
           ),
           new_references AS (
               INSERT INTO blob_references (tenant_id, sha256, content_id)
               SELECT unnest($7::uuid[]), decode(unnest($8::text[]), 'hex'), unnest($9::uuid[])
               ON CONFLICT DO NOTHING
           )
           SELECT tenant_id AS "tenant_id!", encode(sha256, 'hex') AS "digest!" FROM blob"#,
        &tenants,
        &digests as _,
        &data as _,
        &sizes,
        now,
        now + FIRST_CHECK,
        &from_tenants,
        &to as _,
        &contents
    );
    let new = db.timed("blobs.insert_group", query.fetch_all(&db.pool.hot())).await?;
    let new: BTreeSet<(Uuid, &str)> = new.iter().map(|row| (row.tenant_id, row.digest.as_str())).collect();
    let mut existing = BTreeMap::<TenantId, Vec<String>>::new();
    for (tenant, digest) in keys.iter().filter(|(tenant, digest)| !new.contains(&(tenant.0, digest.as_str()))) {
        existing.entry(*tenant).or_default().push(digest.clone());
    }
    for (tenant, digests) in existing {
        let found = find_and_touch(db, tenant, &digests, now).await?;
        for (key, data) in keys.iter().zip(&data) {
            // Another transaction is updating `used_at` of the blob, or the blob was deleted.
            if key.0 == tenant && digests.contains(&key.1) && !found.contains_key(&key.1) {
                insert(db, tenant, &key.1, data, now).await?;
            }
        }
    }
    Ok(())
}

/// Fails if attachments of contents that are being inserted are not stored. [`insert_group`] does not flush, so a crash of the server may
/// have lost them, although the request has survived it. The attachments are given by tenant, content and digest.
pub(super) async fn check_references(
    connection: &mut PgConnection,
    attachments: impl Iterator<Item = (TenantId, Uuid, &str)>,
) -> Result<(), sqlx::Error> {
    let (mut tenants, mut contents, mut digests) = (Vec::new(), Vec::new(), Vec::new());
    for (tenant, content, digest) in attachments {
        tenants.push(tenant.0);
        contents.push(content);
        digests.push(digest);
    }
    if digests.is_empty() {
        return Ok(());
    }
    // One index lookup per attachment, independent of the table's statistics: because of LIMIT, the planner cannot choose another
    // join.
    let missing = sqlx::query_scalar!(
        r#"SELECT count(*) FILTER (WHERE r.found IS NULL) AS "missing!"
           FROM unnest($1::uuid[], $2::text[], $3::uuid[]) AS u (tenant_id, sha256, content_id)
           LEFT JOIN LATERAL (
               SELECT true AS found FROM blob_references
               WHERE sha256 = decode(u.sha256, 'hex') AND tenant_id = u.tenant_id AND content_id = u.content_id LIMIT 1) r ON true"#,
        &tenants,
        &digests as _,
        &contents
    )
    .fetch_one(connection)
    .await?;
    if missing == 0 { Ok(()) } else { Err(sqlx::Error::Decode("attachments were lost when the server crashed".into())) }
}

/// Stores one blob of at most one chunk, or updates its `used_at` if it exists.
pub async fn insert(db: &Db, tenant: TenantId, sha256: &str, data: &[u8], now: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "WITH blob AS (
             INSERT INTO blobs (tenant_id, sha256, size, used_at, check_at) VALUES ($1, decode($2, 'hex'), $4, $5, $6)
             ON CONFLICT (tenant_id, sha256) DO UPDATE SET used_at = greatest(blobs.used_at, EXCLUDED.used_at)
             RETURNING tenant_id, sha256
         )
         INSERT INTO blob_chunks (tenant_id, sha256, n, data) SELECT tenant_id, sha256, 0, $3 FROM blob
         ON CONFLICT DO NOTHING",
        tenant.0,
        sha256,
        data,
        i64::try_from(data.len()).unwrap_or(i64::MAX),
        now,
        now + FIRST_CHECK
    );
    db.timed("blobs.insert", execute_large(&db.pool, query)).await.map(|_| ())
}

/// Executes a statement that has a chunk among its arguments. Afterwards, the connection frees its copy of them, which it
/// would otherwise keep while it is idle.
pub(super) async fn execute_large(
    pool: &Pool,
    query: Query<'_, Postgres, PgArguments>,
) -> Result<PgQueryResult, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let done = query.execute(&mut *connection).await?;
    connection.shrink_buffers();
    Ok(done)
}

/// References to blobs: pairs of a digest and the id of the content.
pub type References = BTreeSet<(String, Uuid)>;

/// Adds references from contents, which need not be committed yet, to those of the blobs that are stored. Returns whether all are;
/// if not, one was deleted after the request had found it. The lock keeps a cleanup from deleting a blob before it sees the
/// references, as that of a foreign key would. Waits until the WAL is flushed: the message may be committed much later, after other
/// attachments have been stored, and a server that has crashed and recovered meanwhile must have the references.
pub async fn refer(db: &Db, tenant: TenantId, references: &References) -> Result<bool, DbError> {
    let (digests, contents): (Vec<String>, Vec<Uuid>) = references.iter().cloned().unzip();
    let query = sqlx::query_scalar!(
        r#"WITH wanted AS MATERIALIZED (
               SELECT decode(unnest($2::text[]), 'hex') AS sha256, unnest($3::uuid[]) AS content_id
           ),
           stored AS MATERIALIZED (
               SELECT sha256 FROM blobs
               WHERE tenant_id = $1 AND sha256 = ANY (ARRAY(SELECT sha256 FROM wanted)) ORDER BY sha256 FOR KEY SHARE
           ),
           added AS (
               INSERT INTO blob_references (tenant_id, sha256, content_id)
               SELECT $1, w.sha256, w.content_id FROM wanted w JOIN stored s ON s.sha256 = w.sha256
               ON CONFLICT DO NOTHING
           )
           SELECT (SELECT count(*) FROM stored) = (SELECT count(DISTINCT sha256) FROM wanted) AS "are_stored!""#,
        tenant.0,
        &digests,
        &contents
    );
    db.timed("blobs.refer", query.fetch_one(&db.pool)).await
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
