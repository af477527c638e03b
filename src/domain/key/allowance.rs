//! Leased parts of an API key's limits. All replicas share a limit, whose state is in the database. A process leases a
//! block of requests or recipients from it, and uses the block in memory, so that only few requests wait for the database.
//!
//! - The contents of a block are subtracted from the shared limit when the block is leased, so replicas cannot use them
//!   twice.
//! - A rate's block is used for at most `MAX_HOLD`. When the process leases again, it returns the unused requests of
//!   the last block, unless the limit has recovered since that lease, so that they no longer count as used. Therefore,
//!   in any `t` seconds, all replicas together admit at most `burst + requests_per_second × t` requests, plus the
//!   requests in their blocks at the beginning of the period. A block has at most a quarter of `burst`, or one request.
//! - A client that sends all requests to one process, and no more than `requests_per_second` and `burst` allow, is
//!   never refused.
//! - A quota is never exceeded. If a process is killed, the unused recipients of its block are lost: at most 1/64 of
//!   the recipients that were left at the lease.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};

use super::limits::{KeyQuota, KeyRate};

/// How long requests may be admitted from a block of a rate.
const MAX_HOLD: TimeDelta = TimeDelta::milliseconds(500);
/// A block gets one of this many equal parts of the requests that are left; the others remain for other replicas.
const RATE_BLOCK_DIVISOR: u64 = 4;
/// A block gets at least as many requests as accumulate in 1/40 s, if that many are left. Otherwise, processes would
/// lease a nearly exhausted limit one request at a time.
const BLOCKS_PER_SECOND: u64 = 40;
/// A block gets one of this many equal parts of the recipients that are left of the day's quota. If the request needs
/// more, the block gets as many as it needs.
const QUOTA_BLOCK_DIVISOR: u64 = 64;
/// How long it is remembered that too few recipients were left for a request.
const MAX_SHORTAGE_AGE: TimeDelta = TimeDelta::seconds(1);

/// What a limit's response headers show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitState {
    /// How many requests or recipients are left, as far as this process knows.
    pub remaining: u64,
    /// Time until everything is available again, in whole seconds.
    pub reset_seconds: u64,
}

/// The result of taking a request from a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// The request was taken from the block.
    Taken,
    /// The shared limit is exhausted until this time.
    Exhausted(DateTime<Utc>),
    /// The block is empty or too old; lease another one.
    Empty,
}

/// A block of requests.
#[derive(Debug, Clone, Copy, Default)]
pub struct RateBlock {
    rate: Option<KeyRate>,
    requests: u64,
    leased_at: DateTime<Utc>,
    /// The state of the shared limit after the lease.
    used_until: DateTime<Utc>,
    /// Requests that were left for other blocks.
    left: u64,
    /// The shared limit is exhausted until this time.
    opens_at: Option<DateTime<Utc>>,
}

/// The result of leasing requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLease {
    /// The new state of the shared limit.
    pub used_until: DateTime<Utc>,
    /// Requests in the block.
    pub requests: u64,
    /// Requests that are left for other blocks.
    pub left: u64,
    /// If no requests were left: when to lease again.
    pub opens_at: Option<DateTime<Utc>>,
}

impl RateLease {
    /// Leases a block from a shared limit, whose state is `used_until` (see [`KeyRate::gcra`]), and returns `unused`
    /// requests of an earlier block to the limit.
    pub fn new(rate: KeyRate, used_until: DateTime<Utc>, unused: u64, now: DateTime<Utc>) -> Self {
        // If the clock was set back, the limit must not stay exhausted for longer than a full burst takes to
        // accumulate.
        let latest = now + window(rate);
        let gcra = rate.gcra(used_until.min(latest) - duration(rate, unused));
        let available = gcra.available(now) as u64;
        let least = u64::from(rate.requests_per_second) / BLOCKS_PER_SECOND;
        let requests = (available / RATE_BLOCK_DIVISOR).max(least).max(1).min(available);
        let taken = gcra.take(usize::try_from(requests).unwrap_or(usize::MAX), now);
        let opens_at = (requests == 0).then(|| gcra.opens_at(now));
        Self { used_until: taken.used_until(), requests, left: available - requests, opens_at }
    }
}

impl RateBlock {
    /// Takes one request.
    pub fn take(&mut self, rate: KeyRate, now: DateTime<Utc>) -> Take {
        if self.rate != Some(rate) {
            *self = Self { rate: Some(rate), ..Self::default() };
        }
        if let Some(at) = self.exhausted_until(rate, now) {
            return Take::Exhausted(at);
        }
        if self.requests == 0 || (now - self.leased_at).abs() > MAX_HOLD {
            return Take::Empty;
        }
        self.requests -= 1;
        Take::Taken
    }

    /// Starts a new block.
    pub fn fill(&mut self, rate: KeyRate, lease: &RateLease, now: DateTime<Utc>) {
        let RateLease { used_until, requests, left, opens_at } = *lease;
        *self = Self { rate: Some(rate), requests, leased_at: now, used_until, left, opens_at };
    }

    /// Returns whether the block has requests that can be returned. Once the limit has recovered from the lease, the
    /// requests no longer count as used, so there are none to return.
    pub fn has_unused(&self, now: DateTime<Utc>) -> bool {
        self.requests > 0 && self.rate.is_some_and(|rate| !rate.gcra(self.used_until).is_unused(now))
    }

    /// Removes the unused requests. Returns how many of them the next lease must return to the limit.
    pub fn remove_unused(&mut self, rate: KeyRate, now: DateTime<Utc>) -> u64 {
        let can_return = self.rate == Some(rate) && self.has_unused(now);
        let unused = std::mem::take(&mut self.requests);
        if can_return { unused } else { 0 }
    }

    /// Puts back requests that could not be returned to the limit.
    pub fn put_back(&mut self, rate: KeyRate, unused: u64) {
        if self.rate == Some(rate) {
            self.requests += unused;
        }
    }

    /// Returns until when the shared limit is exhausted. Ignores a time so far ahead that the clock must have been set
    /// back.
    fn exhausted_until(&self, rate: KeyRate, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let latest = now + window(rate) + TimeDelta::seconds(1);
        self.opens_at.filter(|at| now < *at && *at <= latest)
    }

    /// Returns the state for response headers.
    pub fn state(&self, rate: KeyRate, now: DateTime<Utc>) -> LimitState {
        let (burst, per_second) = (u64::from(rate.burst), u64::from(rate.requests_per_second));
        let elapsed = u64::try_from((now - self.leased_at).num_milliseconds()).unwrap_or(0);
        let is_exhausted = self.exhausted_until(rate, now).is_some();
        let refilled = if is_exhausted { 0 } else { elapsed.saturating_mul(per_second) / 1_000 };
        let remaining = (self.requests + self.left).saturating_add(refilled).min(burst);
        LimitState { remaining, reset_seconds: (burst - remaining).div_ceil(per_second) }
    }
}

fn window(rate: KeyRate) -> TimeDelta {
    TimeDelta::seconds(i64::from(rate.window_seconds()))
}

/// Returns the time in which this many requests accumulate, rounded to microseconds.
fn duration(rate: KeyRate, requests: u64) -> TimeDelta {
    let per_second = u64::from(rate.requests_per_second);
    let micros = (requests.saturating_mul(1_000_000) + per_second / 2) / per_second;
    TimeDelta::microseconds(i64::try_from(micros).unwrap_or(0))
}

/// A block of recipients.
#[derive(Debug, Clone, Copy, Default)]
pub struct QuotaBlock {
    quota: Option<KeyQuota>,
    day: NaiveDate,
    recipients: u64,
    /// Recipients that were left for other blocks.
    left: u64,
    /// When the last lease was refused because too few recipients were left; `None` if it was not refused.
    refused_at: Option<DateTime<Utc>>,
}

/// A day's use of a quota, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaUse {
    /// The day (UTC).
    pub day: NaiveDate,
    /// Recipients leased on the day.
    pub recipients: u64,
    /// The percentage that an event has reported: 0, 80 or 100.
    pub reported: u8,
}

/// The result of leasing recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaLease {
    /// The new state of the shared quota.
    pub after: QuotaUse,
    /// Recipients in the block; 0 if too few are left.
    pub recipients: u64,
    /// Recipients that are left for other blocks.
    pub left: u64,
    /// Whether an event must report [`QuotaUse::reported`] of `after`.
    pub must_report: bool,
}

impl QuotaLease {
    /// Leases a block of at least `needed` recipients for `today`, and returns `unused` recipients of an earlier block of
    /// `today` to the quota.
    pub fn new(quota: KeyQuota, before: QuotaUse, needed: u64, unused: u64, today: NaiveDate) -> Self {
        let limit = u64::from(quota.recipients_per_day);
        let is_new = !is_current(before.day, today);
        let (used, reported) = if is_new { (0, 0) } else { (before.recipients, before.reported) };
        let used = used.saturating_sub(unused);
        let available = limit.saturating_sub(used);
        let recipients = if needed > available { 0 } else { needed.max(available / QUOTA_BLOCK_DIVISOR) };
        let used_after = used + recipients;
        let reached = if used_after >= limit {
            100
        } else if needed > available {
            // Smaller requests are still admitted, and must report the percentage that they reach.
            0
        } else if u128::from(used_after) * 5 >= u128::from(limit) * 4 {
            80
        } else {
            0
        };
        let day = if is_new { today } else { before.day };
        let after = QuotaUse { day, recipients: used_after, reported: reported.max(reached) };
        Self { after, recipients, left: available - recipients, must_report: reached > reported }
    }
}

impl QuotaBlock {
    /// Takes `needed` recipients for `today`. Returns whether the block had as many.
    pub fn take(&mut self, quota: KeyQuota, needed: u64, today: NaiveDate) -> bool {
        if !self.is_for(quota, today) || self.recipients < needed {
            return false;
        }
        self.recipients -= needed;
        true
    }

    /// Removes the unused recipients. Returns their number if the block is of `day`, and otherwise 0.
    pub fn remove_unused(&mut self, day: NaiveDate) -> u64 {
        let unused = std::mem::take(&mut self.recipients);
        if self.day == day { unused } else { 0 }
    }

    /// Returns the day of the block; `None` if the block has no recipients.
    pub fn day(&self) -> Option<NaiveDate> {
        (self.recipients > 0).then_some(self.day)
    }

    /// Starts a new block.
    pub fn fill(&mut self, quota: KeyQuota, lease: &QuotaLease, now: DateTime<Utc>) {
        let QuotaLease { after, recipients, left, .. } = *lease;
        let refused_at = (recipients == 0).then_some(now);
        *self = Self { quota: Some(quota), day: after.day, recipients, left, refused_at };
    }

    /// Returns how many recipients are left, if they are too few and a lease was refused a moment ago; otherwise
    /// `None`.
    pub fn shortage(&self, quota: KeyQuota, needed: u64, now: DateTime<Utc>) -> Option<u64> {
        let is_recent = (now - self.refused_at?).abs() <= MAX_SHORTAGE_AGE;
        let left = self.recipients + self.left;
        (is_recent && self.is_for(quota, now.date_naive()) && left < needed).then_some(left)
    }

    /// Returns whether the process knows how much of the quota is left on this day.
    pub fn is_known(&self, today: NaiveDate) -> bool {
        self.quota.is_some() && is_current(self.day, today)
    }

    fn is_for(&self, quota: KeyQuota, today: NaiveDate) -> bool {
        self.quota == Some(quota) && is_current(self.day, today)
    }

    /// Puts back recipients of `day` that were taken and not used.
    pub fn put_back(&mut self, recipients: u64, day: NaiveDate) {
        if self.day == day {
            self.recipients += recipients;
        }
    }

    /// Adds recipients of a day that were returned to the quota to those that are left.
    pub fn add_left(&mut self, recipients: u64, day: NaiveDate) {
        if self.day == day {
            self.left += recipients;
        }
    }

    /// Returns the state for response headers; `None` if the process has leased nothing on that day.
    pub fn state(&self, quota: KeyQuota, now: DateTime<Utc>) -> Option<LimitState> {
        self.is_for(quota, now.date_naive()).then(|| LimitState {
            remaining: self.recipients + self.left,
            reset_seconds: seconds_until(next_day(now), now),
        })
    }
}

/// Returns whether a stored day counts as the current one: today, or tomorrow, because the clock of another replica may
/// already be past midnight. A day further in the future is from a wrong clock.
fn is_current(day: NaiveDate, today: NaiveDate) -> bool {
    (0..=1).contains(&(day - today).num_days())
}

/// Returns the beginning of the next day (UTC), when quotas are reset.
pub fn next_day(now: DateTime<Utc>) -> DateTime<Utc> {
    let next = now.date_naive().checked_add_days(Days::new(1)).unwrap_or(NaiveDate::MAX);
    next.and_time(NaiveTime::MIN).and_utc()
}

/// Returns the time until `at` in whole seconds, rounded up.
pub fn seconds_until(at: DateTime<Utc>, now: DateTime<Utc>) -> u64 {
    u64::try_from((at - now).num_milliseconds()).unwrap_or(0).div_ceil(1_000)
}

#[cfg(test)]
mod tests;
