//! The table `keys`: API keys.

pub mod sessions;
pub mod usage;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::{KeyMode, KeyQuota, KeyRate};
use crate::domain::limits::Change;
use crate::domain::tenant::{Suspension, TenantTerms};

/// An API key, without its secret.
#[derive(Debug, Clone)]
pub struct KeyRow {
    /// `keys.id`.
    pub id: Uuid,
    /// The tenant.
    pub tenant_id: Uuid,
    /// Name given by the operator.
    pub name: String,
    /// `live` or `test`.
    pub mode: String,
    /// Scopes granted.
    pub scopes: Vec<String>,
    /// Sender domains allowed; `None` allows any.
    pub sender_domains: Option<Vec<String>>,
    /// Networks that the key may be used from; `None` allows any.
    pub allowed_ips: Option<Vec<String>>,
    /// Maximum requests per second.
    pub requests_per_second: Option<i32>,
    /// Maximum requests at once.
    pub burst: Option<i32>,
    /// Maximum recipients per day.
    pub recipients_per_day: Option<i32>,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// Time of expiry.
    pub expires_at: Option<DateTime<Utc>>,
    /// Time of last use, to within a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Time of revocation.
    pub revoked_at: Option<DateTime<Utc>>,
}

impl KeyRow {
    /// Returns whether the key's messages are sent.
    pub fn mode(&self) -> KeyMode {
        // A CHECK constraint limits the values. A mode of a later version must not send anything.
        self.mode.parse().unwrap_or(KeyMode::Test)
    }

    /// Returns the rate limit.
    pub fn rate(&self) -> Option<KeyRate> {
        KeyRate::from_row(self.requests_per_second, self.burst)
    }

    /// Returns the quota.
    pub fn quota(&self) -> Option<KeyQuota> {
        KeyQuota::from_row(self.recipients_per_day)
    }
}

/// An API key with what its tenant allows it.
#[derive(Debug, Clone)]
pub struct FoundKey {
    /// The key.
    pub row: KeyRow,
    /// What the tenant allows.
    pub tenant: TenantTerms,
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
    /// Whether messages are sent.
    pub mode: KeyMode,
    /// Scopes granted.
    pub scopes: &'a [String],
    /// Sender domains allowed; `None` allows any.
    pub sender_domains: Option<&'a [String]>,
    /// Networks that the key may be used from; `None` allows any.
    pub allowed_ips: Option<&'a [String]>,
    /// The rate limit.
    pub rate: Option<KeyRate>,
    /// The quota.
    pub quota: Option<KeyQuota>,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// Time of expiry.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Changes to an API key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// The name.
    pub name: Option<String>,
    /// Networks that the key may be used from.
    pub allowed_ips: Change<Vec<String>>,
    /// The rate limit.
    pub rate: Change<KeyRate>,
    /// The quota.
    pub quota: Change<KeyQuota>,
    /// Time of expiry.
    pub expires_at: Change<DateTime<Utc>>,
}

/// What revoking a key did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// This call revoked the key.
    Revoked,
    /// It was revoked before; nothing was changed.
    AlreadyRevoked,
    /// The tenant has no such key.
    Unknown,
}

/// Inserts a key. The first test key of a tenant also creates the tenant's test tenant. Returns `false` if there is no such
/// tenant, or it is being deleted.
pub async fn insert(db: &Db, key: &NewKey<'_>) -> Result<bool, DbError> {
    if key.mode == KeyMode::Test {
        let query = sqlx::query!("SELECT create_test_tenant($1, $2)", key.tenant.0, key.tenant.test().0);
        db.timed("keys.create_test_tenant", query.execute(&db.pool)).await?;
    }
    // The lock of the tenant's row: a deletion that starts meanwhile waits, and then revokes this key too.
    let query = sqlx::query!(
        "INSERT INTO keys (id, tenant_id, name, hash, mode, scopes, sender_domains, allowed_ips, requests_per_second, burst,
                           recipients_per_day, created_at, expires_at)
         SELECT $1 /* id */, t.id, $3 /* name */, $4 /* hash */, $5 /* mode */, $6 /* scopes */, $7 /* sender_domains */,
                $8 /* allowed_ips */, $9 /* requests_per_second */, $10 /* burst */, $11 /* recipients_per_day */,
                $12 /* created_at */, $13 /* expires_at */
         FROM tenants t WHERE t.id = $2 /* tenant */ AND t.deleting_at IS NULL AND t.test_of IS NULL FOR SHARE",
        key.id.0,
        key.tenant.0,
        key.name,
        &key.hash[..],
        key.mode.as_str(),
        key.scopes,
        key.sender_domains,
        key.allowed_ips,
        key.rate.and_then(requests_per_second),
        key.rate.and_then(burst),
        key.quota.and_then(recipients_per_day),
        key.created_at,
        key.expires_at,
    );
    db.timed("keys.insert", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

// The conversions do not fail: the allowed values are far below the maximum of the columns.

fn requests_per_second(rate: KeyRate) -> Option<i32> {
    i32::try_from(rate.requests_per_second).ok()
}

fn burst(rate: KeyRate) -> Option<i32> {
    i32::try_from(rate.burst).ok()
}

fn recipients_per_day(quota: KeyQuota) -> Option<i32> {
    i32::try_from(quota.recipients_per_day).ok()
}

/// Returns the key with this hash, including revoked and expired keys, and what its tenant allows.
pub async fn find(db: &Db, hash: [u8; 32]) -> Result<Option<FoundKey>, DbError> {
    Ok(find_many(db, &[hash]).await?.remove(&hash))
}

/// Returns the keys with these hashes, as [`find`] does, by their hash.
pub async fn find_many(db: &Db, hashes: &[[u8; 32]]) -> Result<HashMap<[u8; 32], FoundKey>, DbError> {
    let hashes: Vec<&[u8]> = hashes.iter().map(|hash| &hash[..]).collect();
    let query = sqlx::query!(
        "SELECT k.hash, k.id, k.tenant_id, k.name, k.mode, k.scopes, k.sender_domains, k.allowed_ips, k.requests_per_second,
                k.burst, k.recipients_per_day, k.created_at, k.expires_at, k.last_used_at, k.revoked_at,
                t.requests_per_second AS tenant_requests_per_second, t.burst AS tenant_burst,
                t.recipients_per_day AS tenant_recipients_per_day, t.suspended_at, t.suspend_reason
         FROM keys k JOIN tenants t ON t.id = k.tenant_id WHERE k.hash = ANY ($1)",
        &hashes as _
    );
    let rows = db.timed("keys.find", query.fetch_all(&db.pool)).await?;
    let found = rows.into_iter().filter_map(|row| {
        let terms = TenantTerms {
            rate: KeyRate::from_row(row.tenant_requests_per_second, row.tenant_burst),
            quota: KeyQuota::from_row(row.tenant_recipients_per_day),
            suspension: row.suspended_at.map(|_| Suspension { reason: row.suspend_reason }),
        };
        let key = KeyRow {
            id: row.id,
            tenant_id: row.tenant_id,
            name: row.name,
            mode: row.mode,
            scopes: row.scopes,
            sender_domains: row.sender_domains,
            allowed_ips: row.allowed_ips,
            requests_per_second: row.requests_per_second,
            burst: row.burst,
            recipients_per_day: row.recipients_per_day,
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            revoked_at: row.revoked_at,
        };
        Some((row.hash.try_into().ok()?, FoundKey { row: key, tenant: terms }))
    });
    Ok(found.collect())
}

/// Returns a tenant's key, including revoked and expired keys.
pub async fn get(db: &Db, tenant: TenantId, id: KeyId) -> Result<Option<KeyRow>, DbError> {
    let query = sqlx::query_as!(
        KeyRow,
        "SELECT id, tenant_id, name, mode, scopes, sender_domains, allowed_ips, requests_per_second, burst,
                recipients_per_day, created_at, expires_at, last_used_at, revoked_at
         FROM keys WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0
    );
    db.timed("keys.get", query.fetch_optional(&db.pool)).await
}

/// Returns a page of a tenant's keys, newest first, starting after `after`.
pub async fn page(db: &Db, tenant: TenantId, after: Option<KeyId>, limit: i64) -> Result<Vec<KeyRow>, DbError> {
    let query = sqlx::query_as!(
        KeyRow,
        "SELECT id, tenant_id, name, mode, scopes, sender_domains, allowed_ips, requests_per_second, burst,
                recipients_per_day, created_at, expires_at, last_used_at, revoked_at
         FROM keys WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        tenant.0,
        after.map(|id| id.0),
        limit
    );
    db.timed("keys.page", query.fetch_all(&db.pool)).await
}

/// Returns the number of changes to keys and tenants so far, by all processes. A transaction that changes them also
/// increments this number, so a reader that sees the number also sees the changes.
pub async fn version(db: &Db) -> Result<i64, DbError> {
    let query = sqlx::query_scalar!("SELECT version FROM key_changes");
    db.timed("keys.version", query.fetch_one(&db.pool)).await
}

/// Changes a key that is not revoked. Returns whether there is one. If the quota is changed, its use is reported again.
pub async fn change(db: &Db, tenant: TenantId, id: KeyId, change: &KeyChange) -> Result<bool, DbError> {
    let (rate, quota, networks) = (change.rate.value(), change.quota.value(), change.allowed_ips.clone().value());
    let query = sqlx::query!(
        "WITH reset AS (
             UPDATE key_usage SET reported = 0
             WHERE $9 /* quota.is_change */ AND key_id = $2 /* id */ AND tenant_id = $1 /* tenant */)
         UPDATE keys SET
             name = coalesce($3 /* name */, name),
             allowed_ips = CASE WHEN $4 /* allowed_ips.is_change */ THEN $5::text[] /* networks */
                           ELSE allowed_ips END,
             requests_per_second = CASE WHEN $6 /* rate.is_change */ THEN $7::integer /* requests_per_second */
                                   ELSE requests_per_second END,
             burst = CASE WHEN $6 THEN $8::integer /* burst */ ELSE burst END,
             recipients_per_day = CASE WHEN $9 THEN $10::integer /* recipients_per_day */ ELSE recipients_per_day END,
             expires_at = CASE WHEN $11 /* expires_at.is_change */ THEN $12::timestamptz /* expires_at.value */
                          ELSE expires_at END
         WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL",
        tenant.0,
        id.0,
        change.name,
        change.allowed_ips.is_change(),
        networks.as_deref(),
        change.rate.is_change(),
        rate.and_then(requests_per_second),
        rate.and_then(burst),
        change.quota.is_change(),
        quota.and_then(recipients_per_day),
        change.expires_at.is_change(),
        change.expires_at.value()
    );
    db.timed("keys.change", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Revokes a key. Revoking it again changes nothing.
pub async fn revoke(db: &Db, tenant: TenantId, id: KeyId, now: DateTime<Utc>) -> Result<Revocation, DbError> {
    let query = sqlx::query!(
        "UPDATE keys SET revoked_at = $3 WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL",
        tenant.0,
        id.0,
        now
    );
    let done = db.timed("keys.revoke", query.execute(&db.pool)).await?;
    if done.rows_affected() > 0 {
        return Ok(Revocation::Revoked);
    }
    let exists = get(db, tenant, id).await?.is_some();
    Ok(if exists { Revocation::AlreadyRevoked } else { Revocation::Unknown })
}

/// Records when keys were last used. Skips keys that another process is changing: it records their use, or they are used
/// again.
pub async fn touch(db: &Db, ids: &[Uuid], times: &[DateTime<Utc>]) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE keys SET last_used_at = used.at
         FROM (SELECT k.id, u.at FROM unnest($1::uuid[], $2::timestamptz[]) AS u (id, at) JOIN keys k ON k.id = u.id
               WHERE k.last_used_at IS NULL OR k.last_used_at < u.at FOR NO KEY UPDATE OF k SKIP LOCKED) used
         WHERE keys.id = used.id",
        ids,
        times
    );
    db.timed("keys.touch", query.execute(&db.pool)).await.map(|_| ())
}
