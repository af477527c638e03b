//! When a webhook delivery is retried, and when it is not (the schedule of Standard Webhooks 1.0). Pure: the caller
//! passes the clock and the jitter.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// The wait after the first, second, … attempt.
const WAITS: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];
/// Attempts of a delivery that fails while others succeed.
const TRIES: u32 = 10;
/// The time without a success after which an endpoint is disabled.
const GIVE_UP: TimeDelta = TimeDelta::days(5);
/// The fraction by which a wait is lengthened or shortened, so that retries do not coincide.
const JITTER: f64 = 0.2;
/// The maximum wait that a receiver can ask for.
const LONGEST_ASKED: TimeDelta = TimeDelta::hours(24);

/// The recent health of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Deliveries whose first attempt failed since the last success; while the endpoint is down, failed probes. Further
    /// attempts do not count: they show that the endpoint rejects that delivery, and nothing about others.
    pub failures: u32,
    /// When the first of them failed.
    pub failing_since: Option<DateTime<Utc>>,
    /// The last error.
    pub last_error: Option<String>,
    /// When a post last succeeded.
    pub last_success_at: Option<DateTime<Utc>>,
    /// Nothing is posted before this time.
    pub open_at: Option<DateTime<Utc>>,
}

/// A failed delivery attempt.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Attempts so far, including this one.
    pub tries: u32,
    /// Whether it was a probe of an endpoint that is down.
    pub is_probe: bool,
    /// How long the receiver asked us to wait.
    pub asked: Option<TimeDelta>,
    /// The error, for readers.
    pub error: String,
}

impl Health {
    /// The number of consecutive failures after which the endpoint counts as down.
    pub const DOWN_AFTER: u32 = 5;

    /// Returns whether the endpoint is down; then one delivery at a time probes it.
    pub fn is_down(&self) -> bool {
        self.failures >= Self::DOWN_AFTER
    }

    /// Returns whether nothing may be posted now.
    pub fn is_closed(&self, now: DateTime<Utc>) -> bool {
        self.open_at.is_some_and(|at| at > now)
    }

    /// Returns whether it has failed for so long that it must be disabled.
    pub fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.is_down() && self.failing_since.is_some_and(|since| now - since >= GIVE_UP)
    }

    /// Records a success. An endpoint that was down opens at once; a wait that the receiver asked for still applies.
    pub fn succeeded(&mut self, now: DateTime<Utc>) {
        let open_at = if self.is_down() { Some(now) } else { self.open_at };
        *self = Self { last_success_at: Some(now), open_at, ..Self::default() };
    }

    /// Records a failure. Returns when to retry the delivery; `None` if only this delivery has failed too often.
    pub fn failed(&mut self, failure: Failure, now: DateTime<Utc>, jitter: f64) -> Option<DateTime<Utc>> {
        // Otherwise each delivery in flight when the endpoint went down would lengthen the wait.
        if failure.is_probe || (!self.is_down() && failure.tries == 1) {
            self.failures = self.failures.saturating_add(1);
        }
        self.failing_since.get_or_insert(now);
        self.last_error = Some(failure.error);
        let asked = failure.asked.map(|asked| asked.clamp(TimeDelta::zero(), LONGEST_ASKED));
        let after = |tries| wait(tries, jitter).max(asked.unwrap_or_default());
        if self.is_down() {
            // Counts the endpoint's failures, not those of one delivery, which may be the cause itself.
            let probes = self.failures.saturating_sub(Self::DOWN_AFTER - 1);
            self.open_at = self.open_at.max(Some(now + after(probes)));
        } else {
            self.open_at = self.open_at.max(asked.map(|asked| now + asked));
        }
        (failure.tries < TRIES || self.is_down()).then(|| now + after(failure.tries))
    }
}

/// Returns the wait after `tries` attempts; `jitter` in 0..1 selects within ±20 %. The last one repeats.
fn wait(tries: u32, jitter: f64) -> TimeDelta {
    let index = usize::try_from(tries.saturating_sub(1)).unwrap_or(usize::MAX).min(WAITS.len() - 1);
    let wait = WAITS[index].mul_f64(1.0 - JITTER + 2.0 * JITTER * jitter.clamp(0.0, 1.0));
    TimeDelta::from_std(wait).unwrap_or(LONGEST_ASKED)
}

/// Parses `Retry-After` (RFC 9110 §10.2.3): seconds, or a date.
pub fn retry_after(text: &str, now: DateTime<Utc>) -> Option<TimeDelta> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let seconds = text.parse().ok().and_then(TimeDelta::try_seconds);
        return Some(seconds.unwrap_or(LONGEST_ASKED));
    }
    let date = DateTime::parse_from_rfc2822(text).ok()?;
    Some((date.to_utc() - now).max(TimeDelta::zero()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn failure(tries: u32) -> Failure {
        Failure { tries, is_probe: false, asked: None, error: "answered 500".into() }
    }

    #[test]
    fn retries_follow_the_schedule() {
        let mut health = Health::default();
        let waits = (1..=TRIES).map(|tries| {
            // Others succeed meanwhile.
            health.succeeded(NOW);
            health.failed(failure(tries), NOW, 0.5).map(|at| (at - NOW).num_seconds())
        });
        let hours = |n: i64| Some(n * 3_600);
        let expected =
            [Some(5), Some(300), Some(1_800), hours(2), hours(5), hours(10), hours(14), hours(20), hours(24)];
        assert_eq!(waits.collect::<Vec<_>>(), [&expected[..], &[None]].concat());
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        assert_eq!([0.0, 0.5, 1.0].map(|jitter| wait(2, jitter).num_seconds()), [240, 300, 360]);
    }

    #[test]
    fn failing_endpoint_is_down_and_probed_by_the_schedule() {
        let mut health = Health::default();
        for _ in 1..Health::DOWN_AFTER {
            health.failed(failure(1), NOW, 0.5);
            assert!(!health.is_down() && !health.is_closed(NOW));
        }
        for _ in 0..10 {
            // The rest of what was in flight.
            health.failed(failure(1), NOW, 0.5);
        }
        let opens = |health: &Health| (health.open_at.unwrap() - NOW).num_seconds();
        assert!(health.is_down() && health.is_closed(NOW));
        assert_eq!((health.failures, opens(&health)), (Health::DOWN_AFTER, 5));
        let probe = || Failure { is_probe: true, ..failure(2) };
        let waits = [(); 3].map(|()| {
            health.failed(probe(), NOW, 0.5);
            opens(&health)
        });
        assert_eq!(waits, [300, 1_800, 7_200]);
        health.succeeded(NOW);
        assert_eq!((health.failures, health.failing_since, health.is_down()), (0, None, false));
    }

    #[test]
    fn single_failing_delivery_does_not_close_the_endpoint() {
        let mut health = Health::default();
        let waits: Vec<_> = (1..=TRIES).map(|tries| health.failed(failure(tries), NOW, 0.5)).collect();
        assert_eq!(waits.iter().flatten().count(), 9);
        assert_eq!((health.failures, health.is_closed(NOW)), (1, false));
    }

    #[test]
    fn success_reopens_unless_the_receiver_asked_to_wait() {
        let mut health = Health::default();
        for _ in 0..Health::DOWN_AFTER {
            health.failed(failure(1), NOW, 0.5);
        }
        health.succeeded(NOW);
        assert!(!health.is_closed(NOW) && health.open_at == Some(NOW));
        health.failed(Failure { asked: Some(TimeDelta::seconds(60)), ..failure(1) }, NOW, 0.5);
        health.succeeded(NOW);
        assert!(health.is_closed(NOW));
    }

    #[test]
    fn endpoint_is_over_after_five_days() {
        let mut health = Health::default();
        let at = |health: &Health, hours| health.is_over(NOW + TimeDelta::hours(hours));
        health.failed(failure(1), NOW, 0.5);
        assert!(!at(&health, 120), "a single one that failed long ago is not five days of failure");
        for _ in 1..Health::DOWN_AFTER {
            health.failed(failure(1), NOW, 0.5);
        }
        assert!(!at(&health, 119) && at(&health, 120));
        assert!(!Health::default().is_over(NOW));
    }

    #[test]
    fn nothing_is_posted_before_the_requested_time() {
        let mut health = Health::default();
        let asked = |seconds| Failure { asked: Some(TimeDelta::seconds(seconds)), ..failure(1) };
        let at = health.failed(asked(60), NOW, 0.0).unwrap();
        assert_eq!((at - NOW, health.open_at), (TimeDelta::seconds(60), Some(NOW + TimeDelta::seconds(60))));
        let at = health.failed(asked(1), NOW, 0.5).unwrap();
        assert_eq!((at - NOW).num_seconds(), 5, "no sooner than by the schedule");
        assert_eq!(health.open_at, Some(NOW + TimeDelta::seconds(60)), "no sooner than was asked before");
        health.failed(asked(1_000_000), NOW, 0.5);
        assert_eq!(health.open_at, Some(NOW + LONGEST_ASKED));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let seconds = |text: &str| retry_after(text, NOW).map(|wait| wait.num_seconds());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("Thu, 01 Jan 1970 00:01:00 GMT"), Some(60));
        assert_eq!(seconds("Wed, 31 Dec 1969 23:59:00 GMT"), Some(0));
        assert_eq!(seconds(&"9".repeat(30)), Some(LONGEST_ASKED.num_seconds()));
        assert_eq!([seconds(""), seconds("-1"), seconds("soon"), seconds("1.5")], [None; 4]);
    }
}
