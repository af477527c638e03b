//! How fast mail may start: a rate kept by virtual scheduling (the leaky bucket of ITU-T I.371, as a clock). Pure: the
//! caller keeps the clock's hand in a row, so that the rate holds over all replicas together.

use chrono::{DateTime, TimeDelta, Utc};

/// What may start at once after a pause: so many seconds' worth, and one at least.
const BURST: f64 = 0.1;
/// When turns run out, those of so many seconds are let come together before anybody looks again.
const GATHER: f64 = 0.05;

/// A rate and how much of it was used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gcra {
    /// Mails a second.
    pub rate: f64,
    /// All turns up to this moment were taken or have lapsed.
    pub used_until: DateTime<Utc>,
}

impl Gcra {
    /// Turns of which all had been taken when it was said that there would be some again at `opens_at`
    /// ([`Gcra::opens_at`]).
    pub fn since(rate: f64, opens_at: Option<DateTime<Utc>>) -> Self {
        let used_until = opens_at.map_or(DateTime::UNIX_EPOCH, |at| at - delta(GATHER.max(1.0 / rate)));
        Self { rate, used_until }
    }

    /// How many may start now.
    pub fn available(&self, now: DateTime<Utc>) -> usize {
        let turns = seconds(now - self.start(now)) * self.rate;
        // A row keeps microseconds: what was rounded off must not cost a turn.
        let rounding = (self.rate * 1e-6).min(0.5);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by the burst")]
        let whole = (turns + rounding).floor().max(0.0) as usize;
        whole
    }

    /// The same after `taken` have started.
    #[must_use]
    pub fn take(self, taken: usize, now: DateTime<Utc>) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let taken = taken as f64;
        Self { used_until: self.start(now) + delta(taken / self.rate), ..self }
    }

    /// When it is worth looking again, if nothing is available now.
    pub fn opens_at(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.start(now) + delta(GATHER.max(1.0 / self.rate))
    }

    fn start(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.used_until.max(now - delta(BURST.max(1.0 / self.rate)))
    }
}

fn seconds(delta: TimeDelta) -> f64 {
    delta.as_seconds_f64()
}

/// The times of day that we know have microseconds.
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
        Gcra { rate, used_until: DateTime::UNIX_EPOCH }
    }

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(1) + TimeDelta::milliseconds(millis)
    }

    #[test]
    fn after_a_pause_a_tenth_of_a_second_may_start_at_once_and_one_at_least() {
        for (rate, burst) in [(1.0 / 60.0, 1), (1.0, 1), (10.0, 1), (50.0, 5), (1_000.0, 100)] {
            assert_eq!(unused(rate).available(at(0)), burst, "{rate} a second");
        }
    }

    #[test]
    fn turns_come_back_with_time() {
        let turns = unused(3.0).take(1, at(0));
        assert_eq!([0, 333, 334, 10_000].map(|millis| turns.available(at(millis))), [0, 0, 1, 1]);
        assert_eq!(turns.opens_at(at(0)), at(0) + TimeDelta::microseconds(333_333));
        assert_eq!(turns.available(turns.opens_at(at(0))), 1);
    }

    #[test]
    fn turns_that_were_put_aside_go_on_where_they_were() {
        for rate in [0.5, 3.0, 1_000.0] {
            let turns = Gcra::since(rate, None);
            assert!(turns.available(at(0)) >= 1);
            let taken = turns.take(turns.available(at(0)), at(0));
            let opens_at = taken.opens_at(at(0));
            let again = Gcra::since(rate, Some(opens_at));
            assert_eq!((again.available(at(0)), again.available(opens_at)), (0, taken.available(opens_at)), "{rate}");
        }
    }

    #[test]
    fn one_a_minute_is_one_a_minute() {
        let turns = unused(1.0 / 60.0).take(1, at(0));
        assert_eq!([59_999, 60_000].map(|millis| turns.available(at(millis))), [0, 1]);
    }

    proptest! {
        /// However often somebody looks, and whatever they take of what there is.
        #[test]
        fn no_more_start_than_the_rate_allows(
            rate in 0.02_f64..10_000.0,
            looks in prop::collection::vec((0_i64..2_000, 0.0_f64..=1.0), 1..200),
        ) {
            let (mut turns, mut now, mut started) = (unused(rate), at(0), 0);
            let begin = now;
            for (wait, part) in looks {
                now += TimeDelta::milliseconds(wait);
                let taken = (turns.available(now) as f64 * part).ceil() as usize;
                turns = turns.take(taken, now);
                started += taken;
                let most = rate * (seconds(now - begin) + BURST.max(1.0 / rate)) * 1.001 + 1.0;
                prop_assert!(started as f64 <= most, "{started} > {most}");
            }
        }

        /// Nor fewer, where everybody looks again when told.
        #[test]
        fn all_that_the_rate_allows_start(rate in 0.02_f64..10_000.0) {
            let (mut turns, mut now, mut started) = (unused(rate), at(0), 0);
            let begin = now;
            for _ in 0..200 {
                let taken = turns.available(now);
                turns = turns.take(taken, now);
                started += taken;
                now = turns.opens_at(now);
            }
            prop_assert!(started as f64 >= rate * seconds(now - begin) * 0.99 - 1.0);
        }
    }
}
