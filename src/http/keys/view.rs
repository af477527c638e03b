//! API keys in requests and responses.

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::db::keys::KeyRow;
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::allowance::next_day;
use crate::domain::key::{KeyMode, KeyQuota, KeyRate, Scope};

/// A rate limit to set.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRateBody {
    /// Maximum requests per second over a longer time.
    #[schema(minimum = 1, maximum = 10_000, example = 10)]
    pub requests_per_second: u32,
    /// Maximum requests at once after a pause; defaults to `requests_per_second`, and may not be less.
    #[schema(minimum = 1, maximum = 100_000, example = 20)]
    pub burst: Option<u32>,
}

/// An API key to create.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKeyBody {
    /// A name for the key, 1–128 characters.
    #[schema(example = "shop", min_length = 1, max_length = 128)]
    pub name: String,
    /// The id of the key's tenant; defaults to the caller's. Only for callers with the scope `operator`.
    #[schema(value_type = Option<String>, example = "ten_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub tenant: Option<TenantId>,
    /// `live`, the default, sends messages. `test` sends nothing: the last hop is the built-in simulator.
    pub mode: Option<KeyMode>,
    /// The key's scopes; defaults to `send` and `read`. Only a caller with the scope `operator` may grant `operator`.
    #[schema(min_items = 1, example = json!(["send", "read"]))]
    pub scopes: Option<Vec<Scope>>,
    /// Limits the key to sending from, and reading messages of, these domains; defaults to all. Not allowed with the
    /// scopes `admin` and `operator`.
    #[schema(min_items = 1, example = json!(["acme.test"]))]
    pub sender_domains: Option<Vec<String>>,
    /// Limits the key to clients in these networks: IPv4 and IPv6 addresses, or networks in CIDR notation; defaults to all.
    #[schema(min_items = 1, max_items = 100, example = json!(["203.0.113.0/24", "2001:db8::/32"]))]
    pub allowed_ips: Option<Vec<String>>,
    /// Limits the key's requests; defaults to no limit.
    pub rate: Option<KeyRateBody>,
    /// Limits the recipients that the key sends to; defaults to no limit. Not allowed for a test key, whose messages do
    /// not count.
    pub quota: Option<KeyQuota>,
    /// When the key expires; defaults to never.
    #[schema(example = "2027-12-01T09:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// Changes to an API key. Omitted fields keep their value, and `null` removes a limit.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyChangeBody {
    /// The new name, 1–128 characters; cannot be null.
    #[schema(example = "shop", min_length = 1, max_length = 128)]
    pub name: Option<String>,
    /// The networks that the key may be used from; null allows all.
    #[schema(min_items = 1, max_items = 100, example = json!(["203.0.113.0/24"]))]
    pub allowed_ips: Option<Vec<String>>,
    /// The limit of the key's requests; null removes it.
    pub rate: Option<KeyRateBody>,
    /// The limit of recipients; null removes it.
    pub quota: Option<KeyQuota>,
    /// When the key expires; null means never.
    #[schema(example = "2027-12-01T09:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// An API key, without its secret.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ApiKey)]
pub struct Key {
    /// The key's id.
    #[schema(value_type = String, example = "key_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: KeyId,
    /// The key's name.
    #[schema(example = "shop")]
    pub name: String,
    /// The key's tenant.
    #[schema(value_type = String, example = "ten_00000000000000000000000000000000")]
    pub tenant: TenantId,
    /// `live`: messages are sent; `test`: nothing is sent, and test data is separate from live data.
    #[schema(value_type = KeyMode, example = "live")]
    pub mode: String,
    /// The key's scopes.
    #[schema(example = json!(["send", "read"]))]
    pub scopes: Vec<String>,
    /// The only domains that the key may send from and read messages of; null means all.
    #[schema(example = json!(["acme.test"]))]
    pub sender_domains: Option<Vec<String>>,
    /// The only networks that the key may be used from; null means all.
    #[schema(example = json!(["203.0.113.0/24", "2001:db8::/32"]))]
    pub allowed_ips: Option<Vec<String>>,
    /// The limit of the key's requests, over all replicas; null means none.
    pub rate: Option<KeyRate>,
    /// The limit of recipients, over all replicas; null means none.
    pub quota: Option<KeyQuota>,
    /// When the key was created.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
    /// When the key expires; null means never.
    #[schema(example = "2027-12-01T09:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
    /// When the key was last used, accurate to a minute; null if never.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub last_used_at: Option<DateTime<Utc>>,
    /// When the key was revoked; null if it was not.
    #[schema(example = "2026-11-30T12:00:00Z")]
    pub revoked_at: Option<DateTime<Utc>>,
}

/// The use of a quota on the current day.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct KeyUsage {
    /// The day (UTC).
    #[schema(example = "2026-11-23")]
    pub day: NaiveDate,
    /// Recipients used on that day. Each replica that the key or tenant sends through may count up to 1/64 of what was left
    /// as used, until it has not sent for a second.
    #[schema(example = 412)]
    pub recipients: i64,
    /// Recipients that are left.
    #[schema(example = 49_588)]
    pub remaining: i64,
    /// When the next day begins.
    #[schema(example = "2026-11-24T00:00:00Z")]
    pub resets_at: DateTime<Utc>,
}

impl KeyUsage {
    /// Creates the use of a quota.
    pub fn new(quota: KeyQuota, recipients: i64, now: DateTime<Utc>) -> Self {
        Self {
            day: now.date_naive(),
            recipients,
            remaining: (i64::from(quota.recipients_per_day) - recipients).max(0),
            resets_at: next_day(now),
        }
    }
}

/// An API key with the use of its quota.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ApiKeyWithUsage)]
pub struct KeyWithUsage {
    /// The key.
    #[serde(flatten)]
    pub key: Key,
    /// The use of the quota on the current day; null without a quota.
    pub usage: Option<KeyUsage>,
}

/// A new API key with its secret.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = ApiKeyWithSecret)]
pub struct CreatedKey {
    /// The key.
    #[serde(flatten)]
    pub key: Key,
    /// The secret to send as `Authorization: Bearer SECRET`. Shown only once.
    #[schema(example = "pr_live_F5CGtm46oQTblmLXHPmHM4w3UAkCNxcC7d04j8UgjfI2GR5D6")]
    pub secret: String,
}

impl std::fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedKey").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Key {
    /// Creates the view of a stored key.
    pub fn from_row(row: KeyRow) -> Self {
        let (rate, quota) = (row.rate(), row.quota());
        Self {
            id: KeyId(row.id),
            name: row.name,
            tenant: TenantId(row.tenant_id),
            mode: row.mode,
            scopes: row.scopes,
            sender_domains: row.sender_domains,
            allowed_ips: row.allowed_ips,
            rate,
            quota,
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            revoked_at: row.revoked_at,
        }
    }
}
