//! When cached values were last confirmed: a process polls for changes of what its caches have, removes the values that have
//! changed, and confirms all others at once. So a value is loaded once for as long as it is used and does not change.
//!
//! A value is used if it was loaded, or confirmed, less than [`MAX_UNCONFIRMED`] ago; otherwise it is loaded again. Without
//! confirmations, because polls fail, a change still takes effect within a second.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Timestamp;

/// Maximum time for which a cached value is used without a confirmation that it has not changed: the TTL of caches whose values
/// are confirmed.
pub const MAX_UNCONFIRMED: Duration = Duration::from_millis(900);
/// Maximum time for which a value is cached, even if it is confirmed; longer only as the fallback for loads that fail.
const MAX_AGE: Duration = Duration::from_hours(1);
/// Maximum time after a load for which confirmations count.
const MAX_CONFIRMED: Duration = MAX_AGE.saturating_sub(MAX_UNCONFIRMED);

/// The confirmations of all caches of a process.
#[derive(Debug)]
pub struct Confirmations {
    started: Instant,
    /// When what has not been removed was last confirmed, in microseconds since `started`; 0: never.
    confirmed_at: AtomicU64,
    /// Whether cached values were used since the last poll.
    is_in_use: AtomicBool,
}

/// A moment, and when the cached values were last confirmed.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    at: Instant,
    confirmed_at: Option<Instant>,
}

impl Timestamp for Moment {
    /// Returns the time since the value was loaded or confirmed. Later confirmations do not count once the value is too old.
    fn age(self, now: Self) -> Duration {
        let confirmed_at = now.confirmed_at.map_or(self.at, |at| at.clamp(self.at, self.at + MAX_CONFIRMED));
        now.at.saturating_duration_since(confirmed_at)
    }
}

impl Default for Confirmations {
    fn default() -> Self {
        Self { started: Instant::now(), confirmed_at: AtomicU64::new(0), is_in_use: AtomicBool::new(false) }
    }
}

impl Confirmations {
    /// Returns the current moment, and notes that cached values are used.
    pub fn now(&self) -> Moment {
        // Written only if necessary, so that requests on several cores do not take the cache line from each other.
        if !self.is_in_use.load(Ordering::Relaxed) {
            self.is_in_use.store(true, Ordering::Relaxed);
        }
        let confirmed_at = match self.confirmed_at.load(Ordering::Acquire) {
            0 => None,
            micros => self.started.checked_add(Duration::from_micros(micros)),
        };
        Moment { at: Instant::now(), confirmed_at }
    }

    /// Returns whether cached values were used since the last call.
    pub fn take_use(&self) -> bool {
        self.is_in_use.swap(false, Ordering::Relaxed)
    }

    /// Records that what is cached had not changed at this time, except for what has been removed from the caches since.
    pub fn confirm(&self, at: Instant) {
        let micros = at.saturating_duration_since(self.started).as_micros();
        self.confirmed_at.store(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_fresh_while_it_is_confirmed_and_not_too_old() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let loaded = Moment { at: at(100), confirmed_at: None };
        let age =
            |now: u64, confirmed: Option<u64>| loaded.age(Moment { at: at(now), confirmed_at: confirmed.map(at) });
        let is_fresh = |now, confirmed| age(now, confirmed) < MAX_UNCONFIRMED;
        assert!(is_fresh(999, None) && !is_fresh(1_000, None));
        assert!(!is_fresh(1_000, Some(50)), "confirmed before it was loaded");
        assert!(is_fresh(2_000, Some(1_500)) && !is_fresh(2_400, Some(1_500)));
        assert!(is_fresh(3_600_099, Some(3_600_000)) && !is_fresh(3_600_100, Some(3_600_000)), "too old");
        // So that it can still be the fallback for a load that fails (`TtlCache::with_fallback`).
        assert_eq!(age(3_600_200, Some(3_600_150)), Duration::from_secs(1), "ages as if it were no longer confirmed");
    }

    #[test]
    fn confirmation_and_use_are_seen_once() {
        let confirmations = Confirmations::default();
        assert!(!confirmations.take_use());
        let loaded = confirmations.now();
        assert!(confirmations.take_use() && !confirmations.take_use());
        let polled_at = loaded.at + Duration::from_millis(700);
        confirmations.confirm(polled_at);
        let now = Moment { at: polled_at + Duration::from_millis(500), ..confirmations.now() };
        // Confirmations are recorded in whole microseconds.
        assert!(loaded.age(now).abs_diff(Duration::from_millis(500)) <= Duration::from_micros(1));
    }
}
