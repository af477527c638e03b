//! What was learned of a lane's destination: how much it takes, and whether it can be reached. Pure; every attempt
//! teaches a lesson, and a replica's lesson counts the same as any other's.
//!
//! A destination that asks for less (421, 4.7.x) gets half, again and again; success raises the rate until it is past
//! the one that was first complained of, and the limit is forgotten. One that cannot be reached is left alone for a
//! while that grows; then a few mails go ahead as a probe. Mail that waits meanwhile has had no attempt.

use chrono::{DateTime, TimeDelta, Utc};

/// The rate is lowered at most once in this time.
const STEP: TimeDelta = TimeDelta::seconds(10);
/// The rate is raised by a step for each time of this length without a complaint.
const RAISE_EVERY: TimeDelta = TimeDelta::seconds(5);
/// What each of the first steps raises the rate by.
const RAISE: f64 = 1.25;
/// How many those are: after them the rate is beyond twice what it was lowered to, and so beyond what was last complained of.
const CAREFUL_STEPS: i64 = 4;
/// What each later step raises it by: the limit that there was is gone, and nobody is helped by finding that out slowly.
const RAISE_BEYOND: f64 = 2.0;
/// Steps after which any rate is past its ceiling.
const MOST_STEPS: i64 = 64;
/// Never less than one mail a minute, in mails a second.
const FLOOR: f64 = 1.0 / 60.0;
/// The first cut goes no lower, in mails a second: a lane that had little to send has shown little.
const FIRST: f64 = 1.0;
/// How long a worker's word against a destination counts for nobody else, after others found that it can be reached.
const DOUBT: TimeDelta = TimeDelta::minutes(5);
/// How long a destination is left alone after the first, second, … failure in a row, in seconds: shorter each time than
/// a mail of its own would wait.
const WAITS: [i64; 5] = [30, 60, 120, 240, 300];

/// What is known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DestinationHealth {
    /// The limit that was learned, where there is one.
    pub learned: Option<Learned>,
    /// Since it cannot be reached.
    pub block: Option<Block>,
    /// When a block last ended because a worker got through.
    pub unblocked_at: Option<DateTime<Utc>>,
}

/// A limit that was learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learned {
    /// Mails a second.
    pub rate: f64,
    /// Beyond this rate the limit is forgotten, in mails a second.
    pub ceiling: f64,
    /// When the rate was last lowered.
    pub lowered_at: DateTime<Utc>,
    /// When it was last raised since.
    pub raised_at: Option<DateTime<Utc>>,
}

/// A destination that cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// When that was first seen.
    pub since: DateTime<Utc>,
    /// Failures in a row, 1 or more.
    pub failures: i16,
    /// When the next probe may go.
    pub open_at: DateTime<Utc>,
}

/// What some attempts showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// Now.
    pub at: DateTime<Utc>,
    /// Mails tried of late, a second.
    pub attempted: f64,
    /// Mails taken of late, a second.
    pub accepted: f64,
    /// The destination asked for less.
    pub slow_down: bool,
    /// It took a mail.
    pub success: bool,
    /// It could not be reached.
    pub unreachable: bool,
    /// When one of these attempts had a session.
    pub reached_at: Option<DateTime<Utc>>,
    /// When the worker that tells of it last had one.
    pub own_session_at: Option<DateTime<Utc>>,
}

impl Observation {
    /// The same where so many workers see what one has seen. A worker that is alone is believed: nobody gets through in its
    /// place.
    #[must_use]
    pub fn of_all(self, workers: i64) -> Self {
        let own_session_at = if workers > 1 { self.own_session_at } else { Some(self.at) };
        let workers = f64::from(i32::try_from(workers.max(1)).unwrap_or(i32::MAX));
        Self { attempted: self.attempted * workers, accepted: self.accepted * workers, own_session_at, ..self }
    }
}

impl DestinationHealth {
    /// What is known after this lesson.
    #[must_use]
    pub fn after(self, lesson: &Observation) -> Self {
        let block = self.block_after(lesson);
        let is_unblocked = self.block.is_some() && block.is_none();
        let unblocked_at = if is_unblocked { Some(lesson.at) } else { self.unblocked_at };
        Self { learned: self.learned_after(lesson), block, unblocked_at }
    }

    /// Whether it may well be the worker that has no way out: others got through lately, and it has not since.
    fn doubts(self, lesson: &Observation) -> bool {
        self.unblocked_at.is_some_and(|unblocked| {
            lesson.at < unblocked + DOUBT && lesson.own_session_at.is_none_or(|own| own < unblocked)
        })
    }

    fn learned_after(self, lesson: &Observation) -> Option<Learned> {
        let Some(learned) = self.learned else { return lesson.slow_down.then(|| Learned::first(lesson)) };
        if lesson.slow_down {
            return Some(learned.lowered(lesson.at));
        }
        if lesson.success { learned.raised(lesson.at) } else { Some(learned) }
    }

    fn block_after(self, lesson: &Observation) -> Option<Block> {
        let Some(block) = self.block else {
            let is_dead = lesson.unreachable && lesson.reached_at.is_none() && !self.doubts(lesson);
            return is_dead.then(|| Block::nth(lesson.at, 1, lesson.at));
        };
        if lesson.reached_at.is_some_and(|reached| reached > block.since) {
            return None;
        }
        // Several replicas probe at the same time: the first failure moves the next probe, the others find it moved.
        if lesson.unreachable && lesson.at >= block.open_at {
            return Some(Block::nth(block.since, block.failures.saturating_add(1), lesson.at));
        }
        Some(block)
    }
}

impl Learned {
    /// Half of what was tried, or what was taken if that is less.
    fn first(lesson: &Observation) -> Self {
        let rate = (lesson.attempted / 2.0).min(lesson.accepted).max(FIRST);
        Self { rate, ceiling: lesson.attempted.max(2.0 * rate), lowered_at: lesson.at, raised_at: None }
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

    fn lesson(seconds: i64) -> Observation {
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

    fn complaint(seconds: i64) -> Observation {
        Observation { slow_down: true, reached_at: Some(at(seconds)), ..lesson(seconds) }
    }

    fn success(seconds: i64) -> Observation {
        let now = Some(at(seconds));
        Observation { success: true, reached_at: now, own_session_at: now, ..lesson(seconds) }
    }

    fn failure(seconds: i64) -> Observation {
        Observation { unreachable: true, ..lesson(seconds) }
    }

    fn rate_after(lessons: &[Observation]) -> Option<f64> {
        lessons.iter().fold(DestinationHealth::default(), DestinationHealth::after).learned.map(|l| l.rate)
    }

    #[test]
    fn the_first_complaint_halves_what_was_seen() {
        for (attempted, accepted, rate) in
            [(40.0, 38.0, 20.0), (1_000.0, 100.0, 100.0), (1_000.0, 0.0, 1.0), (0.1, 0.1, 1.0)]
        {
            assert_eq!(rate_after(&[Observation { attempted, accepted, ..complaint(0) }]), Some(rate));
        }
    }

    #[test]
    fn further_complaints_halve_at_most_every_ten_seconds_down_to_one_a_minute() {
        assert_eq!(rate_after(&[complaint(0), complaint(9)]), Some(1.0));
        assert_eq!(rate_after(&[complaint(0), complaint(10), complaint(11)]), Some(0.5));
        let many: Vec<Observation> = (0..100).map(|n| complaint(n * 10)).collect();
        assert_eq!(rate_after(&many), Some(FLOOR));
    }

    #[test]
    fn success_raises_the_rate_until_the_limit_is_forgotten() {
        let first = Observation { attempted: 40.0, accepted: 40.0, ..complaint(0) };
        assert_eq!(rate_after(&[first, success(4)]), Some(20.0));
        assert_eq!(rate_after(&[first, success(5), success(9)]), Some(25.0));
        assert_eq!(rate_after(&[first, success(5), complaint(10)]), Some(12.5));
        assert_eq!(rate_after(&[first, success(5), success(10), success(15)]), Some(20.0 * RAISE.powi(3)));
        assert_eq!(rate_after(&[first, success(5), success(10), success(15), success(20)]), None);
        assert_eq!(rate_after(&[first, success(3_600)]), None, "what was learned long ago");
    }

    /// Seconds until the limit is forgotten, where all goes well after these complaints at 1,000 mails a second.
    fn recovery(complaints: i64) -> i64 {
        let first = Observation { attempted: 1_000.0, accepted: 900.0, ..complaint(0) };
        let bad = (0..complaints).map(|n| Observation { at: at(10 * n), ..first });
        let known = bad.fold(DestinationHealth::default(), |known, lesson| known.after(&lesson));
        let (last, mut known) = (10 * (complaints - 1), known);
        (1..100_000)
            .find(|n| {
                known = known.after(&success(last + n));
                known.learned.is_none()
            })
            .unwrap()
    }

    #[test]
    fn a_destination_that_is_well_again_gets_full_speed_soon() {
        assert_eq!([1, 2, 4, 11].map(recovery), [20, 25, 35, 70]);
    }

    #[test]
    fn a_limit_that_lasts_is_run_into_once_in_fifteen_seconds() {
        let mut known =
            DestinationHealth::default().after(&Observation { attempted: 1_000.0, accepted: 100.0, ..complaint(0) });
        let (mut complaints, mut last) = (0, 0);
        for second in 1..600 {
            let rate = known.learned.map_or(1_000.0, |learned| learned.rate);
            if rate > 60.0 && second - last >= 10 {
                known = known.after(&complaint(second));
                (complaints, last) = (complaints + 1, second);
            } else {
                known = known.after(&success(second));
            }
            assert!(known.learned.is_some(), "the limit is not forgotten");
        }
        assert!(complaints <= 600 / 15, "{complaints}");
    }

    #[test]
    fn a_destination_that_cannot_be_reached_is_left_alone_for_longer_each_time() {
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
    fn a_worker_that_does_not_get_through_where_others_do_is_not_believed_for_a_while() {
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
    fn a_session_elsewhere_keeps_a_failure_from_blocking_and_one_of_before_ends_no_block() {
        assert_eq!(
            DestinationHealth::default().after(&Observation { reached_at: Some(at(0)), ..failure(1) }).block,
            None
        );
        let blocked = DestinationHealth::default().after(&failure(10));
        assert_eq!(blocked.after(&Observation { reached_at: Some(at(9)), ..lesson(11) }), blocked);
        assert_eq!(blocked.after(&Observation { reached_at: Some(at(11)), ..lesson(11) }).block, None);
    }

    proptest! {
        #[test]
        fn a_rate_stays_between_one_a_minute_and_its_ceiling(
            lessons in prop::collection::vec((0_i64..40, any::<bool>(), 0.0_f64..1e5, 0.0_f64..1.0), 1..200)
        ) {
            let (mut known, mut now) = (DestinationHealth::default(), 0);
            for (wait, complains, attempted, part) in lessons {
                now += wait;
                let seen = if complains { complaint(now) } else { success(now) };
                known = known.after(&Observation { attempted, accepted: attempted * part, ..seen });
                if let Some(learned) = known.learned {
                    prop_assert!((FLOOR..=learned.ceiling).contains(&learned.rate), "{learned:?}");
                }
            }
        }
    }
}
