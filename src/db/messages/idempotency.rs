//! The table `idempotency_keys`: the request that each idempotency key was used for.
//!
//! An idempotency key belongs to the API key that used it. For the first API key of a tenant that uses a value, the
//! value is stored unchanged, so that earlier versions, which ignore the API key, find it. For every other API key, it
//! is stored as returned by `scoped`.

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
