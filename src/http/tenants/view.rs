//! Tenants in requests and responses.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::tenants::TenantRow;
use crate::domain::id::TenantId;
use crate::domain::key::{KeyQuota, KeyRate};
use crate::domain::tenant::TenantStatus;
use crate::http::keys::view::{KeyRateBody, KeyUsage};

/// A tenant to create.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewTenant)]
pub struct NewTenantBody {
    /// A name for the tenant, unique among tenants, 1–128 characters. Must not start with `ten_`.
    #[schema(example = "Acme", min_length = 1, max_length = 128)]
    pub name: String,
    /// The tenant's share of the workers' capacity relative to other tenants; defaults to 100.
    #[schema(minimum = 1, maximum = 1_000, example = 100)]
    pub weight: Option<i16>,
    /// The most urgent priority of the tenant's streams: those with a lower number are sent as if they had this one.
    /// Defaults to no limit.
    #[schema(minimum = 0, maximum = 100, example = 50)]
    pub min_priority: Option<i16>,
    /// Limits the requests of all API keys together; defaults to no limit.
    pub rate: Option<KeyRateBody>,
    /// Limits the recipients that all API keys together send to; defaults to no limit.
    pub quota: Option<KeyQuota>,
}

/// Changes to a tenant. Omitted fields keep their value, and `null` removes a limit.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TenantChange)]
pub struct TenantChangeBody {
    /// The new name, 1–128 characters; cannot be null.
    #[schema(example = "Acme", min_length = 1, max_length = 128)]
    pub name: Option<String>,
    /// The share of the workers' capacity relative to other tenants; cannot be null.
    #[schema(minimum = 1, maximum = 1_000, example = 200)]
    pub weight: Option<i16>,
    /// The most urgent priority of the tenant's streams; null removes the limit.
    #[schema(minimum = 0, maximum = 100, example = 50)]
    pub min_priority: Option<i16>,
    /// The limit of the requests of all API keys together; null removes it.
    pub rate: Option<KeyRateBody>,
    /// The limit of the recipients of all API keys together; null removes it.
    pub quota: Option<KeyQuota>,
}

/// A tenant.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Tenant)]
pub struct TenantView {
    /// The tenant's id.
    #[schema(value_type = String, example = "ten_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: TenantId,
    /// The tenant's name; of a deleted tenant, its id.
    #[schema(example = "Acme")]
    pub name: String,
    /// The tenant's state.
    #[schema(example = "active")]
    pub status: TenantStatus,
    /// The tenant's share of the workers' capacity relative to other tenants.
    #[schema(example = 100)]
    pub weight: i16,
    /// The most urgent priority of the tenant's streams: those with a lower number are sent as if they had this one; null
    /// means no limit.
    #[schema(example = 50)]
    pub min_priority: Option<i16>,
    /// The limit of the requests of all API keys together, over all replicas; null means none.
    pub rate: Option<KeyRate>,
    /// The limit of the recipients of all API keys together, over all replicas; null means none.
    pub quota: Option<KeyQuota>,
    /// When and why the tenant was suspended; null if it is not, or if it is being deleted.
    pub suspension: Option<SuspensionView>,
    /// The progress of the deletion; null if the tenant is not being deleted.
    pub deletion: Option<DeletionView>,
    /// When the tenant was created.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
}

/// The suspension of a tenant.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = TenantSuspension)]
pub struct SuspensionView {
    /// When the tenant was suspended.
    #[schema(example = "2026-11-24T09:00:00Z")]
    pub at: DateTime<Utc>,
    /// The operator's reason; null if none was given.
    #[schema(example = "The invoice is overdue.")]
    pub reason: Option<String>,
}

/// The deletion of a tenant.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = TenantDeletion)]
pub struct DeletionView {
    /// When the deletion was requested.
    #[schema(example = "2026-11-24T09:00:00Z")]
    pub requested_at: DateTime<Utc>,
    /// When all data had been deleted; null if it has not yet.
    #[schema(example = "2026-11-24T09:05:00Z")]
    pub finished_at: Option<DateTime<Utc>>,
    /// Number of messages deleted so far.
    #[schema(example = 12_000)]
    pub messages: i64,
    /// Number of rows deleted so far, in all tables.
    #[schema(example = 90_000)]
    pub rows: i64,
}

/// A tenant with the use of its quota.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = TenantWithUsage)]
pub struct TenantWithUsage {
    /// The tenant.
    #[serde(flatten)]
    pub tenant: TenantView,
    /// The use of the quota on the current day; null without a quota.
    pub usage: Option<KeyUsage>,
}

impl TenantView {
    /// Creates the view of a stored tenant.
    pub fn from_row(row: TenantRow) -> Self {
        let (status, rate, quota) = (row.status(), row.rate(), row.quota());
        let suspended_at = row.suspended_at.filter(|_| row.deleting_at.is_none());
        Self {
            id: TenantId(row.id),
            name: row.name,
            status,
            weight: row.weight,
            min_priority: row.min_priority,
            rate,
            quota,
            suspension: suspended_at.map(|at| SuspensionView { at, reason: row.suspend_reason }),
            deletion: row.deleting_at.map(|requested_at| DeletionView {
                requested_at,
                finished_at: row.deleted_at,
                messages: row.deleted_messages.unwrap_or(0),
                rows: row.deleted_rows.unwrap_or(0),
            }),
            created_at: row.created_at,
        }
    }
}
