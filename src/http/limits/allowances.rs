//! Rate limits and quotas of API keys and tenants, which apply to all replicas together. Requests are admitted from blocks
//! in memory, which are leased from the database (`domain::key::allowance`). If both a key and its tenant have a limit, a
//! request needs both. Keys without limits cost nothing here.

mod blocks;
mod headers;
mod reservation;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::db::Db;
use crate::db::keys::usage;
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::allowance::{QuotaBlock, RateBlock};
use crate::domain::key::{KeyQuota, KeyRate, LimitOwner};
use crate::http::ApiError;
use crate::http::auth::CachedKey;
use crate::http::response::ResponseOwner;

pub(in crate::http) use headers::ShownLimits;
pub(in crate::http) use reservation::{QuotaReservation, settle};

/// Interval at which leased recipients that were not used are returned to their quotas.
const RELEASE_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of keys and tenants at which the blocks of an unused one are kept until its rate has recovered and the
/// day of its quota has ended. With more, the blocks are removed as soon as their recipients have been returned.
const MAX_IDLE_OWNERS: usize = 10_000;

/// The blocks of one key or tenant.
#[derive(Debug, Default)]
struct Blocks {
    rate: Mutex<RateBlock>,
    quota: Mutex<QuotaBlock>,
    /// Held by the request that leases a block, so that other requests wait for this block.
    rate_lease: tokio::sync::Mutex<()>,
    quota_lease: tokio::sync::Mutex<()>,
    /// Whether the blocks were used since the last release.
    is_in_use: AtomicBool,
}

/// The limits of one key or tenant, with their blocks.
#[derive(Debug)]
struct Limited {
    tenant: TenantId,
    owner: LimitOwner,
    rate: Option<KeyRate>,
    quota: Option<KeyQuota>,
    blocks: Arc<Blocks>,
}

/// The blocks of all keys and tenants with limits that are in use.
#[derive(Debug)]
pub struct Allowances {
    db: Db,
    clock: SharedClock,
    owners: Mutex<HashMap<LimitOwner, Arc<Blocks>>>,
}

impl Allowances {
    pub(in crate::http) fn new(db: Db, clock: SharedClock) -> Self {
        Self { db, clock, owners: Mutex::default() }
    }

    /// Admits a request of a key with limits, and sets the limits that its response shows. Fails if a rate is exceeded.
    pub(in crate::http) async fn admit(&self, key: &CachedKey, owner: Option<&ResponseOwner>) -> Result<(), ApiError> {
        let limits = self.limits(key);
        let result = self.take_request(&limits).await;
        if let Some(owner) = owner {
            owner.set_limits(ShownLimits::new(&limits, self.clock.now()));
        }
        result
    }

    /// Takes a request from each rate, or from none.
    async fn take_request(&self, limits: &[Limited]) -> Result<(), ApiError> {
        for (n, limited) in limits.iter().enumerate() {
            let Some(rate) = limited.rate else { continue };
            if let Err(error) = limited.take_request(self, rate).await {
                limits.iter().take(n).for_each(Limited::put_back_request);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Reserves recipients of the quotas of a key and its tenant; `None` if neither has one. Fails if too few are left.
    pub(in crate::http) async fn reserve(
        &self,
        key: &CachedKey,
        recipients: usize,
    ) -> Result<Option<QuotaReservation>, ApiError> {
        if recipients == 0 || (key.quota.is_none() && key.tenant.quota.is_none()) {
            return Ok(None);
        }
        // Boxed, because the future is part of every request that sends a message.
        Box::pin(self.reserve_all(key, recipients as u64)).await.map(Some)
    }

    async fn reserve_all(&self, key: &CachedKey, recipients: u64) -> Result<QuotaReservation, ApiError> {
        let mut reservation = QuotaReservation::new(recipients, self.clock.now().date_naive());
        for limited in self.limits(key) {
            let Some(quota) = limited.quota else { continue };
            if let Err(error) = limited.take_recipients(self, quota, recipients).await {
                settle(Some(reservation), Some(0));
                return Err(error);
            }
            reservation.add(limited.blocks);
        }
        Ok(reservation)
    }

    /// Returns the limits that apply to a key.
    fn limits(&self, key: &CachedKey) -> Vec<Limited> {
        let tenant = TenantId(key.row.tenant_id);
        let own = (LimitOwner::Key(KeyId(key.row.id)), key.rate, key.quota);
        let shared = (LimitOwner::Tenant(tenant), key.tenant.rate, key.tenant.quota);
        let limits = [own, shared].into_iter().filter(|(_, rate, quota)| rate.is_some() || quota.is_some());
        let limited = |(owner, rate, quota)| Limited { tenant, owner, rate, quota, blocks: self.blocks(owner) };
        limits.map(limited).collect()
    }

    fn blocks(&self, owner: LimitOwner) -> Arc<Blocks> {
        let blocks = self.owners.lock().entry(owner).or_default().clone();
        blocks.is_in_use.store(true, Ordering::Relaxed);
        blocks
    }

    /// Returns recipients to their quotas once they have not been used for a while. Runs until the service stops.
    pub(in crate::http) async fn release_unused(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(RELEASE_INTERVAL)).await.is_some() {
            for (owner, blocks) in self.idle() {
                self.release(owner, &blocks).await;
            }
        }
    }

    /// Returns all unused recipients to their quotas. Called during the shutdown, when no request is in progress.
    pub async fn release_all(&self) {
        let all: Vec<_> = self.owners.lock().iter().map(|(owner, blocks)| (*owner, blocks.clone())).collect();
        for (owner, blocks) in all {
            // If the database is unavailable, stops at the first one: a timeout for each would delay the shutdown.
            if !self.release(owner, &blocks).await {
                return;
            }
        }
    }

    /// Returns the blocks with recipients that were not used since the last call, and removes those that need not be kept.
    fn idle(&self) -> Vec<(LimitOwner, Arc<Blocks>)> {
        let now = self.clock.now();
        let mut owners = self.owners.lock();
        let is_full = owners.len() > MAX_IDLE_OWNERS;
        let mut idle = Vec::new();
        owners.retain(|owner, blocks| {
            let was_in_use = blocks.is_in_use.swap(false, Ordering::Relaxed);
            let quota = *blocks.quota.lock();
            let has_recipients = quota.day().is_some();
            if has_recipients && !was_in_use {
                idle.push((*owner, blocks.clone()));
            }
            let is_kept = !is_full && (quota.is_known(now.date_naive()) || blocks.rate.lock().has_unused(now));
            // Requests in progress hold a reference to the blocks, too.
            was_in_use || has_recipients || is_kept || Arc::strong_count(blocks) > 1
        });
        idle
    }

    /// Returns the unused recipients of a key or a tenant to its quota. Returns `false` if that failed.
    async fn release(&self, owner: LimitOwner, blocks: &Blocks) -> bool {
        let (day, recipients) = {
            let mut block = blocks.quota.lock();
            let Some(day) = block.day() else { return true };
            (day, block.remove_unused(day))
        };
        match usage::release_recipients(&self.db, owner, day, recipients).await {
            Ok(()) => {
                blocks.quota.lock().add_left(recipients, day);
                true
            }
            Err(error) if error.may_be_done() => {
                tracing::debug!(%error, "unused recipients of a quota may not have been returned; counting them as used");
                false
            }
            Err(error) => {
                tracing::debug!(%error, "failed to return unused recipients of a quota; trying again");
                blocks.quota.lock().put_back(recipients, day);
                false
            }
        }
    }
}
