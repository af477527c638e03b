//! The table `dashboard_sessions`: browsers that are signed in to the dashboard.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::id::{KeyId, TenantId};

/// A session to insert.
#[derive(Debug, Clone, Copy)]
pub struct NewSession {
    /// SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// The tenant of the key.
    pub tenant: TenantId,
    /// The API key that the session acts as.
    pub key: KeyId,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// Time of expiry.
    pub expires_at: DateTime<Utc>,
}

/// A session with its API key.
#[derive(Debug, Clone)]
pub struct SessionRow {
    /// `keys.id`.
    pub key_id: Uuid,
    /// SHA-256 of the key's secret.
    pub key_hash: Vec<u8>,
    /// The tenant of the key.
    pub tenant_id: Uuid,
    /// `live` or `test`.
    pub mode: String,
    /// Name of the key.
    pub key_name: String,
    /// Scopes of the key.
    pub scopes: Vec<String>,
    /// Sender domains that the key is limited to; `None` if it is not limited.
    pub sender_domains: Option<Vec<String>>,
    /// Time of last use, to within a minute.
    pub last_seen_at: DateTime<Utc>,
    /// When the tenant was suspended.
    pub suspended_at: Option<DateTime<Utc>>,
    /// The operator's reason for it.
    pub suspend_reason: Option<String>,
}

/// Inserts a session, and deletes expired ones.
pub async fn insert(db: &Db, session: &NewSession) -> Result<(), DbError> {
    let query = sqlx::query!(
        "WITH expired AS (
             DELETE FROM dashboard_sessions WHERE token_hash = ANY (ARRAY(
                 SELECT token_hash FROM dashboard_sessions WHERE expires_at <= $4 FOR UPDATE SKIP LOCKED)))
         INSERT INTO dashboard_sessions (token_hash, tenant_id, key_id, created_at, last_seen_at, expires_at)
         VALUES ($1, $2, $3, $4, $4, $5)",
        &session.token_hash[..],
        session.tenant.0,
        session.key.0,
        session.created_at,
        session.expires_at
    );
    db.timed("sessions.insert", query.execute(&db.pool)).await.map(|_| ())
}

/// Returns the session with this token if it and its key are valid at `now`, and it was used after `used_since`.
pub async fn find(
    db: &Db,
    token_hash: [u8; 32],
    now: DateTime<Utc>,
    used_since: DateTime<Utc>,
) -> Result<Option<SessionRow>, DbError> {
    let query = sqlx::query_as!(
        SessionRow,
        "SELECT k.id AS key_id, k.hash AS key_hash, k.tenant_id, k.mode, k.name AS key_name, k.scopes, k.sender_domains,
                s.last_seen_at, t.suspended_at, t.suspend_reason
         FROM dashboard_sessions s
         JOIN keys k ON k.id = s.key_id AND k.tenant_id = s.tenant_id
         JOIN tenants t ON t.id = k.tenant_id
         WHERE s.token_hash = $1 AND s.expires_at > $2 AND s.last_seen_at > $3
           AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > $2)",
        &token_hash[..],
        now,
        used_since
    );
    db.timed("sessions.find", query.fetch_optional(&db.pool)).await
}

/// Records the use of a session; called at most once per minute and session.
pub async fn touch(db: &Db, token_hash: [u8; 32], now: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE dashboard_sessions SET last_seen_at = $2 WHERE token_hash = $1 AND last_seen_at < $2",
        &token_hash[..],
        now
    );
    db.timed("sessions.touch", query.execute(&db.pool)).await.map(|_| ())
}

/// Ends a session.
pub async fn remove(db: &Db, token_hash: [u8; 32]) -> Result<(), DbError> {
    let query = sqlx::query!("DELETE FROM dashboard_sessions WHERE token_hash = $1", &token_hash[..]);
    db.timed("sessions.remove", query.execute(&db.pool)).await.map(|_| ())
}

/// Ends all sessions of a key. Returns their number.
pub async fn remove_all(db: &Db, key: KeyId) -> Result<u64, DbError> {
    let query = sqlx::query!("DELETE FROM dashboard_sessions WHERE key_id = $1", key.0);
    db.timed("sessions.remove_all", query.execute(&db.pool)).await.map(|done| done.rows_affected())
}
