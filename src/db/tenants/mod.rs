//! The table `tenants`. Test tenants are not tenants for callers of this module: their rows follow those of their live
//! tenants (`create_test_tenant`, `copy_tenant_to_test_tenant`).

pub mod deletion;
pub mod moving;

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::key::{KeyQuota, KeyRate};
use crate::domain::tenant::{NewTenant, TenantChange, TenantStatus};

/// A tenant.
#[derive(Debug, Clone)]
pub struct TenantRow {
    /// `tenants.id`.
    pub id: Uuid,
    /// The name; of a deleted tenant, the id.
    pub name: String,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// Share of the workers' capacity.
    pub weight: i16,
    /// The most urgent priority of its streams.
    pub min_priority: Option<i16>,
    /// Maximum requests per second.
    pub requests_per_second: Option<i32>,
    /// Maximum requests at once.
    pub burst: Option<i32>,
    /// Maximum recipients per day.
    pub recipients_per_day: Option<i32>,
    /// When an operator suspended the tenant.
    pub suspended_at: Option<DateTime<Utc>>,
    /// The operator's reason.
    pub suspend_reason: Option<String>,
    /// When an operator asked to delete the tenant.
    pub deleting_at: Option<DateTime<Utc>>,
    /// When all data had been deleted.
    pub deleted_at: Option<DateTime<Utc>>,
    /// Messages deleted so far; `None` if the tenant is not being deleted.
    pub deleted_messages: Option<i64>,
    /// Rows deleted so far; `None` if the tenant is not being deleted.
    pub deleted_rows: Option<i64>,
}

impl TenantRow {
    /// Returns the state.
    pub fn status(&self) -> TenantStatus {
        TenantStatus::from_times(self.suspended_at, self.deleting_at, self.deleted_at)
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

/// The result of a change of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// The tenant was changed, or had the new state already.
    Done,
    /// There is no such tenant.
    Unknown,
    /// The tenant is being deleted, or was.
    Deleting,
    /// Another tenant has the name.
    NameTaken,
}

/// Creates a tenant with everything that it needs to send: its event counter, and the streams that the migrations create for
/// the default tenant. Returns `false` if a tenant has this name.
pub async fn create(db: &Db, id: TenantId, tenant: &NewTenant, now: DateTime<Utc>) -> Result<bool, DbError> {
    db.timed("tenants.create", async {
        let mut tx = db.pool.begin().await?;
        let query = sqlx::query!(
            "INSERT INTO tenants (id, name, created_at, weight, requests_per_second, burst, recipients_per_day, min_priority)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (name) DO NOTHING",
            id.0,
            tenant.name,
            now,
            tenant.weight,
            tenant.rate.and_then(requests_per_second),
            tenant.rate.and_then(burst),
            tenant.quota.and_then(recipients_per_day),
            tenant.min_priority
        );
        if query.execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query!("INSERT INTO event_counters (tenant_id) VALUES ($1)", id.0).execute(&mut *tx).await?;
        sqlx::query!(
            "INSERT INTO streams (tenant_id, name, priority, created_at)
             VALUES ($1, 'transactional', 10, $2), ($1, 'bulk', 50, $2)",
            id.0,
            now
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    })
    .await
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

/// Returns a tenant, also a deleted one.
pub async fn get(db: &Db, id: TenantId) -> Result<Option<TenantRow>, DbError> {
    let query = sqlx::query_as!(
        TenantRow,
        r#"SELECT t.id, t.name, t.created_at, t.weight, t.min_priority, t.requests_per_second, t.burst, t.recipients_per_day,
                  t.suspended_at, t.suspend_reason, t.deleting_at, t.deleted_at, d.messages AS "deleted_messages?",
                  d.rows AS "deleted_rows?"
           FROM tenants t LEFT JOIN tenant_deletions d ON d.tenant_id = t.id
           WHERE t.id = $1 AND t.test_of IS NULL"#,
        id.0
    );
    db.timed("tenants.get", query.fetch_optional(&db.pool)).await
}

/// Returns the id of the tenant with this name.
pub async fn find(db: &Db, name: &str) -> Result<Option<TenantId>, DbError> {
    let query =
        sqlx::query_scalar!("SELECT id FROM tenants WHERE name = $1 AND deleted_at IS NULL AND test_of IS NULL", name);
    db.timed("tenants.find", query.fetch_optional(&db.pool)).await.map(|id| id.map(TenantId))
}

/// Returns a page of the tenants, newest first, starting after `after`; with `status`, only those in this state. The
/// default tenant is the last one.
pub async fn page(
    db: &Db,
    status: Option<TenantStatus>,
    after: Option<TenantId>,
    limit: i64,
) -> Result<Vec<TenantRow>, DbError> {
    let query = sqlx::query_as!(
        TenantRow,
        r#"SELECT t.id, t.name, t.created_at, t.weight, t.min_priority, t.requests_per_second, t.burst, t.recipients_per_day,
                  t.suspended_at, t.suspend_reason, t.deleting_at, t.deleted_at, d.messages AS "deleted_messages?",
                  d.rows AS "deleted_rows?"
           FROM tenants t LEFT JOIN tenant_deletions d ON d.tenant_id = t.id
           WHERE t.test_of IS NULL AND ($1::uuid IS NULL OR t.id < $1)
             AND ($2::text IS NULL OR $2 = CASE
                 WHEN t.deleted_at IS NOT NULL THEN 'deleted'
                 WHEN t.deleting_at IS NOT NULL THEN 'deleting'
                 WHEN t.suspended_at IS NOT NULL THEN 'suspended'
                 ELSE 'active' END)
           ORDER BY t.id DESC LIMIT $3"#,
        after.map(|id| id.0),
        status.map(TenantStatus::as_str),
        limit
    );
    db.timed("tenants.page", query.fetch_all(&db.pool)).await
}

/// Changes a tenant that is not being deleted. If the quota is changed, its use is reported again.
pub async fn change(db: &Db, id: TenantId, change: &TenantChange) -> Result<Changed, DbError> {
    let (rate, quota) = (change.rate.value(), change.quota.value());
    db.timed("tenants.change", async {
        let query = sqlx::query!(
            "WITH reset AS (
                 UPDATE tenant_usage SET reported = 0 WHERE $7 AND tenant_id = $1)
             UPDATE tenants SET
                 name = coalesce($2, name),
                 weight = coalesce($3, weight),
                 requests_per_second = CASE WHEN $4 THEN $5::integer ELSE requests_per_second END,
                 burst = CASE WHEN $4 THEN $6::integer ELSE burst END,
                 recipients_per_day = CASE WHEN $7 THEN $8::integer ELSE recipients_per_day END,
                 min_priority = CASE WHEN $9 THEN $10::smallint ELSE min_priority END
             WHERE id = $1 AND deleting_at IS NULL AND test_of IS NULL",
            id.0,
            change.name,
            change.weight,
            change.rate.is_change(),
            rate.and_then(requests_per_second),
            rate.and_then(burst),
            change.quota.is_change(),
            quota.and_then(recipients_per_day),
            change.min_priority.is_change(),
            change.min_priority.value()
        );
        match query.execute(&db.pool).await {
            Ok(done) if done.rows_affected() > 0 => Ok(Changed::Done),
            Ok(_) => unchanged(db, id).await,
            // The only other unique constraint is the primary key, which does not change.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(Changed::NameTaken),
            Err(error) => Err(error),
        }
    })
    .await
}

/// Returns why a change of a tenant had no effect.
async fn unchanged(db: &Db, id: TenantId) -> Result<Changed, sqlx::Error> {
    let exists = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM tenants WHERE id = $1 AND test_of IS NULL) AS "exists!""#,
        id.0
    );
    Ok(if exists.fetch_one(&db.pool).await? { Changed::Deleting } else { Changed::Unknown })
}

/// Suspends a tenant. Suspending it again changes only the reason.
pub async fn suspend(db: &Db, id: TenantId, reason: Option<&str>, now: DateTime<Utc>) -> Result<Changed, DbError> {
    db.timed("tenants.suspend", async {
        let query = sqlx::query!(
            "UPDATE tenants SET suspended_at = coalesce(suspended_at, $3), suspend_reason = $2
             WHERE id = $1 AND deleting_at IS NULL AND test_of IS NULL",
            id.0,
            reason,
            now
        );
        match query.execute(&db.pool).await?.rows_affected() {
            0 => unchanged(db, id).await,
            _ => Ok(Changed::Done),
        }
    })
    .await
}

/// Returns the ids of all suspended tenants, with their test tenants.
pub async fn suspended(db: &Db) -> Result<HashSet<Uuid>, DbError> {
    let query = sqlx::query_scalar!("SELECT id FROM tenants WHERE suspended_at IS NOT NULL AND deleted_at IS NULL");
    let ids = db.timed("tenants.suspended", query.fetch_all(&db.pool)).await?;
    Ok(ids.into_iter().collect())
}

/// Ends the suspension of a tenant, and records it as a pause of each of its streams, and of those of its test tenant, so that
/// retry windows do not include it.
pub async fn resume(db: &Db, id: TenantId, now: DateTime<Utc>) -> Result<Changed, DbError> {
    db.timed("tenants.resume", async {
        let mut tx = db.pool.begin().await?;
        let query = sqlx::query!(
            "SELECT suspended_at, deleting_at FROM tenants WHERE id = $1 AND test_of IS NULL FOR NO KEY UPDATE",
            id.0
        );
        let Some(tenant) = query.fetch_optional(&mut *tx).await? else { return Ok(Changed::Unknown) };
        if tenant.deleting_at.is_some() {
            return Ok(Changed::Deleting);
        }
        let Some(suspended_at) = tenant.suspended_at else { return Ok(Changed::Done) };
        sqlx::query!("UPDATE tenants SET suspended_at = NULL, suspend_reason = NULL WHERE id = $1", id.0)
            .execute(&mut *tx)
            .await?;
        sqlx::query!(
            "INSERT INTO pauses (tenant_id, stream, paused_at, resumed_at)
             SELECT tenant_id, name, $3, $4 FROM streams WHERE tenant_id IN ($1, $2)",
            id.0,
            id.test().0,
            suspended_at,
            now.max(suspended_at)
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Changed::Done)
    })
    .await
}
