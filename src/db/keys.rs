//! The table `keys`: API keys.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::id::{KeyId, TenantId};

/// An API key, without its secret.
#[derive(Debug, Clone)]
pub struct KeyRow {
    /// `keys.id`.
    pub id: Uuid,
    /// The tenant.
    pub tenant_id: Uuid,
    /// Name given by the operator.
    pub name: String,
    /// Scopes granted.
    pub scopes: Vec<String>,
    /// Sender domains allowed; `None` allows any.
    pub sender_domains: Option<Vec<String>>,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// Time of expiry.
    pub expires_at: Option<DateTime<Utc>>,
    /// Time of last use, to within a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Time of revocation.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// An API key to insert.
#[derive(Debug)]
pub struct NewKey<'a> {
    /// `keys.id`.
    pub id: KeyId,
    /// The tenant.
    pub tenant: TenantId,
    /// Name given by the operator.
    pub name: &'a str,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// Scopes granted.
    pub scopes: &'a [String],
    /// Sender domains allowed; `None` allows any.
    pub sender_domains: Option<&'a [String]>,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// Time of expiry.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Inserts a key.
pub async fn insert(db: &Db, key: &NewKey<'_>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "INSERT INTO keys (id, tenant_id, name, hash, scopes, sender_domains, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        key.id.0,
        key.tenant.0,
        key.name,
        &key.hash[..],
        key.scopes,
        key.sender_domains,
        key.created_at,
        key.expires_at,
    );
    db.timed("keys.insert", query.execute(&db.pool)).await.map(|_| ())
}

/// Returns the key with this hash, including revoked and expired keys.
pub async fn find(db: &Db, hash: [u8; 32]) -> Result<Option<KeyRow>, DbError> {
    let query = sqlx::query_as!(
        KeyRow,
        "SELECT id, tenant_id, name, scopes, sender_domains, created_at, expires_at, last_used_at, revoked_at
         FROM keys WHERE hash = $1",
        &hash[..]
    );
    db.timed("keys.find", query.fetch_optional(&db.pool)).await
}

/// Returns a page of a tenant's keys, newest first, starting after `after`.
pub async fn page(db: &Db, tenant: TenantId, after: Option<KeyId>, limit: i64) -> Result<Vec<KeyRow>, DbError> {
    let query = sqlx::query_as!(
        KeyRow,
        "SELECT id, tenant_id, name, scopes, sender_domains, created_at, expires_at, last_used_at, revoked_at
         FROM keys WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        tenant.0,
        after.map(|id| id.0),
        limit
    );
    db.timed("keys.page", query.fetch_all(&db.pool)).await
}

/// Revokes a key. Returns whether it exists; revoking it again changes nothing.
pub async fn revoke(db: &Db, tenant: TenantId, id: KeyId, now: DateTime<Utc>) -> Result<bool, DbError> {
    let query = sqlx::query!(
        "UPDATE keys SET revoked_at = coalesce(revoked_at, $3) WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0,
        now
    );
    db.timed("keys.revoke", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Records the use of a key; called at most once per minute and key.
pub async fn touch(db: &Db, id: KeyId, now: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)",
        id.0,
        now
    );
    db.timed("keys.touch", query.execute(&db.pool)).await.map(|_| ())
}
