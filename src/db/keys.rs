//! `keys`: who may call.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::id::{KeyId, TenantId};

/// One API key, without the key.
#[derive(Debug, Clone)]
pub struct KeyRow {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub tenant_id: Uuid,
    /// What the operator calls it.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<String>,
    /// Domains it may send from; `None` means any.
    pub sender_domains: Option<Vec<String>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it last worked, to within a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was withdrawn.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// What a new key needs.
#[derive(Debug)]
pub struct NewKey<'a> {
    /// Its id.
    pub id: KeyId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What the operator calls it.
    pub name: &'a str,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// What it allows.
    pub scopes: &'a [String],
    /// Domains it may send from.
    pub sender_domains: Option<&'a [String]>,
    /// Now.
    pub created_at: DateTime<Utc>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Stores a new key.
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

/// The key with this hash, withdrawn and expired ones included.
pub async fn find(db: &Db, hash: [u8; 32]) -> Result<Option<KeyRow>, DbError> {
    let query = sqlx::query_as!(
        KeyRow,
        "SELECT id, tenant_id, name, scopes, sender_domains, created_at, expires_at, last_used_at, revoked_at
         FROM keys WHERE hash = $1",
        &hash[..]
    );
    db.timed("keys.find", query.fetch_optional(&db.pool)).await
}

/// A page of a tenant's keys, newest first, starting behind `after`.
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

/// Withdraws a key. Answers whether there was one; a second time changes nothing.
pub async fn revoke(db: &Db, tenant: TenantId, id: KeyId, now: DateTime<Utc>) -> Result<bool, DbError> {
    let query = sqlx::query!(
        "UPDATE keys SET revoked_at = coalesce(revoked_at, $3) WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0,
        now
    );
    db.timed("keys.revoke", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Notes that a key worked; called at most once a minute a key.
pub async fn touch(db: &Db, id: KeyId, now: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)",
        id.0,
        now
    );
    db.timed("keys.touch", query.execute(&db.pool)).await.map(|_| ())
}
