//! A rate limit by the generic cell rate algorithm (virtual scheduling, ITU-T I.371). Pure: the caller stores the state.
//! The limits of lanes and streams are in their rows, so that a rate holds over all replicas together; those of webhook
//! endpoints and of SMTP clients are in memory.

use chrono::{DateTime, TimeDelta, Utc};

/// How many seconds of the rate may start at once after a pause, by default; at least one message may.
const BURST: f64 = 0.1;
/// How many seconds of the rate accumulate before a limit that was reached is checked again.
const GATHER: f64 = 0.05;

/// A rate limit and how much of it was used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gcra {
    /// Messages per second.
    rate: f64,
    /// The time up to which the rate has been used or has lapsed.
    used_until: DateTime<Utc>,
    /// Seconds of the rate that may start at once.
    burst: f64,
}

impl Gcra {
    /// Creates a limit of `rate` messages per second that has been used, or has lapsed, up to a time.
    pub fn new(rate: f64, used_until: DateTime<Utc>) -> Self {
        Self { rate, used_until, burst: BURST }
    }

    /// Allows the messages of `burst` to start at once after a pause.
    #[must_use]
    pub fn with_burst(self, burst: TimeDelta) -> Self {
        Self { burst: seconds(burst), ..self }
    }

    /// Changes the rate. What has been used stays used.
    #[must_use]
    pub fn with_rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// Returns the time up to which the rate has been used or has lapsed.
    pub fn used_until(&self) -> DateTime<Utc> {
        self.used_until
    }

    /// Returns whether as many messages may start as after a long pause.
    pub fn is_unused(&self, now: DateTime<Utc>) -> bool {
        self.used_until <= now - self.burst()
    }

    /// Restores a limit that was reached when [`Gcra::opens_at`] returned `opens_at`.
    pub fn since(rate: f64, opens_at: Option<DateTime<Utc>>) -> Self {
        let used_until = opens_at.map_or(DateTime::UNIX_EPOCH, |at| at - delta(GATHER.max(1.0 / rate)));
        Self::new(rate, used_until)
    }

    /// Returns how many messages may start now.
    pub fn available(&self, now: DateTime<Utc>) -> usize {
        let count = seconds(now - self.start(now)) * self.rate;
        // A row stores microseconds: rounding must not cost a message.
        let rounding = (self.rate * 1e-6).min(0.5);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by the burst")]
        let whole = (count + rounding).floor().max(0.0) as usize;
        whole
    }

    /// Returns the limit after `taken` messages have started.
    #[must_use]
    pub fn take(self, taken: usize, now: DateTime<Utc>) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let taken = taken as f64;
        Self { used_until: self.start(now) + delta(taken / self.rate), ..self }
    }

    /// Returns when to check again, if nothing is available now.
    pub fn opens_at(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.start(now) + delta(GATHER.max(1.0 / self.rate))
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
    #[allow(clippy::cast_possible_truncation, reason = "saturates, and a rate is never that low")]
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
    fn a_tenth_of_a_second_or_one_message_may_start_after_a_pause() {
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
    fn restored_limit_continues_where_it_was() {
        for rate in [0.5, 3.0, 1_000.0] {
            let limit = Gcra::since(rate, None);
            assert!(limit.available(at(0)) >= 1);
            let taken = limit.take(limit.available(at(0)), at(0));
            let opens_at = taken.opens_at(at(0));
            let again = Gcra::since(rate, Some(opens_at));
            assert_eq!((again.available(at(0)), again.available(opens_at)), (0, taken.available(opens_at)), "{rate}");
        }
    }

    #[test]
    fn one_per_minute_is_one_per_minute() {
        let limit = unused(1.0 / 60.0).take(1, at(0));
        assert_eq!([59_999, 60_000].map(|millis| limit.available(at(millis))), [0, 1]);
    }

    proptest! {
        /// However often the limit is checked, and however many messages start.
        #[test]
        fn no_more_start_than_the_rate_allows(
            rate in 0.02_f64..10_000.0,
            looks in prop::collection::vec((0_i64..2_000, 0.0_f64..=1.0), 1..200),
        ) {
            let (mut limit, mut now, mut started) = (unused(rate), at(0), 0);
            let begin = now;
            for (wait, part) in looks {
                now += TimeDelta::milliseconds(wait);
                let taken = (limit.available(now) as f64 * part).ceil() as usize;
                limit = limit.take(taken, now);
                started += taken;
                let most = rate * (seconds(now - begin) + BURST.max(1.0 / rate)) * 1.001 + 1.0;
                prop_assert!(started as f64 <= most, "{started} > {most}");
            }
        }

        /// Nor fewer, if the limit is checked again when it opens.
        #[test]
        fn all_that_the_rate_allows_start(rate in 0.02_f64..10_000.0) {
            let (mut limit, mut now, mut started) = (unused(rate), at(0), 0);
            let begin = now;
            for _ in 0..200 {
                let taken = limit.available(now);
                limit = limit.take(taken, now);
                started += taken;
                now = limit.opens_at(now);
            }
            prop_assert!(started as f64 >= rate * seconds(now - begin) * 0.99 - 1.0);
        }
    }
}
