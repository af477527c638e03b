//! The suspended tenants, known to this process within a second. Claims skip their lanes; this is for recipients that were
//! leased before the suspension and whose attempts have not begun: they are released.
//!
//! While nothing is in flight and no tenant is suspended, nothing is polled. Otherwise a poll reads one number, and the
//! tenants only if it has changed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use uuid::Uuid;

use super::Leases;
use crate::db::{Db, DbError, keys, tenants};

/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The ids of suspended tenants.
#[derive(Debug, Default)]
pub(crate) struct SuspendedTenants(RwLock<HashSet<Uuid>>);

impl SuspendedTenants {
    pub(crate) fn contains(&self, tenant: Uuid) -> bool {
        self.0.read().contains(&tenant)
    }

    fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }

    /// Loads the tenants.
    pub(crate) async fn load(&self, db: &Db) -> Result<(), DbError> {
        let ids = tenants::suspended(db).await?;
        *self.0.write() = ids;
        Ok(())
    }

    /// Loads the tenants if any has changed since `known`, the version at the last load. Returns the current version.
    async fn load_changed(&self, db: &Db, known: Option<i64>) -> Result<i64, DbError> {
        let version = keys::version(db).await?;
        if known != Some(version) {
            self.load(db).await?;
        }
        Ok(version)
    }
}

pub(crate) async fn run(leases: Arc<Leases>) {
    let Leases { db, suspended_tenants, in_flight, .. } = &*leases;
    let mut known = None;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        // While a tenant is suspended, its end must become known before the tenant's recipients are claimed again.
        if in_flight.is_empty() && suspended_tenants.is_empty() {
            continue;
        }
        match suspended_tenants.load_changed(db, known).await {
            Ok(version) => known = Some(version),
            Err(error) => tracing::debug!(%error, "failed to load the suspended tenants; trying again"),
        }
    }
}
