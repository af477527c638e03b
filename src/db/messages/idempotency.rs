//! `idempotency_keys`: which request a key stands for.
//!
//! A key belongs to the API key that used it. The first API key of a tenant that uses a text has it as it is, so that
//! earlier versions, which know no owners, find it; every other one has it under `scoped` text.

use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::id::{KeyId, TenantId};

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    /// The message that the first request made.
    pub message_id: Uuid,
    /// The API key that made it; `None` where an earlier version did, which kept one set of keys for the whole tenant.
    pub owner: Option<Uuid>,
    /// SHA-256 of the first request's bytes.
    pub fingerprint: Vec<u8>,
    /// SHA-256 of the parsed request; `None` where an earlier version stored it.
    pub digest: Option<Vec<u8>>,
}

/// The text under which an API key has an Idempotency-Key that another one used first. No header can hold the separator.
pub(in crate::db) fn scoped(owner: KeyId, key: &str) -> String {
    format!("{}\u{1f}{key}", owner.0.simple())
}

/// The first use of this key by this API key, or by an unknown one of the tenant, if there was one.
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
