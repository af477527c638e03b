//! A rate limit by the generic cell rate algorithm (virtual scheduling, ITU-T I.371). Pure: the caller stores the
//! state. The state of lanes and streams is in their rows, so that a rate applies to all replicas together; the state
//! of webhook endpoints and of SMTP clients is in memory.

use chrono::{DateTime, TimeDelta, Utc};

/// The default burst, in seconds: after a pause, the messages of this period may start at once, at least one.
const DEFAULT_BURST: f64 = 0.1;
/// The unused time, in seconds, that must accumulate before an exhausted limit is checked again.
const CHECK_INTERVAL: f64 = 0.05;

/// A rate limit and how much of it was used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gcra {
    /// Messages per second.
    rate: f64,
    /// The time up to which the rate is used up or has lapsed.
    used_until: DateTime<Utc>,
    /// The burst, in seconds.
    burst: f64,
}

impl Gcra {
    /// Creates a limit of `rate` messages per second that is used up, or has lapsed, up to `used_until`.
    pub fn new(rate: f64, used_until: DateTime<Utc>) -> Self {
        Self { rate, used_until, burst: DEFAULT_BURST }
    }

    /// Allows the messages of a period of `burst` to start at once after a pause.
    #[must_use]
    pub fn with_burst(self, burst: TimeDelta) -> Self {
        Self { burst: seconds(burst), ..self }
    }

    /// Changes the rate, and keeps the use so far.
    #[must_use]
    pub fn with_rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// Returns the time up to which the rate is used up or has lapsed.
    pub fn used_until(&self) -> DateTime<Utc> {
        self.used_until
    }

    /// Returns whether the full burst is available, as after a long pause.
    pub fn is_unused(&self, now: DateTime<Utc>) -> bool {
        self.used_until <= now - self.burst()
    }

    /// Restores a limit that was exhausted when [`Gcra::opens_at`] returned `opens_at`. `None` gives an unused limit.
    pub fn restore(rate: f64, opens_at: Option<DateTime<Utc>>) -> Self {
        let used_until = opens_at.map_or(DateTime::UNIX_EPOCH, |at| at - delta(CHECK_INTERVAL.max(1.0 / rate)));
        Self::new(rate, used_until)
    }

    /// Returns how many messages may start now.
    pub fn available(&self, now: DateTime<Utc>) -> usize {
        let count = seconds(now - self.start(now)) * self.rate;
        // Columns have microseconds; rounding must not cost a message.
        let rounding = (self.rate * 1e-6).min(0.5);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by the burst")]
        let whole = (count + rounding).floor().max(0.0) as usize;
        whole
    }

    /// Returns the limit after `count` messages have started.
    #[must_use]
    pub fn take(self, count: usize, now: DateTime<Utc>) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let count = count as f64;
        Self { used_until: self.start(now) + delta(count / self.rate), ..self }
    }

    /// Returns the limit as if `count` of the messages that have started had not.
    #[must_use]
    pub fn give_back(self, count: usize) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let count = count as f64;
        Self { used_until: self.used_until - delta(count / self.rate), ..self }
    }

    /// Returns the time at which to check again if nothing is available now.
    pub fn opens_at(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.start(now) + delta(CHECK_INTERVAL.max(1.0 / self.rate))
    }

    fn start(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.used_until.max(now - self.burst())
    }

    fn burst(&self) -> TimeDelta {
        delta(self.burst.max(1.0 / self.rate))
    }
}

fn seconds(delta: TimeDelta) -> f64 {
    delta.as_seconds_f64()
}

/// Rounds to microseconds, as the database does.
fn delta(seconds: f64) -> TimeDelta {
    #[allow(clippy::cast_possible_truncation, reason = "saturates; no rate is that low")]
    TimeDelta::microseconds((seconds * 1e6).round() as i64)
}

#[cfg(test)]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "small numbers"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unused(rate: f64) -> Gcra {
        Gcra::new(rate, DateTime::UNIX_EPOCH)
    }

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(1) + TimeDelta::milliseconds(millis)
    }

    #[test]
    fn default_burst_is_a_tenth_of_a_second_or_one_message() {
        for (rate, burst) in [(1.0 / 60.0, 1), (1.0, 1), (10.0, 1), (50.0, 5), (1_000.0, 100)] {
            assert_eq!(unused(rate).available(at(0)), burst, "{rate} per second");
        }
    }

    #[test]
    fn burst_may_be_a_minute() {
        let unused = unused(0.1).with_burst(TimeDelta::minutes(1));
        let used = (0..6).fold(unused, |limit, _| limit.take(1, at(0)));
        assert_eq!([0, 9_999, 10_000, 60_000].map(|millis| used.available(at(millis))), [0, 0, 1, 6]);
        assert_eq!([0, 59_999, 60_000].map(|millis| used.is_unused(at(millis))), [false, false, true]);
    }

    #[test]
    fn limit_recovers_with_time() {
        let limit = unused(3.0).take(1, at(0));
        assert_eq!([0, 333, 334, 10_000].map(|millis| limit.available(at(millis))), [0, 0, 1, 1]);
        assert_eq!(limit.opens_at(at(0)), at(0) + TimeDelta::microseconds(333_333));
        assert_eq!(limit.available(limit.opens_at(at(0))), 1);
    }

    #[test]
    fn message_that_is_given_back_may_start_again() {
        let limit = unused(3.0).with_burst(TimeDelta::seconds(1));
        let used = limit.take(1, at(0)).take(2, at(0));
        assert_eq!([used, used.give_back(2)].map(|limit| limit.available(at(0))), [0, 2]);
        assert!(limit.take(1, at(0)).give_back(1).is_unused(at(0)));
    }

    #[test]
    fn restored_limit_equals_the_original() {
        for rate in [0.5, 3.0, 1_000.0] {
            let limit = Gcra::restore(rate, None);
            assert!(limit.available(at(0)) >= 1);
            let used = limit.take(limit.available(at(0)), at(0));
            let opens_at = used.opens_at(at(0));
            let restored = Gcra::restore(rate, Some(opens_at));
            let available = (restored.available(at(0)), restored.available(opens_at));
            assert_eq!(available, (0, used.available(opens_at)), "{rate}");
        }
    }

    #[test]
    fn rate_below_one_per_second_is_exact() {
        let limit = unused(1.0 / 60.0).take(1, at(0));
        assert_eq!([59_999, 60_000].map(|millis| limit.available(at(millis))), [0, 1]);
    }

    proptest! {
        /// The rate holds however often the limit is checked.
        #[test]
        fn rate_is_never_exceeded(
            rate in 0.02_f64..10_000.0,
            checks in prop::collection::vec((0_i64..2_000, 0.0_f64..=1.0), 1..200),
        ) {
            let (mut limit, mut now, mut started) = (unused(rate), at(0), 0);
            let start = now;
            for (wait, fraction) in checks {
                now += TimeDelta::milliseconds(wait);
                let taken = (limit.available(now) as f64 * fraction).ceil() as usize;
                limit = limit.take(taken, now);
                started += taken;
                let maximum = rate * (seconds(now - start) + DEFAULT_BURST.max(1.0 / rate)) * 1.001 + 1.0;
                prop_assert!(started as f64 <= maximum, "{started} > {maximum}");
            }
        }

        /// The full rate is reached if the limit is checked whenever it opens.
        #[test]
        fn full_rate_is_reached(rate in 0.02_f64..10_000.0) {
            let (mut limit, mut now, mut started) = (unused(rate), at(0), 0);
            let start = now;
            for _ in 0..200 {
                let taken = limit.available(now);
                limit = limit.take(taken, now);
                started += taken;
                now = limit.opens_at(now);
            }
            prop_assert!(started as f64 >= rate * seconds(now - start) * 0.99 - 1.0);
        }
    }
}
