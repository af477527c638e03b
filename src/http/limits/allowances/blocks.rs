//! Takes requests and recipients from the blocks of one key or tenant, and leases other blocks when they are used up.

use chrono::{DateTime, Utc};

use super::{Allowances, Limited};
use crate::db::keys::usage::{self, QuotaRequest, RateRequest};
use crate::domain::key::allowance::{Take, next_day};
use crate::domain::key::{KeyQuota, KeyRate, LimitOwner};
use crate::http::{ApiError, ProblemCode};

/// The rate.
impl Limited {
    pub(super) async fn take_request(&self, allowances: &Allowances, rate: KeyRate) -> Result<(), ApiError> {
        let now = || allowances.clock.now();
        if let Some(result) = self.take_from_block(rate, now()) {
            return result;
        }
        let _lease = self.blocks.rate_lease.lock().await;
        // Another request may have leased a block meanwhile, and it may be used up again.
        loop {
            if let Some(result) = self.take_from_block(rate, now()) {
                return result;
            }
            self.lease_requests(allowances, rate).await?;
        }
    }

    /// Returns a request that was taken.
    pub(super) fn put_back_request(&self) {
        if let Some(rate) = self.rate {
            self.blocks.rate.lock().put_back(rate, 1);
        }
    }

    /// Takes a request from the block; `None` if another block must be leased.
    fn take_from_block(&self, rate: KeyRate, now: DateTime<Utc>) -> Option<Result<(), ApiError>> {
        let take = self.blocks.rate.lock().take(rate, now);
        match take {
            Take::Taken => Some(Ok(())),
            Take::Exhausted(until) => Some(Err(rate_exceeded(self.owner, rate, until, now))),
            Take::Empty => None,
        }
    }

    /// Leases another block, and returns the unused requests of the last one to the limit.
    async fn lease_requests(&self, allowances: &Allowances, rate: KeyRate) -> Result<(), ApiError> {
        let now = allowances.clock.now();
        let unused = self.blocks.rate.lock().remove_unused(rate, now);
        let request = RateRequest { tenant: self.tenant, owner: self.owner, rate, unused, now };
        match usage::lease_requests(&allowances.db, &request).await {
            Ok(lease) => {
                self.blocks.rate.lock().fill(rate, &lease, now);
                Ok(())
            }
            Err(error) => {
                // The database may have received the returned requests.
                if !error.may_be_done() {
                    self.blocks.rate.lock().put_back(rate, unused);
                }
                Err(error.into())
            }
        }
    }
}

/// The quota.
impl Limited {
    pub(super) async fn take_recipients(
        &self,
        allowances: &Allowances,
        quota: KeyQuota,
        needed: u64,
    ) -> Result<(), ApiError> {
        match self.take_from_quota_block(quota, needed, allowances.clock.now()) {
            Some(result) => result,
            None => self.lease_recipients(allowances, quota, needed).await,
        }
    }

    /// Takes recipients from the block; `None` if another block must be leased.
    fn take_from_quota_block(&self, quota: KeyQuota, needed: u64, now: DateTime<Utc>) -> Option<Result<(), ApiError>> {
        let mut block = self.blocks.quota.lock();
        if block.take(quota, needed, now.date_naive()) {
            return Some(Ok(()));
        }
        block.shortage(quota, needed, now).map(|left| Err(quota_exceeded(self.owner, quota, (left, needed), now)))
    }

    async fn lease_recipients(&self, allowances: &Allowances, quota: KeyQuota, needed: u64) -> Result<(), ApiError> {
        let _lease = self.blocks.quota_lease.lock().await;
        let now = allowances.clock.now();
        let today = now.date_naive();
        // Another request may have leased a block meanwhile.
        if let Some(result) = self.take_from_quota_block(quota, needed, now) {
            return result;
        }
        let unused = self.blocks.quota.lock().remove_unused(today);
        let request = QuotaRequest { tenant: self.tenant, owner: self.owner, quota, needed, unused, now };
        let lease = match usage::lease_recipients(&allowances.db, &request).await {
            Ok(lease) => lease,
            Err(error) => {
                // The database may have received the returned recipients.
                if !error.may_be_done() {
                    self.blocks.quota.lock().put_back(unused, today);
                }
                return Err(error.into());
            }
        };
        let mut block = self.blocks.quota.lock();
        // Reservations that ended meanwhile have put recipients back.
        let returned = block.remove_unused(lease.after.day);
        block.fill(quota, &lease, now);
        block.put_back(returned, lease.after.day);
        if block.take(quota, needed, today) {
            Ok(())
        } else {
            Err(quota_exceeded(self.owner, quota, (lease.left, needed), now))
        }
    }
}

fn rate_exceeded(owner: LimitOwner, rate: KeyRate, until: DateTime<Utc>, now: DateTime<Utc>) -> ApiError {
    let (noun, KeyRate { requests_per_second, burst }) = (owner.noun(), rate);
    ApiError::LimitExceeded {
        code: ProblemCode::RateLimitExceeded,
        detail: format!(
            "This {noun} may make {requests_per_second} requests per second, and {burst} at once after a pause."
        ),
        retry_after: (until - now).to_std().unwrap_or_default(),
    }
}

fn quota_exceeded(owner: LimitOwner, quota: KeyQuota, (left, needed): (u64, u64), now: DateTime<Utc>) -> ApiError {
    let (noun, limit) = (owner.noun(), quota.recipients_per_day);
    ApiError::LimitExceeded {
        code: ProblemCode::DailyQuotaExceeded,
        detail: format!(
            "This {noun} may send to {limit} recipients per day (UTC); {left} are left, and the request has {needed}."
        ),
        retry_after: (next_day(now) - now).to_std().unwrap_or_default(),
    }
}
