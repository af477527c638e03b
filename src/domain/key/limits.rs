//! The limits of an API key, or of all API keys of a tenant together: requests per second, and recipients per day.

use std::ops::RangeInclusive;

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::id::{KeyId, TenantId};
use crate::domain::limits::gcra::Gcra;

/// Range of [`KeyRate::requests_per_second`].
pub const REQUESTS_PER_SECOND: RangeInclusive<u64> = 1..=10_000;
/// Range of [`KeyRate::burst`].
pub const BURST: RangeInclusive<u64> = 1..=100_000;
/// Range of [`KeyQuota::recipients_per_day`].
pub const RECIPIENTS_PER_DAY: RangeInclusive<u64> = 1..=1_000_000_000;

/// What a limit applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitOwner {
    /// One API key.
    Key(KeyId),
    /// All API keys of a tenant together.
    Tenant(TenantId),
}

impl LimitOwner {
    /// Returns the owner as the subject of a sentence, without the article.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Tenant(_) => "tenant",
        }
    }
}

/// The rate limit of a key or a tenant, over all replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct KeyRate {
    /// Maximum requests per second over a longer time.
    #[schema(minimum = 1, maximum = 10_000, example = 10)]
    pub requests_per_second: u32,
    /// Maximum requests at once after a pause, not less than `requests_per_second`.
    #[schema(minimum = 1, maximum = 100_000, example = 20)]
    pub burst: u32,
}

impl KeyRate {
    /// Creates a limit from its columns; `None` unless both are set.
    pub fn from_row(requests_per_second: Option<i32>, burst: Option<i32>) -> Option<Self> {
        let (rate, burst) = (u32::try_from(requests_per_second?).ok()?, u32::try_from(burst?).ok()?);
        (rate > 0).then_some(Self { requests_per_second: rate, burst: burst.max(rate) })
    }

    /// Returns the time in which a full burst accumulates, in whole seconds, rounded up.
    pub fn window_seconds(self) -> u32 {
        self.burst.div_ceil(self.requests_per_second)
    }

    /// Returns the limiter for this rate, with its use so far.
    pub fn gcra(self, used_until: DateTime<Utc>) -> Gcra {
        let burst = i64::from(self.burst) * 1_000_000 / i64::from(self.requests_per_second);
        Gcra::new(f64::from(self.requests_per_second), used_until).with_burst(TimeDelta::microseconds(burst))
    }
}

/// The quota of a key or a tenant, over all replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct KeyQuota {
    /// Maximum recipients per day (UTC), also suppressed ones.
    #[schema(minimum = 1, maximum = 1_000_000_000, example = 50_000)]
    pub recipients_per_day: u32,
}

impl KeyQuota {
    /// Creates a quota from its column.
    pub fn from_row(recipients_per_day: Option<i32>) -> Option<Self> {
        Some(Self { recipients_per_day: u32::try_from(recipients_per_day?).ok()? })
    }
}
