//! Decides when a webhook delivery is retried, and when a webhook endpoint is down or disabled (with the schedule of
//! Standard Webhooks 1.0). Pure: the caller passes the clock and the jitter.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// The waits after the first, second, … attempt.
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
/// The maximum number of attempts for a delivery that fails while others succeed.
const MAX_ATTEMPTS: u32 = 10;
/// The time without a success after which an endpoint is disabled.
const DISABLE_AFTER: TimeDelta = TimeDelta::days(5);
/// The fraction by which a wait is lengthened or shortened, so that retries do not coincide.
const JITTER: f64 = 0.2;
/// The maximum wait that a receiver can ask for.
const MAX_RETRY_AFTER: TimeDelta = TimeDelta::hours(24);

/// The recent health of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// The number of deliveries whose first attempt failed since the last success, plus the failed probes while the
    /// endpoint is down. Later attempts do not count, because they show only that the endpoint rejects that delivery.
    pub failures: u32,
    /// The time of the first of these failures.
    pub failing_since: Option<DateTime<Utc>>,
    /// The last error.
    pub last_error: Option<String>,
    /// The time at which a post last succeeded.
    pub last_success_at: Option<DateTime<Utc>>,
    /// Nothing is posted before this time.
    pub open_at: Option<DateTime<Utc>>,
}

/// A failed delivery attempt.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The number of attempts so far, including this one.
    pub attempts: u32,
    /// Whether it was a probe of an endpoint that is down.
    pub is_probe: bool,
    /// The wait that the receiver asked for.
    pub retry_after: Option<TimeDelta>,
    /// The error, for the operator.
    pub error: String,
}

impl Health {
    /// The number of consecutive failures after which the endpoint counts as down.
    pub const DOWN_AFTER: u32 = 5;

    /// Returns whether the endpoint is down, so that one delivery at a time probes it.
    pub fn is_down(&self) -> bool {
        self.failures >= Self::DOWN_AFTER
    }

    /// Returns whether nothing may be posted now.
    pub fn is_closed(&self, now: DateTime<Utc>) -> bool {
        self.open_at.is_some_and(|at| at > now)
    }

    /// Returns whether the endpoint has failed for so long that it must be disabled.
    pub fn must_disable(&self, now: DateTime<Utc>) -> bool {
        self.is_down() && self.failing_since.is_some_and(|since| now - since >= DISABLE_AFTER)
    }

    /// Records a success. An endpoint that was down is posted to at once; if it was not down, a wait that the receiver
    /// asked for still applies.
    pub fn succeeded(&mut self, now: DateTime<Utc>) {
        let open_at = if self.is_down() { Some(now) } else { self.open_at };
        *self = Self { last_success_at: Some(now), open_at, ..Self::default() };
    }

    /// Records a failure. Returns the time at which to retry the delivery; `None` if the delivery has failed too often
    /// while the endpoint is not down.
    pub fn failed(&mut self, failure: Failure, now: DateTime<Utc>, jitter: f64) -> Option<DateTime<Utc>> {
        // Deliveries that were in flight when the endpoint went down must not lengthen the wait.
        if failure.is_probe || (!self.is_down() && failure.attempts == 1) {
            self.failures = self.failures.saturating_add(1);
        }
        self.failing_since.get_or_insert(now);
        self.last_error = Some(failure.error);
        let retry_after = failure.retry_after.map(|wait| wait.clamp(TimeDelta::zero(), MAX_RETRY_AFTER));
        let wait_after = |attempts| wait(attempts, jitter).max(retry_after.unwrap_or_default());
        if self.is_down() {
            // The wait depends on the endpoint's failures, not on the attempts of one delivery, which may itself be the
            // cause.
            let probes = self.failures.saturating_sub(Self::DOWN_AFTER - 1);
            self.open_at = self.open_at.max(Some(now + wait_after(probes)));
        } else {
            self.open_at = self.open_at.max(retry_after.map(|wait| now + wait));
        }
        (failure.attempts < MAX_ATTEMPTS || self.is_down()).then(|| now + wait_after(failure.attempts))
    }
}

/// Returns the wait after this number of attempts. The last wait repeats. `jitter`, from 0 to 1, varies it by ±20 %.
fn wait(attempts: u32, jitter: f64) -> TimeDelta {
    let index = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX).min(WAITS.len() - 1);
    let wait = WAITS[index].mul_f64(1.0 - JITTER + 2.0 * JITTER * jitter.clamp(0.0, 1.0));
    TimeDelta::from_std(wait).unwrap_or(MAX_RETRY_AFTER)
}

/// Parses `Retry-After` (RFC 9110 §10.2.3): seconds, or a date.
pub fn retry_after(text: &str, now: DateTime<Utc>) -> Option<TimeDelta> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let seconds = text.parse().ok().and_then(TimeDelta::try_seconds);
        return Some(seconds.unwrap_or(MAX_RETRY_AFTER));
    }
    let date = DateTime::parse_from_rfc2822(text).ok()?;
    Some((date.to_utc() - now).max(TimeDelta::zero()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn failure(attempts: u32) -> Failure {
        Failure { attempts, is_probe: false, retry_after: None, error: "status 500".into() }
    }

    #[test]
    fn retries_follow_the_schedule() {
        let mut health = Health::default();
        let waits = (1..=MAX_ATTEMPTS).map(|attempts| {
            // Other deliveries succeed between the attempts.
            health.succeeded(NOW);
            health.failed(failure(attempts), NOW, 0.5).map(|at| (at - NOW).num_seconds())
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
            // The other deliveries that were in flight.
            health.failed(failure(1), NOW, 0.5);
        }
        let opens_in = |health: &Health| (health.open_at.unwrap() - NOW).num_seconds();
        assert!(health.is_down() && health.is_closed(NOW));
        assert_eq!((health.failures, opens_in(&health)), (Health::DOWN_AFTER, 5));
        let probe = || Failure { is_probe: true, ..failure(2) };
        let waits = [(); 3].map(|()| {
            health.failed(probe(), NOW, 0.5);
            opens_in(&health)
        });
        assert_eq!(waits, [300, 1_800, 7_200]);
        health.succeeded(NOW);
        assert_eq!((health.failures, health.failing_since, health.is_down()), (0, None, false));
    }

    #[test]
    fn single_failing_delivery_does_not_close_the_endpoint() {
        let mut health = Health::default();
        let waits: Vec<_> = (1..=MAX_ATTEMPTS).map(|attempts| health.failed(failure(attempts), NOW, 0.5)).collect();
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
        health.failed(Failure { retry_after: Some(TimeDelta::seconds(60)), ..failure(1) }, NOW, 0.5);
        health.succeeded(NOW);
        assert!(health.is_closed(NOW));
    }

    #[test]
    fn endpoint_must_be_disabled_after_five_days() {
        let mut health = Health::default();
        let at = |health: &Health, hours| health.must_disable(NOW + TimeDelta::hours(hours));
        health.failed(failure(1), NOW, 0.5);
        assert!(!at(&health, 120), "a single failure, however long ago, does not disable the endpoint");
        for _ in 1..Health::DOWN_AFTER {
            health.failed(failure(1), NOW, 0.5);
        }
        assert!(!at(&health, 119) && at(&health, 120));
        assert!(!Health::default().must_disable(NOW));
    }

    #[test]
    fn nothing_is_posted_before_the_requested_time() {
        let mut health = Health::default();
        let failure_with = |seconds| Failure { retry_after: Some(TimeDelta::seconds(seconds)), ..failure(1) };
        let at = health.failed(failure_with(60), NOW, 0.0).unwrap();
        assert_eq!((at - NOW, health.open_at), (TimeDelta::seconds(60), Some(NOW + TimeDelta::seconds(60))));
        let at = health.failed(failure_with(1), NOW, 0.5).unwrap();
        assert_eq!((at - NOW).num_seconds(), 5, "not before the scheduled time");
        assert_eq!(health.open_at, Some(NOW + TimeDelta::seconds(60)), "not before the time requested earlier");
        health.failed(failure_with(1_000_000), NOW, 0.5);
        assert_eq!(health.open_at, Some(NOW + MAX_RETRY_AFTER));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let seconds = |text: &str| retry_after(text, NOW).map(|wait| wait.num_seconds());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("Thu, 01 Jan 1970 00:01:00 GMT"), Some(60));
        assert_eq!(seconds("Wed, 31 Dec 1969 23:59:00 GMT"), Some(0));
        assert_eq!(seconds(&"9".repeat(30)), Some(MAX_RETRY_AFTER.num_seconds()));
        assert_eq!([seconds(""), seconds("-1"), seconds("soon"), seconds("1.5")], [None; 4]);
    }
}
