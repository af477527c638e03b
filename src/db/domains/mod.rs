//! The tables `domains` and `dkim_keys`: sender domains, their signing keys and the results of DNS checks.

pub mod cache;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::sender_domain::dkim::Algorithm;
use crate::domain::sender_domain::dns_records::{DmarcPolicy, PublishedKey, RETIREMENT, Verdict};

/// A row of `domains`.
#[derive(Debug, Clone)]
pub struct DomainRow {
    /// The tenant.
    pub tenant_id: Uuid,
    /// Domain name, in A-labels.
    pub name: String,
    /// Time of registration.
    pub created_at: DateTime<Utc>,
    /// Time of the last conclusive check of the keys' DNS records.
    pub checked_at: Option<DateTime<Utc>>,
    /// Time of the last check that found all of these records.
    pub verified_at: Option<DateTime<Utc>>,
    /// `none`, `quarantine` or `reject`.
    pub dmarc: Option<String>,
    /// The last finding for each DNS record.
    pub findings: Value,
}

/// A DKIM key, without its private key.
#[derive(Debug, Clone)]
pub struct KeyRow {
    /// The tenant.
    pub tenant_id: Uuid,
    /// The domain whose messages the key signs.
    pub domain: String,
    /// DKIM selector.
    pub selector: String,
    /// `ed25519` or `rsa`.
    pub algorithm: String,
    /// `pending`, `active` or `retiring`.
    pub state: String,
    /// Public key, as published in the DNS record.
    pub public_key: Vec<u8>,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// For a retiring key: until when its DNS record must stay published.
    pub retire_at: Option<DateTime<Utc>>,
}

impl KeyRow {
    /// Returns the key as published; `None` if this version does not know its algorithm or state.
    pub fn published(&self) -> Option<PublishedKey> {
        Some(PublishedKey {
            selector: self.selector.clone(),
            algorithm: self.algorithm.parse().ok()?,
            state: self.state.parse().ok()?,
            public: self.public_key.clone(),
        })
    }
}

/// A DKIM key to insert.
#[derive(Debug)]
pub struct NewKey {
    /// DKIM selector.
    pub selector: String,
    /// Signature algorithm.
    pub algorithm: Algorithm,
    /// Public key, as published in the DNS record.
    pub public: Vec<u8>,
    /// Encrypted private key.
    pub sealed: Vec<u8>,
}

/// Registers a domain with active keys. Returns `false` if a domain of this name exists, which is not changed.
pub async fn insert(
    db: &Db,
    tenant: TenantId,
    name: &str,
    keys: &[NewKey],
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    db.timed("domains.insert", async {
        let mut tx = db.pool.begin().await?;
        let inserted = sqlx::query!(
            "INSERT INTO domains (tenant_id, name, created_at, check_at) VALUES ($1, $2, $3, $3) ON CONFLICT DO NOTHING",
            tenant.0,
            name,
            now
        )
        .execute(&mut *tx)
        .await?;
        if inserted.rows_affected() == 0 {
            return Ok(false);
        }
        insert_keys(&mut tx, tenant, name, keys, "active", now).await?;
        tx.commit().await?;
        Ok(true)
    })
    .await
}

async fn insert_keys(
    tx: &mut sqlx::PgConnection,
    tenant: TenantId,
    domain: &str,
    keys: &[NewKey],
    state: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    for key in keys {
        sqlx::query!(
            "INSERT INTO dkim_keys (tenant_id, domain, selector, algorithm, state, public_key, sealed, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            tenant.0,
            domain,
            key.selector,
            key.algorithm.as_str(),
            state,
            key.public,
            key.sealed,
            now
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// The result of a key rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotated {
    /// New keys were created. They become active once their DNS records are found.
    Pending,
    /// A rotation is already pending.
    Already,
    /// No such domain.
    Missing,
}

/// Adds pending keys that later replace the active ones. Pending keys of algorithms other than `signing`, whose records
/// may never be published, are deleted.
pub async fn rotate(
    db: &Db,
    tenant: TenantId,
    name: &str,
    keys: &[NewKey],
    signing: &[Algorithm],
    now: DateTime<Utc>,
) -> Result<Rotated, DbError> {
    let signing: Vec<String> = signing.iter().map(ToString::to_string).collect();
    db.timed("domains.rotate", async {
        let mut tx = db.pool.begin().await?;
        // Makes a check due now. The update also locks the domain, so that the second of two concurrent rotations finds
        // the keys of the first.
        let updated =
            sqlx::query!("UPDATE domains SET check_at = $3 WHERE tenant_id = $1 AND name = $2", tenant.0, name, now)
                .execute(&mut *tx)
                .await?;
        if updated.rows_affected() == 0 {
            return Ok(Rotated::Missing);
        }
        let pending = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM dkim_keys WHERE tenant_id = $1 AND domain = $2 AND state = 'pending'
                              AND algorithm = ANY ($3)) AS "is!""#,
            tenant.0,
            name,
            &signing
        )
        .fetch_one(&mut *tx)
        .await?;
        if pending {
            return Ok(Rotated::Already);
        }
        sqlx::query!(
            "DELETE FROM dkim_keys WHERE tenant_id = $1 AND domain = $2 AND state = 'pending'",
            tenant.0,
            name
        )
        .execute(&mut *tx)
        .await?;
        insert_keys(&mut tx, tenant, name, keys, "pending", now).await?;
        tx.commit().await?;
        Ok(Rotated::Pending)
    })
    .await
}

/// Returns a page of a tenant's domains by name, starting after `after`. `only` restricts it to these names.
pub async fn page(
    db: &Db,
    tenant: TenantId,
    only: Option<&[String]>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<DomainRow>, DbError> {
    let query = sqlx::query_as!(
        DomainRow,
        "SELECT tenant_id, name, created_at, checked_at, verified_at, dmarc, findings FROM domains
         WHERE tenant_id = $1 AND ($2::text IS NULL OR name > $2) AND ($4::text[] IS NULL OR name = ANY ($4))
         ORDER BY name LIMIT $3",
        tenant.0,
        after,
        limit,
        only
    );
    db.timed("domains.page", query.fetch_all(&db.pool)).await
}

/// Returns one domain.
pub async fn get(db: &Db, tenant: TenantId, name: &str) -> Result<Option<DomainRow>, DbError> {
    let query = sqlx::query_as!(
        DomainRow,
        "SELECT tenant_id, name, created_at, checked_at, verified_at, dmarc, findings FROM domains
         WHERE tenant_id = $1 AND name = $2",
        tenant.0,
        name
    );
    db.timed("domains.get", query.fetch_optional(&db.pool)).await
}

/// Returns the domains of all tenants, up to a limit, for `postrider doctor`.
pub async fn all(db: &Db, limit: i64) -> Result<Vec<DomainRow>, DbError> {
    let query = sqlx::query_as!(
        DomainRow,
        "SELECT tenant_id, name, created_at, checked_at, verified_at, dmarc, findings FROM domains
         ORDER BY name, tenant_id LIMIT $1",
        limit
    );
    db.timed("domains.all", query.fetch_all(&db.pool)).await
}

/// Returns the keys of these domains, ordered by domain; the active keys of a domain come first.
pub async fn keys(db: &Db, tenant: TenantId, domains: &[String]) -> Result<Vec<KeyRow>, DbError> {
    let query = sqlx::query_as!(
        KeyRow,
        "SELECT tenant_id, domain, selector, algorithm, state, public_key, created_at, retire_at FROM dkim_keys
         WHERE tenant_id = $1 AND domain = ANY ($2) ORDER BY domain, state, algorithm, selector",
        tenant.0,
        domains
    );
    db.timed("domains.keys", query.fetch_all(&db.pool)).await
}

/// Deletes a domain and its keys. Returns whether it existed.
pub async fn remove(db: &Db, tenant: TenantId, name: &str) -> Result<bool, DbError> {
    let query = sqlx::query!("DELETE FROM domains WHERE tenant_id = $1 AND name = $2", tenant.0, name);
    db.timed("domains.remove", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Records a check of these keys. Pending keys whose records were found become active, and the active keys that they
/// replace become retiring. If a pending key was created during the check, the next check is not moved to a later time.
pub async fn checked(
    db: &Db,
    tenant: TenantId,
    name: &str,
    verdict: &Verdict,
    keys: &[PublishedKey],
    now: DateTime<Utc>,
    next: DateTime<Utc>,
) -> Result<(), DbError> {
    let findings = serde_json::to_value(&verdict.findings).unwrap_or_default();
    let dmarc = verdict.dmarc.flatten().map(DmarcPolicy::as_str);
    let known: Vec<&str> = keys.iter().map(|key| key.selector.as_str()).collect();
    db.timed("domains.checked", async {
        let mut tx = db.pool.begin().await?;
        // A separate statement before the update, so that the update sees the keys of a rotation that this lock waited
        // for.
        sqlx::query!("SELECT FROM domains WHERE tenant_id = $1 AND name = $2 FOR UPDATE", tenant.0, name)
            .execute(&mut *tx)
            .await?;
        sqlx::query!(
            "UPDATE domains SET findings = $3 /* findings */,
                 check_at = CASE WHEN EXISTS (SELECT FROM dkim_keys WHERE tenant_id = $1 AND domain = $2
                                              AND state = 'pending' AND selector <> ALL ($9 /* known */))
                                 THEN least(check_at, $4 /* next */) ELSE $4 END,
                 checked_at = CASE WHEN $5::boolean /* is_verified */ IS NULL THEN checked_at ELSE $6 /* now */ END,
                 verified_at = CASE WHEN $5 THEN $6 ELSE verified_at END,
                 dmarc = CASE WHEN $7 /* dmarc.is_some */ THEN $8 /* dmarc */ ELSE dmarc END,
                 dmarc_strict_dkim = CASE WHEN $7 THEN $10 /* strict.dkim */ ELSE dmarc_strict_dkim END,
                 dmarc_strict_spf = CASE WHEN $7 THEN $11 /* strict.spf */ ELSE dmarc_strict_spf END
             WHERE tenant_id = $1 /* tenant */ AND name = $2 /* name */",
            tenant.0,
            name,
            findings,
            next,
            verdict.is_verified,
            now,
            verdict.dmarc.is_some(),
            dmarc,
            &known as _,
            verdict.strict.dkim,
            verdict.strict.spf
        )
        .execute(&mut *tx)
        .await?;
        if !verdict.published.is_empty() {
            promote(&mut tx, tenant, name, &verdict.published, now).await?;
        }
        tx.commit().await
    })
    .await
}

/// Activates these pending keys and makes the active keys of the same algorithms retiring. A key whose record is not
/// found yet does not delay the key of the other algorithm.
async fn promote(
    tx: &mut sqlx::PgConnection,
    tenant: TenantId,
    name: &str,
    published: &[String],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE dkim_keys AS key SET state = 'retiring', retire_at = $4
         WHERE tenant_id = $1 AND domain = $2 AND state = 'active'
           AND EXISTS (SELECT FROM dkim_keys next WHERE next.tenant_id = $1 AND next.domain = $2 AND next.state = 'pending'
                       AND next.algorithm = key.algorithm AND next.selector = ANY ($3))",
        tenant.0,
        name,
        published,
        now + RETIREMENT
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "UPDATE dkim_keys SET state = 'active'
         WHERE tenant_id = $1 AND domain = $2 AND state = 'pending' AND selector = ANY ($3)",
        tenant.0,
        name,
        published
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Claims domains whose check is due. Other workers skip them until `until`; if the check is not recorded, it is due
/// again then.
pub async fn claim_due(
    db: &Db,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<(TenantId, String)>, DbError> {
    let query = sqlx::query!(
        "UPDATE domains SET check_at = $2
         WHERE (tenant_id, name) IN (SELECT tenant_id, name FROM domains WHERE check_at <= $1
                                     ORDER BY check_at LIMIT $3 FOR UPDATE SKIP LOCKED)
         RETURNING tenant_id, name",
        now,
        until,
        limit
    );
    let rows = db.timed("domains.claim_due", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(|row| (TenantId(row.tenant_id), row.name)).collect())
}

/// Deletes retiring keys whose records need not be published any longer. Returns their number.
pub async fn retire(db: &Db, now: DateTime<Utc>) -> Result<u64, DbError> {
    let query = sqlx::query!(
        "DELETE FROM dkim_keys WHERE (tenant_id, domain, selector) IN (
             SELECT tenant_id, domain, selector FROM dkim_keys WHERE state = 'retiring' AND retire_at <= $1
             FOR UPDATE SKIP LOCKED)",
        now
    );
    db.timed("domains.retire", query.execute(&db.pool)).await.map(|done| done.rows_affected())
}

/// A domain, as needed for sending, with one of its active keys, if any.
#[derive(Debug, Clone)]
pub struct SenderRow {
    /// Domain name.
    pub name: String,
    /// Time of the last conclusive check of the keys' DNS records.
    pub checked_at: Option<DateTime<Utc>>,
    /// Time of the last check that found all of these records.
    pub verified_at: Option<DateTime<Utc>>,
    /// `none`, `quarantine` or `reject`.
    pub dmarc: Option<String>,
    /// Whether the policy requires strict DKIM alignment.
    pub dmarc_strict_dkim: bool,
    /// Whether the policy requires strict SPF alignment.
    pub dmarc_strict_spf: bool,
    /// DKIM selector.
    pub selector: Option<String>,
    /// `ed25519` or `rsa`.
    pub algorithm: Option<String>,
    /// Encrypted private key.
    pub sealed: Option<Vec<u8>>,
}

/// Returns those of these domains that are registered: one row per active key, or one row without a key.
pub async fn senders(db: &Db, tenant: TenantId, names: &[String]) -> Result<Vec<SenderRow>, DbError> {
    // A change of a column that is read here has to be noted in tenant_changes (note_domain_change, note_dkim_key_change).
    let query = sqlx::query_as!(
        SenderRow,
        r#"SELECT d.name, d.checked_at, d.verified_at, d.dmarc, d.dmarc_strict_dkim,
                  d.dmarc_strict_spf, k.selector AS "selector?", k.algorithm AS "algorithm?",
                  k.sealed AS "sealed?"
           FROM domains d
           LEFT JOIN dkim_keys k ON k.tenant_id = d.tenant_id AND k.domain = d.name AND k.state = 'active'
           WHERE d.tenant_id = $1 AND d.name = ANY ($2) ORDER BY d.name, k.algorithm"#,
        tenant.0,
        names
    );
    db.timed("domains.senders", query.fetch_all(&db.pool)).await
}

/// Returns whether a tenant has registered any domain.
pub async fn any(db: &Db, tenant: TenantId) -> Result<bool, DbError> {
    let query = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM domains WHERE tenant_id = $1) AS "any!""#, tenant.0);
    db.timed("domains.any", query.fetch_one(&db.pool)).await
}
