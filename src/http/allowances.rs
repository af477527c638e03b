//! Rate limits and quotas of API keys, which apply to all replicas together. Requests are admitted from blocks in
//! memory, which are leased from the database (`domain::key::allowance`). Keys without limits cost nothing here.

mod headers;
mod reservation;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::auth::CachedKey;
use super::response::ResponseOwner;
use super::{ApiError, ProblemCode};
use crate::clock::SharedClock;
use crate::db::Db;
use crate::db::keys::usage::{self, QuotaRequest, RateRequest};
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::allowance::{QuotaBlock, RateBlock, Take, next_day};
use crate::domain::key::{KeyQuota, KeyRate};

pub(super) use headers::ShownLimits;
pub(super) use reservation::{QuotaReservation, settle};

/// Interval at which leased recipients that were not used are returned to their quotas.
const RELEASE_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of keys at which the blocks of an unused key are kept until its rate has recovered and the day of its
/// quota has ended. With more keys, the blocks are removed as soon as their recipients have been returned.
const MAX_IDLE_KEYS: usize = 10_000;

/// The blocks of one key.
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

/// The blocks of all keys with limits that are in use.
#[derive(Debug)]
pub struct Allowances {
    db: Db,
    clock: SharedClock,
    keys: Mutex<HashMap<KeyId, Arc<Blocks>>>,
}

impl Allowances {
    pub(super) fn new(db: Db, clock: SharedClock) -> Self {
        Self { db, clock, keys: Mutex::default() }
    }

    /// Admits a request of a key with limits, and sets the limits that its response shows. Fails if the rate is exceeded.
    pub(super) async fn admit(&self, key: &CachedKey, owner: Option<&ResponseOwner>) -> Result<(), ApiError> {
        let blocks = self.blocks(KeyId(key.row.id));
        let result = match key.rate {
            Some(rate) => self.take_request(key, rate, &blocks).await,
            None => Ok(()),
        };
        if let Some(owner) = owner {
            let now = self.clock.now();
            let rate = key.rate.map(|rate| (rate, blocks.rate.lock().state(rate, now)));
            owner.set_limits(ShownLimits { rate, quota: key.quota, blocks, now });
        }
        result
    }

    async fn take_request(&self, key: &CachedKey, rate: KeyRate, blocks: &Blocks) -> Result<(), ApiError> {
        if let Some(result) = self.take_from_block(rate, blocks) {
            return result;
        }
        let _lease = blocks.rate_lease.lock().await;
        // Another request may have leased a block meanwhile, and it may be used up again.
        loop {
            if let Some(result) = self.take_from_block(rate, blocks) {
                return result;
            }
            self.lease_requests(key, rate, blocks).await?;
        }
    }

    /// Leases another block, and returns the unused requests of the last one to the limit.
    async fn lease_requests(&self, key: &CachedKey, rate: KeyRate, blocks: &Blocks) -> Result<(), ApiError> {
        let now = self.clock.now();
        let unused = blocks.rate.lock().remove_unused(rate, now);
        let (tenant, id) = (TenantId(key.row.tenant_id), KeyId(key.row.id));
        let request = RateRequest { tenant, key: id, rate, unused, now };
        match usage::lease_requests(&self.db, &request).await {
            Ok(lease) => {
                blocks.rate.lock().fill(rate, &lease, now);
                Ok(())
            }
            Err(error) => {
                // The database may have received the returned requests.
                if !error.may_be_done() {
                    blocks.rate.lock().put_back(rate, unused);
                }
                Err(error.into())
            }
        }
    }

    /// Takes a request from the block; `None` if another block must be leased.
    fn take_from_block(&self, rate: KeyRate, blocks: &Blocks) -> Option<Result<(), ApiError>> {
        let now = self.clock.now();
        let take = blocks.rate.lock().take(rate, now);
        match take {
            Take::Taken => Some(Ok(())),
            Take::Exhausted(until) => Some(Err(rate_exceeded(rate, until, now))),
            Take::Empty => None,
        }
    }

    /// Reserves recipients of the quota of a key; `None` if it has no quota. Fails if too few are left.
    pub(super) async fn reserve(
        &self,
        key: &CachedKey,
        recipients: usize,
    ) -> Result<Option<QuotaReservation>, ApiError> {
        let Some(quota) = key.quota.filter(|_| recipients > 0) else { return Ok(None) };
        let needed = recipients as u64;
        let blocks = self.blocks(KeyId(key.row.id));
        let now = self.clock.now();
        match take_recipients(quota, needed, &blocks, now) {
            Some(result) => result?,
            // Boxed, because the future is part of every request that sends a message.
            None => Box::pin(self.lease_recipients(key, quota, needed, &blocks)).await?,
        }
        Ok(Some(QuotaReservation { blocks, recipients: needed, day: now.date_naive() }))
    }

    async fn lease_recipients(
        &self,
        key: &CachedKey,
        quota: KeyQuota,
        needed: u64,
        blocks: &Blocks,
    ) -> Result<(), ApiError> {
        let _lease = blocks.quota_lease.lock().await;
        let now = self.clock.now();
        let today = now.date_naive();
        // Another request may have leased a block meanwhile.
        if let Some(result) = take_recipients(quota, needed, blocks, now) {
            return result;
        }
        let unused = blocks.quota.lock().remove_unused(today);
        let (tenant, id) = (TenantId(key.row.tenant_id), KeyId(key.row.id));
        let request = QuotaRequest { tenant, key: id, quota, needed, unused, now };
        let lease = match usage::lease_recipients(&self.db, &request).await {
            Ok(lease) => lease,
            Err(error) => {
                // The database may have received the returned recipients.
                if !error.may_be_done() {
                    blocks.quota.lock().put_back(unused, today);
                }
                return Err(error.into());
            }
        };
        let mut block = blocks.quota.lock();
        // Reservations that ended meanwhile have put recipients back.
        let returned = block.remove_unused(lease.after.day);
        block.fill(quota, &lease, now);
        block.put_back(returned, lease.after.day);
        if block.take(quota, needed, today) { Ok(()) } else { Err(quota_exceeded(quota, lease.left, needed, now)) }
    }

    fn blocks(&self, key: KeyId) -> Arc<Blocks> {
        let blocks = self.keys.lock().entry(key).or_default().clone();
        blocks.is_in_use.store(true, Ordering::Relaxed);
        blocks
    }

    /// Returns recipients to their quotas once they have not been used for a while. Runs until the service stops.
    pub(super) async fn release_unused(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(RELEASE_INTERVAL)).await.is_some() {
            for (key, blocks) in self.idle() {
                self.release(key, &blocks).await;
            }
        }
    }

    /// Returns all unused recipients to their quotas. Called during the shutdown, when no request is in progress.
    pub async fn release_all(&self) {
        let all: Vec<_> = self.keys.lock().iter().map(|(key, blocks)| (*key, blocks.clone())).collect();
        for (key, blocks) in all {
            // If the database is unavailable, stops at the first key: a timeout for each key would delay the shutdown.
            if !self.release(key, &blocks).await {
                return;
            }
        }
    }

    /// Returns the blocks with recipients that were not used since the last call, and removes those that need not be kept.
    fn idle(&self) -> Vec<(KeyId, Arc<Blocks>)> {
        let now = self.clock.now();
        let mut keys = self.keys.lock();
        let is_full = keys.len() > MAX_IDLE_KEYS;
        let mut idle = Vec::new();
        keys.retain(|key, blocks| {
            let was_in_use = blocks.is_in_use.swap(false, Ordering::Relaxed);
            let quota = *blocks.quota.lock();
            let has_recipients = quota.day().is_some();
            if has_recipients && !was_in_use {
                idle.push((*key, blocks.clone()));
            }
            let is_kept = !is_full && (quota.is_known(now.date_naive()) || blocks.rate.lock().has_unused(now));
            // Requests in progress hold a reference to the blocks, too.
            was_in_use || has_recipients || is_kept || Arc::strong_count(blocks) > 1
        });
        idle
    }

    /// Returns the unused recipients of a key to its quota. Returns `false` if that failed.
    async fn release(&self, key: KeyId, blocks: &Blocks) -> bool {
        let (day, recipients) = {
            let mut block = blocks.quota.lock();
            let Some(day) = block.day() else { return true };
            (day, block.remove_unused(day))
        };
        match usage::release_recipients(&self.db, key, day, recipients).await {
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

/// Takes recipients from a block; `None` if another block must be leased.
fn take_recipients(quota: KeyQuota, needed: u64, blocks: &Blocks, now: DateTime<Utc>) -> Option<Result<(), ApiError>> {
    let mut block = blocks.quota.lock();
    if block.take(quota, needed, now.date_naive()) {
        return Some(Ok(()));
    }
    block.shortage(quota, needed, now).map(|left| Err(quota_exceeded(quota, left, needed, now)))
}

fn rate_exceeded(rate: KeyRate, until: DateTime<Utc>, now: DateTime<Utc>) -> ApiError {
    let KeyRate { requests_per_second, burst } = rate;
    ApiError::LimitExceeded {
        code: ProblemCode::RateLimitExceeded,
        detail: format!(
            "This key may make {requests_per_second} requests per second, and {burst} at once after a pause."
        ),
        retry_after: (until - now).to_std().unwrap_or_default(),
    }
}

fn quota_exceeded(quota: KeyQuota, left: u64, needed: u64, now: DateTime<Utc>) -> ApiError {
    let limit = quota.recipients_per_day;
    ApiError::LimitExceeded {
        code: ProblemCode::DailyQuotaExceeded,
        detail: format!(
            "This key may send to {limit} recipients per day (UTC); {left} are left, and the request has {needed}."
        ),
        retry_after: (next_day(now) - now).to_std().unwrap_or_default(),
    }
}
