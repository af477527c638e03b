//! The health of a lane's destination: the rate that it accepts, and whether it is reachable. Pure. Every attempt is an
//! observation, and the observations of all replicas count equally.
//!
//! When a destination throttles Postrider (421, 4.7.x), the rate is halved, again and again if necessary. Successes
//! raise the rate until it exceeds the rate that was first throttled; then the limit is dropped. After a failure to
//! reach the destination, nothing is sent for an interval that grows with each failure; then a few messages are sent as
//! a probe. No attempt is counted for messages that wait during this time.

use chrono::{DateTime, TimeDelta, Utc};

/// The minimum interval between two reductions of the rate.
const LOWER_INTERVAL: TimeDelta = TimeDelta::seconds(10);
/// The interval without throttling after which the rate is raised by one step.
const RAISE_INTERVAL: TimeDelta = TimeDelta::seconds(5);
/// The factor of each of the first, careful steps.
const CAREFUL_FACTOR: f64 = 1.25;
/// The number of careful steps. After them the rate is more than twice the lowered rate, and so above the rate that was
/// last throttled.
const CAREFUL_STEPS: i64 = 4;
/// The factor of each later step. The destination no longer throttles, so the rate recovers fast.
const FAST_FACTOR: f64 = 2.0;
/// The number of steps after which any rate exceeds its ceiling.
const MAX_STEPS: i64 = 64;
/// The minimum rate, in messages per second: one per minute.
const MIN_RATE: f64 = 1.0 / 60.0;
/// The minimum rate after the first reduction, in messages per second: the observed rate of a lane with little traffic
/// says little about the destination.
const MIN_FIRST_RATE: f64 = 1.0;
/// How long failures that other workers report are ignored after a worker has reached the destination again.
const IGNORE_REPORTS: TimeDelta = TimeDelta::minutes(5);
/// The wait before the next probe after the first, second, … consecutive failure, in seconds. The last one repeats.
const PROBE_WAITS: [i64; 5] = [30, 60, 120, 240, 300];

/// The health of a destination.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DestinationHealth {
    /// The learned rate limit, if any.
    pub learned: Option<Learned>,
    /// Set if the destination is unreachable.
    pub unreachable: Option<Unreachable>,
    /// The last time at which a worker reached the destination after it had been unreachable.
    pub unblocked_at: Option<DateTime<Utc>>,
}

/// A learned rate limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learned {
    /// Messages per second.
    pub rate: f64,
    /// The rate above which the limit is dropped, in messages per second.
    pub ceiling: f64,
    /// The time at which the rate was last lowered.
    pub lowered_at: DateTime<Utc>,
    /// The time at which the rate was last raised after that.
    pub raised_at: Option<DateTime<Utc>>,
}

/// An unreachable destination and its probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreachable {
    /// The time of the first failure.
    pub since: DateTime<Utc>,
    /// Consecutive failures, at least 1.
    pub failures: i16,
    /// The time at which the next probe may start.
    pub open_at: DateTime<Utc>,
}

/// What a group of attempts shows about a destination.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// The current time.
    pub at: DateTime<Utc>,
    /// Recent messages attempted per second.
    pub attempted: f64,
    /// Recent messages accepted per second.
    pub accepted: f64,
    /// Whether the destination throttled Postrider.
    pub throttled: bool,
    /// Whether the destination accepted a message.
    pub success: bool,
    /// Whether the destination was unreachable.
    pub unreachable: bool,
    /// The time at which one of these attempts established a session, if any did.
    pub reached_at: Option<DateTime<Utc>>,
    /// The time at which the reporting worker last established a session.
    pub own_session_at: Option<DateTime<Utc>>,
}

impl Observation {
    /// Scales one worker's observation to all workers. If there is only one worker, its reports are never ignored,
    /// because no other worker could have reached the destination.
    #[must_use]
    pub fn scaled_to(self, workers: i64) -> Self {
        let own_session_at = if workers > 1 { self.own_session_at } else { Some(self.at) };
        let workers = f64::from(i32::try_from(workers.max(1)).unwrap_or(i32::MAX));
        Self { attempted: self.attempted * workers, accepted: self.accepted * workers, own_session_at, ..self }
    }
}

impl DestinationHealth {
    /// Returns the health after this observation.
    #[must_use]
    pub fn after(self, observation: &Observation) -> Self {
        let unreachable = self.unreachable_after(observation);
        let is_reached = self.unreachable.is_some() && unreachable.is_none();
        let unblocked_at = if is_reached { Some(observation.at) } else { self.unblocked_at };
        Self { learned: self.learned_after(observation), unreachable, unblocked_at }
    }

    /// Returns whether the worker's own network may be at fault: another worker reached the destination recently, and
    /// this worker has not reached it since.
    fn ignores(self, observation: &Observation) -> bool {
        self.unblocked_at.is_some_and(|reached| {
            observation.at < reached + IGNORE_REPORTS && observation.own_session_at.is_none_or(|own| own < reached)
        })
    }

    fn learned_after(self, observation: &Observation) -> Option<Learned> {
        let Some(learned) = self.learned else { return observation.throttled.then(|| Learned::first(observation)) };
        if observation.throttled {
            return Some(learned.lowered(observation.at));
        }
        if observation.success { learned.raised(observation.at) } else { Some(learned) }
    }

    fn unreachable_after(self, observation: &Observation) -> Option<Unreachable> {
        let Some(current) = self.unreachable else {
            let is_new = observation.unreachable && observation.reached_at.is_none() && !self.ignores(observation);
            return is_new.then(|| Unreachable::nth(observation.at, 1, observation.at));
        };
        if observation.reached_at.is_some_and(|reached| reached > current.since) {
            return None;
        }
        // Several replicas may probe at the same time: only the first failure postpones the next probe.
        if observation.unreachable && observation.at >= current.open_at {
            return Some(Unreachable::nth(current.since, current.failures.saturating_add(1), observation.at));
        }
        Some(current)
    }
}

impl Learned {
    /// Creates the first limit: half of the attempted rate, or the accepted rate if that is lower.
    fn first(observation: &Observation) -> Self {
        let rate = (observation.attempted / 2.0).min(observation.accepted).max(MIN_FIRST_RATE);
        Self { rate, ceiling: observation.attempted.max(2.0 * rate), lowered_at: observation.at, raised_at: None }
    }

    fn lowered(self, at: DateTime<Utc>) -> Self {
        if at < self.lowered_at + LOWER_INTERVAL {
            return self;
        }
        Self { rate: (self.rate / 2.0).max(MIN_RATE), lowered_at: at, raised_at: None, ..self }
    }

    fn raised(self, at: DateTime<Utc>) -> Option<Self> {
        let since = self.raised_at.unwrap_or(self.lowered_at);
        let steps_in = |time: TimeDelta| time.num_seconds() / RAISE_INTERVAL.num_seconds();
        let (done, steps) = (steps_in(since - self.lowered_at), steps_in(at - since).min(MAX_STEPS));
        if steps < 1 {
            return Some(self);
        }
        let factor = |step: i64| if done + step < CAREFUL_STEPS { CAREFUL_FACTOR } else { FAST_FACTOR };
        let rate = (0..steps).fold(self.rate, |rate, step| rate * factor(step));
        (rate <= self.ceiling).then_some(Self { rate, raised_at: Some(at), ..self })
    }
}

impl Unreachable {
    /// Returns the state after the `failures`-th consecutive failure.
    fn nth(since: DateTime<Utc>, failures: i16, at: DateTime<Utc>) -> Self {
        let index = usize::try_from(failures - 1).unwrap_or(0).min(PROBE_WAITS.len() - 1);
        Self { since, failures, open_at: at + TimeDelta::seconds(PROBE_WAITS[index]) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn observation(seconds: i64) -> Observation {
        Observation {
            at: at(seconds),
            attempted: 0.0,
            accepted: 0.0,
            throttled: false,
            success: false,
            unreachable: false,
            reached_at: None,
            own_session_at: None,
        }
    }

    fn throttling(seconds: i64) -> Observation {
        Observation { throttled: true, reached_at: Some(at(seconds)), ..observation(seconds) }
    }

    fn success(seconds: i64) -> Observation {
        let now = Some(at(seconds));
        Observation { success: true, reached_at: now, own_session_at: now, ..observation(seconds) }
    }

    fn failure(seconds: i64) -> Observation {
        Observation { unreachable: true, ..observation(seconds) }
    }

    fn rate_after(observations: &[Observation]) -> Option<f64> {
        observations.iter().fold(DestinationHealth::default(), DestinationHealth::after).learned.map(|l| l.rate)
    }

    #[test]
    fn first_throttling_halves_the_observed_rate() {
        for (attempted, accepted, rate) in
            [(40.0, 38.0, 20.0), (1_000.0, 100.0, 100.0), (1_000.0, 0.0, 1.0), (0.1, 0.1, 1.0)]
        {
            assert_eq!(rate_after(&[Observation { attempted, accepted, ..throttling(0) }]), Some(rate));
        }
    }

    #[test]
    fn throttling_halves_every_ten_seconds_down_to_one_per_minute() {
        assert_eq!(rate_after(&[throttling(0), throttling(9)]), Some(1.0));
        assert_eq!(rate_after(&[throttling(0), throttling(10), throttling(11)]), Some(0.5));
        let many: Vec<Observation> = (0..100).map(|n| throttling(n * 10)).collect();
        assert_eq!(rate_after(&many), Some(MIN_RATE));
    }

    #[test]
    fn success_raises_the_rate_until_the_limit_is_dropped() {
        let first = Observation { attempted: 40.0, accepted: 40.0, ..throttling(0) };
        assert_eq!(rate_after(&[first, success(4)]), Some(20.0));
        assert_eq!(rate_after(&[first, success(5), success(9)]), Some(25.0));
        assert_eq!(rate_after(&[first, success(5), throttling(10)]), Some(12.5));
        assert_eq!(rate_after(&[first, success(5), success(10), success(15)]), Some(20.0 * CAREFUL_FACTOR.powi(3)));
        assert_eq!(rate_after(&[first, success(5), success(10), success(15), success(20)]), None);
        assert_eq!(rate_after(&[first, success(3_600)]), None, "a limit from long ago is dropped at once");
    }

    /// Returns the seconds until the limit is dropped, if a destination throttles at 1,000 messages per second and then
    /// accepts all messages.
    fn recovery(throttlings: i64) -> i64 {
        let first = Observation { attempted: 1_000.0, accepted: 900.0, ..throttling(0) };
        let bad = (0..throttlings).map(|n| Observation { at: at(10 * n), ..first });
        let health = bad.fold(DestinationHealth::default(), |health, observation| health.after(&observation));
        let (last, mut health) = (10 * (throttlings - 1), health);
        (1..100_000)
            .find(|n| {
                health = health.after(&success(last + n));
                health.learned.is_none()
            })
            .unwrap()
    }

    #[test]
    fn limit_is_dropped_soon_after_recovery() {
        assert_eq!([1, 2, 4, 11].map(recovery), [20, 25, 35, 70]);
    }

    #[test]
    fn lasting_limit_throttles_at_most_every_15_seconds() {
        let mut health =
            DestinationHealth::default().after(&Observation { attempted: 1_000.0, accepted: 100.0, ..throttling(0) });
        let (mut throttlings, mut last) = (0, 0);
        for second in 1..600 {
            let rate = health.learned.map_or(1_000.0, |learned| learned.rate);
            if rate > 60.0 && second - last >= 10 {
                health = health.after(&throttling(second));
                (throttlings, last) = (throttlings + 1, second);
            } else {
                health = health.after(&success(second));
            }
            assert!(health.learned.is_some(), "the limit is not dropped");
        }
        assert!(throttlings <= 600 / 15, "{throttlings}");
    }

    #[test]
    fn unreachable_destination_is_probed_at_growing_intervals() {
        let mut health = DestinationHealth::default().after(&failure(0));
        let mut waits = Vec::new();
        for _ in 0..7 {
            let unreachable = health.unreachable.unwrap();
            waits.push((unreachable.open_at - at(0)).num_seconds());
            let early = unreachable.open_at - TimeDelta::seconds(1);
            assert_eq!(health.after(&Observation { at: early, ..failure(0) }), health);
            health = health.after(&Observation { at: unreachable.open_at, ..failure(0) });
        }
        assert_eq!(waits, [30, 90, 210, 450, 750, 1_050, 1_350]);
        assert_eq!(health.after(&success(2_000)).unreachable, None);
    }

    #[test]
    fn report_of_a_worker_that_fails_alone_is_ignored() {
        let health = DestinationHealth::default().after(&failure(0)).after(&success(10));
        assert_eq!(health.after(&failure(11)).unreachable, None);
        assert_eq!(health.after(&Observation { own_session_at: Some(at(9)), ..failure(309) }).unreachable, None);
        assert!(
            health.after(&Observation { own_session_at: Some(at(10)), ..failure(11) }).unreachable.is_some(),
            "the worker that reached it"
        );
        assert!(health.after(&failure(310)).unreachable.is_some(), "five minutes later");
        let of_workers = |count| health.after(&failure(11).scaled_to(count)).unreachable.is_some();
        assert_eq!([of_workers(1), of_workers(2)], [true, false], "a single worker's report counts");
    }

    #[test]
    fn only_a_later_session_shows_that_it_is_reachable() {
        assert_eq!(
            DestinationHealth::default().after(&Observation { reached_at: Some(at(0)), ..failure(1) }).unreachable,
            None
        );
        let unreachable = DestinationHealth::default().after(&failure(10));
        assert_eq!(unreachable.after(&Observation { reached_at: Some(at(9)), ..observation(11) }), unreachable);
        assert_eq!(unreachable.after(&Observation { reached_at: Some(at(11)), ..observation(11) }).unreachable, None);
    }

    proptest! {
        #[test]
        fn rate_stays_between_one_per_minute_and_its_ceiling(
            observations in prop::collection::vec((0_i64..40, any::<bool>(), 0.0_f64..1e5, 0.0_f64..1.0), 1..200)
        ) {
            let (mut health, mut now) = (DestinationHealth::default(), 0);
            for (wait, is_throttled, attempted, fraction) in observations {
                now += wait;
                let base = if is_throttled { throttling(now) } else { success(now) };
                health = health.after(&Observation { attempted, accepted: attempted * fraction, ..base });
                if let Some(learned) = health.learned {
                    prop_assert!((MIN_RATE..=learned.ceiling).contains(&learned.rate), "{learned:?}");
                }
            }
        }
    }
}
