//! The table `idempotency_keys`: the request that each idempotency key was used for.
//!
//! An idempotency key belongs to the API key that used it. For the first API key of a tenant that uses a value, the
//! value is stored unchanged, so that earlier versions, which ignore the API key, find it. For every other API key, it
//! is stored as returned by `scoped`.
//!
//! A key belongs to a single message, to a call of `POST /v1/messages/batch`, to a bulk, or to a recipient of a bulk.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::id::{KeyId, TenantId};

/// The use of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    /// The message created by the first request.
    pub message_id: Uuid,
    /// The API key of the first request; `None` if an earlier version stored it, where a key applied to the whole
    /// tenant.
    pub owner: Option<Uuid>,
    /// SHA-256 of the first request's body.
    pub fingerprint: Vec<u8>,
    /// SHA-256 of the parsed request; `None` if an earlier version stored it.
    pub digest: Option<Vec<u8>>,
}

impl KeyUse {
    /// Returns whether a request with these hashes is the same as the first one. Either hash suffices: an earlier version
    /// stored no digest, and a body of another form has another fingerprint.
    pub fn is_same_request(&self, fingerprint: &[u8], digest: &[u8]) -> bool {
        self.fingerprint == fingerprint || self.digest.as_deref() == Some(digest)
    }
}

/// Returns the value to store for an idempotency key that another API key used first. No header can contain the
/// separator.
pub(in crate::db) fn scoped(owner: KeyId, key: &str) -> String {
    format!("{}\u{1f}{key}", owner.0.simple())
}

/// Returns the first use of this idempotency key by this API key, or the use that an earlier version stored without an
/// API key.
pub async fn find(db: &Db, tenant: TenantId, owner: KeyId, key: &str) -> Result<Option<KeyUse>, DbError> {
    let query = sqlx::query_as!(
        KeyUse,
        r#"SELECT message_ids[1] AS "message_id!", api_key_id AS owner, fingerprint, request_digest AS digest
           FROM idempotency_keys
           WHERE tenant_id = $1 AND key = ANY (ARRAY[$2, $3]) AND coalesce(api_key_id, $4) = $4
           ORDER BY key = $3 DESC LIMIT 1"#,
        tenant.0,
        key,
        scoped(owner, key),
        owner.0
    );
    db.timed("idempotency.find", query.fetch_optional(&db.pool)).await
}

/// Blocks of the table (8 KiB each) that one step of the cleanup reads.
const BLOCKS_PER_STEP: i64 = 64;

/// A step of the cleanup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupStep {
    /// Number of deleted keys.
    pub removed: u64,
    /// The block with which the next step begins; `None` at the end of the table.
    pub next: Option<i64>,
}

/// Deletes the idempotency keys that were stored before `before` and whose messages have all been deleted, and those that
/// were stored before `expired_before`, in a few blocks of the table from `first_block` on. There is no index on the time, because it would cost every request with
/// a key; instead, the table is read block by block.
pub async fn remove_expired(
    db: &Db,
    first_block: i64,
    before: DateTime<Utc>,
    expired_before: Option<DateTime<Utc>>,
) -> Result<CleanupStep, DbError> {
    let next_block = first_block.saturating_add(BLOCKS_PER_STEP);
    db.timed("idempotency.remove_expired", async {
        // Each message is looked up by its key: because of LIMIT, the planner cannot choose another join.
        let removed = sqlx::query!(
            "DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
                 SELECT k.ctid FROM idempotency_keys k
                 WHERE k.ctid >= format('(%s,0)', $1::bigint)::tid AND k.ctid < format('(%s,0)', $2::bigint)::tid
                   AND k.created_at < $3
                   AND (k.created_at < $4::timestamptz
                        OR NOT EXISTS (SELECT FROM bulks b WHERE b.tenant_id = k.tenant_id AND b.id = k.bulk_id)
                           AND NOT EXISTS (SELECT FROM sql_inbox i WHERE i.tenant_id = k.tenant_id AND i.id = k.message_ids[1])
                           AND NOT EXISTS (SELECT FROM unnest(k.message_ids) AS u (id) CROSS JOIN LATERAL (
                                   SELECT FROM messages m WHERE m.id = u.id AND m.tenant_id = k.tenant_id LIMIT 1) m))
                 FOR UPDATE OF k SKIP LOCKED))",
            first_block,
            next_block,
            before,
            expired_before
        );
        let removed = removed.execute(&db.pool).await?.rows_affected();
        let blocks = sqlx::query_scalar!(
            r#"SELECT pg_relation_size('idempotency_keys') / current_setting('block_size')::bigint AS "blocks!""#
        );
        let blocks = blocks.fetch_one(&db.pool).await?;
        Ok(CleanupStep { removed, next: (next_block < blocks).then_some(next_block) })
    })
    .await
}

/// Returns the first use of each of these idempotency keys, as [`find`] does, with the key's position in the list. Keys
/// that are not used are left out.
pub async fn find_all(db: &Db, tenant: TenantId, owner: KeyId, keys: &[&str]) -> Result<Vec<(usize, KeyUse)>, DbError> {
    let scoped_keys: Vec<String> = keys.iter().map(|key| scoped(owner, key)).collect();
    let query = sqlx::query!(
        r#"SELECT u.n AS "n!", k.message_id AS "message_id!", k.owner, k.fingerprint AS "fingerprint!", k.digest
           FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS u (key, scoped_key, n)
           CROSS JOIN LATERAL (
               SELECT message_ids[1] AS message_id, api_key_id AS owner, fingerprint, request_digest AS digest
               FROM idempotency_keys i
               WHERE i.tenant_id = $1 AND i.key = ANY (ARRAY[u.key, u.scoped_key]) AND coalesce(i.api_key_id, $4) = $4
               ORDER BY i.key = u.scoped_key DESC LIMIT 1) k"#,
        tenant.0,
        keys as _,
        &scoped_keys,
        owner.0
    );
    let rows = db.timed("idempotency.find_all", query.fetch_all(&db.pool)).await?;
    let found = rows.into_iter().filter_map(|row| {
        let position = usize::try_from(row.n - 1).ok()?;
        let (message_id, owner) = (row.message_id, row.owner);
        Some((position, KeyUse { message_id, owner, fingerprint: row.fingerprint, digest: row.digest }))
    });
    Ok(found.collect())
}

/// The use of an idempotency key by a whole request.
#[derive(Debug, Clone, PartialEq)]
pub struct CallUse {
    /// The messages created by the request, in its order. For a bulk, the bulk's id.
    pub message_ids: Vec<Uuid>,
    /// SHA-256 of the request's body.
    pub fingerprint: Vec<u8>,
    /// SHA-256 of the parsed request; `None` if an earlier version stored it.
    pub digest: Option<Vec<u8>>,
    /// The parts of the response to a call of `POST /v1/messages/batch` besides the messages (see the migration);
    /// `None` if the request was not such a call.
    pub batch_response: Option<Value>,
    /// The bulk that the key belongs to, itself or through one of its recipients.
    pub bulk_id: Option<Uuid>,
}

impl CallUse {
    /// Returns whether a request with these hashes is the same as the first one. Either hash suffices: an earlier version
    /// stored no digest, and a body of another form has another fingerprint.
    pub fn is_same_request(&self, fingerprint: &[u8], digest: &[u8]) -> bool {
        self.fingerprint == fingerprint || self.digest.as_deref() == Some(digest)
    }
}

/// Returns the first use of an idempotency key, as [`find`] does, with everything that the response to a call of
/// `POST /v1/messages/batch` or to a bulk is built from.
pub async fn find_call(db: &Db, tenant: TenantId, owner: KeyId, key: &str) -> Result<Option<CallUse>, DbError> {
    let query = sqlx::query_as!(
        CallUse,
        "SELECT message_ids, fingerprint, request_digest AS digest, batch_response, bulk_id
         FROM idempotency_keys
         WHERE tenant_id = $1 AND key = ANY (ARRAY[$2, $3]) AND coalesce(api_key_id, $4) = $4
         ORDER BY key = $3 DESC LIMIT 1",
        tenant.0,
        key,
        scoped(owner, key),
        owner.0
    );
    db.timed("idempotency.find_call", query.fetch_optional(&db.pool)).await
}
