//! What was learned of a lane's destination: how much it takes, and whether it can be reached. Pure; every attempt
//! teaches a lesson, and a replica's lesson counts the same as any other's.
//!
//! A destination that asks for less (421, 4.7.x) gets half, again and again; success raises the rate until it is past
//! the one that was first complained of, and the limit is forgotten. One that cannot be reached is left alone for a
//! while that grows; then a few mails go ahead as a probe. Mail that waits meanwhile has had no attempt.

use chrono::{DateTime, TimeDelta, Utc};

/// The rate is lowered at most once in this time, and raised by a step for each.
const STEP: TimeDelta = TimeDelta::seconds(10);
/// What a step raises the rate by.
const RAISE: f64 = 1.25;
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
pub struct Condition {
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
pub struct Lesson {
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

impl Lesson {
    /// The same where so many workers see what one has seen. A worker that is alone is believed: nobody gets through in its
    /// place.
    #[must_use]
    pub fn of_all(self, workers: i64) -> Self {
        let own_session_at = if workers > 1 { self.own_session_at } else { Some(self.at) };
        let workers = f64::from(i32::try_from(workers.max(1)).unwrap_or(i32::MAX));
        Self { attempted: self.attempted * workers, accepted: self.accepted * workers, own_session_at, ..self }
    }
}

impl Condition {
    /// What is known after this lesson.
    #[must_use]
    pub fn after(self, lesson: &Lesson) -> Self {
        let block = self.block_after(lesson);
        let is_unblocked = self.block.is_some() && block.is_none();
        let unblocked_at = if is_unblocked { Some(lesson.at) } else { self.unblocked_at };
        Self { learned: self.learned_after(lesson), block, unblocked_at }
    }

    /// Whether it may well be the worker that has no way out: others got through lately, and it has not since.
    fn doubts(self, lesson: &Lesson) -> bool {
        self.unblocked_at.is_some_and(|unblocked| {
            lesson.at < unblocked + DOUBT && lesson.own_session_at.is_none_or(|own| own < unblocked)
        })
    }

    fn learned_after(self, lesson: &Lesson) -> Option<Learned> {
        let Some(learned) = self.learned else { return lesson.slow_down.then(|| Learned::first(lesson)) };
        if lesson.slow_down {
            return Some(learned.lowered(lesson.at));
        }
        if lesson.success { learned.raised(lesson.at) } else { Some(learned) }
    }

    fn block_after(self, lesson: &Lesson) -> Option<Block> {
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
    fn first(lesson: &Lesson) -> Self {
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
        let steps = (at - since).num_seconds() / STEP.num_seconds();
        let Ok(steps @ 1..) = i32::try_from(steps) else { return Some(self) };
        let rate = self.rate * RAISE.powi(steps);
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

    fn lesson(seconds: i64) -> Lesson {
        Lesson {
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

    fn complaint(seconds: i64) -> Lesson {
        Lesson { slow_down: true, reached_at: Some(at(seconds)), ..lesson(seconds) }
    }

    fn success(seconds: i64) -> Lesson {
        let now = Some(at(seconds));
        Lesson { success: true, reached_at: now, own_session_at: now, ..lesson(seconds) }
    }

    fn failure(seconds: i64) -> Lesson {
        Lesson { unreachable: true, ..lesson(seconds) }
    }

    fn rate_after(lessons: &[Lesson]) -> Option<f64> {
        lessons.iter().fold(Condition::default(), Condition::after).learned.map(|l| l.rate)
    }

    #[test]
    fn the_first_complaint_halves_what_was_seen() {
        for (attempted, accepted, rate) in
            [(40.0, 38.0, 20.0), (1_000.0, 100.0, 100.0), (1_000.0, 0.0, 1.0), (0.1, 0.1, 1.0)]
        {
            assert_eq!(rate_after(&[Lesson { attempted, accepted, ..complaint(0) }]), Some(rate));
        }
    }

    #[test]
    fn further_complaints_halve_at_most_every_ten_seconds_down_to_one_a_minute() {
        assert_eq!(rate_after(&[complaint(0), complaint(9)]), Some(1.0));
        assert_eq!(rate_after(&[complaint(0), complaint(10), complaint(11)]), Some(0.5));
        let many: Vec<Lesson> = (0..100).map(|n| complaint(n * 10)).collect();
        assert_eq!(rate_after(&many), Some(FLOOR));
    }

    #[test]
    fn success_raises_the_rate_until_the_limit_is_forgotten() {
        let first = Lesson { attempted: 40.0, accepted: 40.0, ..complaint(0) };
        assert_eq!(rate_after(&[first, success(9)]), Some(20.0));
        assert_eq!(rate_after(&[first, success(10), success(19)]), Some(25.0));
        assert_eq!(rate_after(&[first, success(10), complaint(11)]), Some(12.5));
        assert_eq!(rate_after(&[first, success(10), success(20), success(30)]), Some(20.0 * RAISE.powi(3)));
        assert_eq!(rate_after(&[first, success(10), success(20), success(30), success(40)]), None);
        assert_eq!(rate_after(&[first, success(3_600)]), None, "what was learned long ago");
    }

    #[test]
    fn a_destination_that_cannot_be_reached_is_left_alone_for_longer_each_time() {
        let mut known = Condition::default().after(&failure(0));
        let mut waits = Vec::new();
        for _ in 0..7 {
            let block = known.block.unwrap();
            waits.push((block.open_at - at(0)).num_seconds());
            assert_eq!(known.after(&Lesson { at: block.open_at - TimeDelta::seconds(1), ..failure(0) }), known);
            known = known.after(&Lesson { at: block.open_at, ..failure(0) });
        }
        assert_eq!(waits, [30, 90, 210, 450, 750, 1_050, 1_350]);
        assert_eq!(known.after(&success(2_000)).block, None);
    }

    #[test]
    fn a_worker_that_does_not_get_through_where_others_do_is_not_believed_for_a_while() {
        let known = Condition::default().after(&failure(0)).after(&success(10));
        assert_eq!(known.after(&failure(11)).block, None);
        assert_eq!(known.after(&Lesson { own_session_at: Some(at(9)), ..failure(309) }).block, None);
        assert!(
            known.after(&Lesson { own_session_at: Some(at(10)), ..failure(11) }).block.is_some(),
            "the one that did"
        );
        assert!(known.after(&failure(310)).block.is_some(), "later");
        let of_workers = |count| known.after(&failure(11).of_all(count)).block.is_some();
        assert_eq!([of_workers(1), of_workers(2)], [true, false], "unless it is alone");
    }

    #[test]
    fn a_session_elsewhere_keeps_a_failure_from_blocking_and_one_of_before_ends_no_block() {
        assert_eq!(Condition::default().after(&Lesson { reached_at: Some(at(0)), ..failure(1) }).block, None);
        let blocked = Condition::default().after(&failure(10));
        assert_eq!(blocked.after(&Lesson { reached_at: Some(at(9)), ..lesson(11) }), blocked);
        assert_eq!(blocked.after(&Lesson { reached_at: Some(at(11)), ..lesson(11) }).block, None);
    }

    proptest! {
        #[test]
        fn a_rate_stays_between_one_a_minute_and_its_ceiling(
            lessons in prop::collection::vec((0_i64..40, any::<bool>(), 0.0_f64..1e5, 0.0_f64..1.0), 1..200)
        ) {
            let (mut known, mut now) = (Condition::default(), 0);
            for (wait, complains, attempted, part) in lessons {
                now += wait;
                let seen = if complains { complaint(now) } else { success(now) };
                known = known.after(&Lesson { attempted, accepted: attempted * part, ..seen });
                if let Some(learned) = known.learned {
                    prop_assert!((FLOOR..=learned.ceiling).contains(&learned.rate), "{learned:?}");
                }
            }
        }
    }
}
