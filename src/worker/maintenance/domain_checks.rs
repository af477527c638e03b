//! Checks the DNS records of senders' domains: every few minutes while a record of a signing or new key is missing,
//! otherwise a few times a day. Deletes keys that have been replaced.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::clock::SharedClock;
use crate::db::changes::{Caches, Outdated, TenantSettings};
use crate::db::{Db, DbError, domains};
use crate::dns::{self, UncachedResolver};
use crate::domain::id::TenantId;
use crate::domain::sender_domain::dns_records::{DnsSettings, PENDING_CHECK_INTERVAL, PublishedKey, Verdict, records};

/// Poll interval.
const INTERVAL: Duration = Duration::from_secs(30);
/// Number of domains checked at a time.
const CONCURRENCY: i64 = 8;

/// The dependencies of the checks.
#[derive(Debug)]
pub(crate) struct DomainChecks {
    pub db: Db,
    pub clock: SharedClock,
    pub caches: Arc<Caches>,
    pub dns: UncachedResolver,
    /// Configured values in the DNS records of sender domains.
    pub dns_settings: DnsSettings,
}

pub(crate) async fn run(checks: Arc<DomainChecks>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if let Err(error) = checks.once().await {
            tracing::warn!(event = "domain_check_failed", %error, "failed to check senders' domains; trying again");
        }
    }
}

impl DomainChecks {
    /// Runs all due checks.
    pub(crate) async fn once(&self) -> Result<(), DbError> {
        domains::retire(&self.db, self.clock.now()).await?;
        loop {
            let now = self.clock.now();
            let due = domains::claim_due(&self.db, now, now + PENDING_CHECK_INTERVAL, CONCURRENCY).await?;
            if due.is_empty() {
                return Ok(());
            }
            let checks = join_all(due.iter().map(|(tenant, name)| self.check(*tenant, name))).await;
            checks.into_iter().collect::<Result<(), DbError>>()?;
        }
    }

    async fn check(&self, tenant: TenantId, name: &str) -> Result<(), DbError> {
        let rows = domains::keys(&self.db, tenant, &[name.to_owned()]).await?;
        let keys: Vec<PublishedKey> = rows.iter().filter_map(domains::KeyRow::published).collect();
        let findings = dns::check(&self.dns, records(&self.dns_settings, name, &keys)).await;
        let verdict = Verdict::new(&self.dns_settings, name, &keys, findings);
        for selector in &verdict.published {
            tracing::info!(
                event = "dkim_key_activated",
                domain = name,
                selector,
                "found the DNS record of a new DKIM key; signing with it from now on"
            );
        }
        let now = self.clock.now();
        let next_check = now + verdict.next_check(&self.dns_settings, &keys);
        domains::checked(&self.db, tenant, name, &verdict, &keys, now, next_check).await?;
        // Most checks change nothing that is cached. The poll finds another status.
        if !verdict.published.is_empty() {
            self.caches.forget(Outdated::Settings(tenant, TenantSettings::Domains));
        }
        Ok(())
    }
}
