//! Tenants: owners of data that never see each other's.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};

use super::id::TenantId;
use super::key::{KeyQuota, KeyRate};
use super::limits::Change;
use super::words::words;

/// Range of a tenant's weight.
pub const WEIGHT: RangeInclusive<u64> = 1..=1_000;
/// The weight of a tenant for which none was set.
pub const DEFAULT_WEIGHT: i16 = 100;
/// Length of a tenant's name, in characters.
pub const NAME: RangeInclusive<usize> = 1..=128;

words! {
    /// The state of a tenant.
    pub enum TenantStatus as "TenantStatus" {
        /// Messages are accepted and sent.
        Active = "active",
        /// An operator has suspended the tenant: it can only read. Nothing is accepted, nothing is sent, and everything is
        /// kept.
        Suspended = "suspended",
        /// The tenant's data is being deleted. Its API keys are revoked.
        Deleting = "deleting",
        /// The tenant's data has been deleted. Its id is not used again.
        Deleted = "deleted",
    }
}

impl TenantStatus {
    /// Returns the state from the times at which a tenant was suspended and its deletion began and ended.
    pub fn from_times(
        suspended_at: Option<DateTime<Utc>>,
        deleting_at: Option<DateTime<Utc>>,
        deleted_at: Option<DateTime<Utc>>,
    ) -> Self {
        match (suspended_at, deleting_at, deleted_at) {
            (_, _, Some(_)) => Self::Deleted,
            (_, Some(_), None) => Self::Deleting,
            (Some(_), None, None) => Self::Suspended,
            (None, None, None) => Self::Active,
        }
    }
}

/// What a tenant allows its API keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantTerms {
    /// The rate limit of all keys together.
    pub rate: Option<KeyRate>,
    /// The quota of all keys together.
    pub quota: Option<KeyQuota>,
    /// Set while the tenant is suspended.
    pub suspension: Option<Suspension>,
}

/// The suspension of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// The operator's reason, which the tenant's users may see.
    pub reason: Option<String>,
}

impl Suspension {
    /// Returns the error of a request that a suspended tenant may not make.
    pub fn sentence(&self) -> String {
        let reason = self.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
        format!("This tenant is suspended{reason}: it may only read.")
    }
}

/// A tenant to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTenant {
    /// The name, unique among tenants.
    pub name: String,
    /// The weight.
    pub weight: i16,
    /// The most urgent priority of its streams.
    pub min_priority: Option<i16>,
    /// The rate limit.
    pub rate: Option<KeyRate>,
    /// The quota.
    pub quota: Option<KeyQuota>,
}

/// Changes to a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantChange {
    /// The name.
    pub name: Option<String>,
    /// The weight.
    pub weight: Option<i16>,
    /// The most urgent priority of its streams.
    pub min_priority: Change<i16>,
    /// The rate limit.
    pub rate: Change<KeyRate>,
    /// The quota.
    pub quota: Change<KeyQuota>,
}

/// Checks the characters of a tenant's name, whose length is checked elsewhere.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    // Commands accept an id or a name, and the name of a deleted tenant is its id.
    if name.starts_with("ten_") {
        return Err("must not start with `ten_`, as ids do");
    }
    Ok(())
}

/// Returns the name of a deleted tenant.
pub fn tombstone_name(id: TenantId) -> String {
    id.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_follows_the_latest_step() {
        let at = Some(DateTime::UNIX_EPOCH);
        assert_eq!(TenantStatus::from_times(None, None, None), TenantStatus::Active);
        assert_eq!(TenantStatus::from_times(at, None, None), TenantStatus::Suspended);
        assert_eq!(TenantStatus::from_times(at, at, None), TenantStatus::Deleting);
        assert_eq!(TenantStatus::from_times(at, at, at), TenantStatus::Deleted);
    }

    #[test]
    fn name_is_not_an_id() {
        assert!(check_name("ten_acme").is_err() && check_name(&tombstone_name(TenantId::DEFAULT)).is_err());
        assert!(check_name("Acme, Inc.").is_ok() && check_name("tenor").is_ok());
    }

    #[test]
    fn suspension_names_its_reason() {
        let reason = Some("unpaid".to_owned());
        assert_eq!(Suspension { reason }.sentence(), "This tenant is suspended (unpaid): it may only read.");
        assert_eq!(Suspension { reason: None }.sentence(), "This tenant is suspended: it may only read.");
    }
}
