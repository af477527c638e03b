//! The health of a lane's destination: how much it accepts, and whether it is reachable. Pure; every attempt is an
//! observation, and the observations of all replicas count alike.
//!
//! If a destination throttles us (421, 4.7.x), the rate is halved, repeatedly; success raises the rate until it exceeds
//! the one that was first throttled, and the limit is dropped. An unreachable destination is left alone for growing
//! intervals; then a few messages are sent as a probe. Messages that wait meanwhile have no attempt counted.

use chrono::{DateTime, TimeDelta, Utc};

/// The minimum interval between two reductions of the rate.
const STEP: TimeDelta = TimeDelta::seconds(10);
/// The interval without throttling after which the rate is raised by one step.
const RAISE_EVERY: TimeDelta = TimeDelta::seconds(5);
/// The factor of each of the first steps.
const RAISE: f64 = 1.25;
/// How many first steps there are: after them the rate is more than twice the lowered one, and so above the one that
/// was last throttled.
const CAREFUL_STEPS: i64 = 4;
/// The factor of each later step: the destination's limit is gone, so the rate recovers fast.
const RAISE_BEYOND: f64 = 2.0;
/// Steps after which any rate exceeds its ceiling.
const MOST_STEPS: i64 = 64;
/// The minimum rate, in messages per second: one per minute.
const FLOOR: f64 = 1.0 / 60.0;
/// The minimum of the first reduction, in messages per second: a lane with little traffic has shown little.
const FIRST: f64 = 1.0;
/// How long a worker's report that a destination is unreachable is doubted, after other workers reached it.
const DOUBT: TimeDelta = TimeDelta::minutes(5);
/// How long a destination is left alone after the first, second, … consecutive failure, in seconds: each shorter than a
/// single message's own retry wait.
const WAITS: [i64; 5] = [30, 60, 120, 240, 300];

/// What is known about a destination.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DestinationHealth {
    /// The learned limit, if any.
    pub learned: Option<Learned>,
    /// Set if it is unreachable.
    pub block: Option<Block>,
    /// When a block last ended because a worker reached it.
    pub unblocked_at: Option<DateTime<Utc>>,
}

/// A learned rate limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learned {
    /// Messages per second.
    pub rate: f64,
    /// The rate above which the limit is dropped, in messages per second.
    pub ceiling: f64,
    /// When the rate was last lowered.
    pub lowered_at: DateTime<Utc>,
    /// When it was last raised after that.
    pub raised_at: Option<DateTime<Utc>>,
}

/// The block of an unreachable destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// When the first failure was seen.
    pub since: DateTime<Utc>,
    /// Consecutive failures, 1 or more.
    pub failures: i16,
    /// When the next probe may start.
    pub open_at: DateTime<Utc>,
}

/// What some attempts showed about a destination.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// The current time.
    pub at: DateTime<Utc>,
    /// Recent messages attempted per second.
    pub attempted: f64,
    /// Recent messages accepted per second.
    pub accepted: f64,
    /// Whether the destination throttled us.
    pub slow_down: bool,
    /// Whether it accepted a message.
    pub success: bool,
    /// Whether it was unreachable.
    pub unreachable: bool,
    /// When one of these attempts established a session.
    pub reached_at: Option<DateTime<Utc>>,
    /// When the reporting worker last established one.
    pub own_session_at: Option<DateTime<Utc>>,
}

impl Observation {
    /// Scales one worker's observation to all workers. The report of a single worker is never doubted: no other could
    /// have reached the destination.
    #[must_use]
    pub fn of_all(self, workers: i64) -> Self {
        let own_session_at = if workers > 1 { self.own_session_at } else { Some(self.at) };
        let workers = f64::from(i32::try_from(workers.max(1)).unwrap_or(i32::MAX));
        Self { attempted: self.attempted * workers, accepted: self.accepted * workers, own_session_at, ..self }
    }
}

impl DestinationHealth {
    /// Returns the health after this observation.
    #[must_use]
    pub fn after(self, observation: &Observation) -> Self {
        let block = self.block_after(observation);
        let is_unblocked = self.block.is_some() && block.is_none();
        let unblocked_at = if is_unblocked { Some(observation.at) } else { self.unblocked_at };
        Self { learned: self.learned_after(observation), block, unblocked_at }
    }

    /// Returns whether the worker's own network may be at fault: others reached the destination recently, and it has
    /// not since.
    fn doubts(self, observation: &Observation) -> bool {
        self.unblocked_at.is_some_and(|unblocked| {
            observation.at < unblocked + DOUBT && observation.own_session_at.is_none_or(|own| own < unblocked)
        })
    }

    fn learned_after(self, observation: &Observation) -> Option<Learned> {
        let Some(learned) = self.learned else { return observation.slow_down.then(|| Learned::first(observation)) };
        if observation.slow_down {
            return Some(learned.lowered(observation.at));
        }
        if observation.success { learned.raised(observation.at) } else { Some(learned) }
    }

    fn block_after(self, observation: &Observation) -> Option<Block> {
        let Some(block) = self.block else {
            let is_dead = observation.unreachable && observation.reached_at.is_none() && !self.doubts(observation);
            return is_dead.then(|| Block::nth(observation.at, 1, observation.at));
        };
        if observation.reached_at.is_some_and(|reached| reached > block.since) {
            return None;
        }
        // Several replicas probe at the same time: only the first failure moves the next probe.
        if observation.unreachable && observation.at >= block.open_at {
            return Some(Block::nth(block.since, block.failures.saturating_add(1), observation.at));
        }
        Some(block)
    }
}

impl Learned {
    /// Returns half of the attempted rate, or the accepted rate if that is less.
    fn first(observation: &Observation) -> Self {
        let rate = (observation.attempted / 2.0).min(observation.accepted).max(FIRST);
        Self { rate, ceiling: observation.attempted.max(2.0 * rate), lowered_at: observation.at, raised_at: None }
    }

    fn lowered(self, at: DateTime<Utc>) -> Self {
        if at < self.lowered_at + STEP {
            return self;
        }
        Self { rate: (self.rate / 2.0).max(FLOOR), lowered_at: at, raised_at: None, ..self }
    }

    fn raised(self, at: DateTime<Utc>) -> Option<Self> {
        let since = self.raised_at.unwrap_or(self.lowered_at);
        let steps_in = |time: TimeDelta| time.num_seconds() / RAISE_EVERY.num_seconds();
        let (done, steps) = (steps_in(since - self.lowered_at), steps_in(at - since).min(MOST_STEPS));
        if steps < 1 {
            return Some(self);
        }
        let factor = |step: i64| if done + step < CAREFUL_STEPS { RAISE } else { RAISE_BEYOND };
        let rate = (0..steps).fold(self.rate, |rate, step| rate * factor(step));
        (rate <= self.ceiling).then_some(Self { rate, raised_at: Some(at), ..self })
    }
}

impl Block {
    fn nth(since: DateTime<Utc>, failures: i16, at: DateTime<Utc>) -> Self {
        let index = usize::try_from(failures - 1).unwrap_or(0).min(WAITS.len() - 1);
        Self { since, failures, open_at: at + TimeDelta::seconds(WAITS[index]) }
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
            slow_down: false,
            success: false,
            unreachable: false,
            reached_at: None,
            own_session_at: None,
        }
    }

    fn throttling(seconds: i64) -> Observation {
        Observation { slow_down: true, reached_at: Some(at(seconds)), ..observation(seconds) }
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
        assert_eq!(rate_after(&many), Some(FLOOR));
    }

    #[test]
    fn success_raises_the_rate_until_the_limit_is_dropped() {
        let first = Observation { attempted: 40.0, accepted: 40.0, ..throttling(0) };
        assert_eq!(rate_after(&[first, success(4)]), Some(20.0));
        assert_eq!(rate_after(&[first, success(5), success(9)]), Some(25.0));
        assert_eq!(rate_after(&[first, success(5), throttling(10)]), Some(12.5));
        assert_eq!(rate_after(&[first, success(5), success(10), success(15)]), Some(20.0 * RAISE.powi(3)));
        assert_eq!(rate_after(&[first, success(5), success(10), success(15), success(20)]), None);
        assert_eq!(rate_after(&[first, success(3_600)]), None, "what was learned long ago");
    }

    /// Returns the seconds until the limit is dropped, if all attempts succeed after throttling at 1,000 messages per
    /// second.
    fn recovery(throttlings: i64) -> i64 {
        let first = Observation { attempted: 1_000.0, accepted: 900.0, ..throttling(0) };
        let bad = (0..throttlings).map(|n| Observation { at: at(10 * n), ..first });
        let known = bad.fold(DestinationHealth::default(), |known, observation| known.after(&observation));
        let (last, mut known) = (10 * (throttlings - 1), known);
        (1..100_000)
            .find(|n| {
                known = known.after(&success(last + n));
                known.learned.is_none()
            })
            .unwrap()
    }

    #[test]
    fn recovered_destination_gets_full_speed_soon() {
        assert_eq!([1, 2, 4, 11].map(recovery), [20, 25, 35, 70]);
    }

    #[test]
    fn lasting_limit_is_hit_once_in_fifteen_seconds() {
        let mut known =
            DestinationHealth::default().after(&Observation { attempted: 1_000.0, accepted: 100.0, ..throttling(0) });
        let (mut throttlings, mut last) = (0, 0);
        for second in 1..600 {
            let rate = known.learned.map_or(1_000.0, |learned| learned.rate);
            if rate > 60.0 && second - last >= 10 {
                known = known.after(&throttling(second));
                (throttlings, last) = (throttlings + 1, second);
            } else {
                known = known.after(&success(second));
            }
            assert!(known.learned.is_some(), "the limit is not dropped");
        }
        assert!(throttlings <= 600 / 15, "{throttlings}");
    }

    #[test]
    fn unreachable_destination_is_probed_at_growing_intervals() {
        let mut known = DestinationHealth::default().after(&failure(0));
        let mut waits = Vec::new();
        for _ in 0..7 {
            let block = known.block.unwrap();
            waits.push((block.open_at - at(0)).num_seconds());
            assert_eq!(known.after(&Observation { at: block.open_at - TimeDelta::seconds(1), ..failure(0) }), known);
            known = known.after(&Observation { at: block.open_at, ..failure(0) });
        }
        assert_eq!(waits, [30, 90, 210, 450, 750, 1_050, 1_350]);
        assert_eq!(known.after(&success(2_000)).block, None);
    }

    #[test]
    fn worker_that_fails_where_others_succeed_is_doubted() {
        let known = DestinationHealth::default().after(&failure(0)).after(&success(10));
        assert_eq!(known.after(&failure(11)).block, None);
        assert_eq!(known.after(&Observation { own_session_at: Some(at(9)), ..failure(309) }).block, None);
        assert!(
            known.after(&Observation { own_session_at: Some(at(10)), ..failure(11) }).block.is_some(),
            "the one that did"
        );
        assert!(known.after(&failure(310)).block.is_some(), "later");
        let of_workers = |count| known.after(&failure(11).of_all(count)).block.is_some();
        assert_eq!([of_workers(1), of_workers(2)], [true, false], "unless it is alone");
    }

    #[test]
    fn only_a_later_session_ends_a_block() {
        assert_eq!(
            DestinationHealth::default().after(&Observation { reached_at: Some(at(0)), ..failure(1) }).block,
            None
        );
        let blocked = DestinationHealth::default().after(&failure(10));
        assert_eq!(blocked.after(&Observation { reached_at: Some(at(9)), ..observation(11) }), blocked);
        assert_eq!(blocked.after(&Observation { reached_at: Some(at(11)), ..observation(11) }).block, None);
    }

    proptest! {
        #[test]
        fn rate_stays_between_one_per_minute_and_its_ceiling(
            observations in prop::collection::vec((0_i64..40, any::<bool>(), 0.0_f64..1e5, 0.0_f64..1.0), 1..200)
        ) {
            let (mut known, mut now) = (DestinationHealth::default(), 0);
            for (wait, is_throttled, attempted, part) in observations {
                now += wait;
                let seen = if is_throttled { throttling(now) } else { success(now) };
                known = known.after(&Observation { attempted, accepted: attempted * part, ..seen });
                if let Some(learned) = known.learned {
                    prop_assert!((FLOOR..=learned.ceiling).contains(&learned.rate), "{learned:?}");
                }
            }
        }
    }
}
