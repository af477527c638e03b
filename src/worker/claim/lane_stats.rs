//! How each lane has been going of late, as this worker saw it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

/// Seconds looked back.
const SPAN: i64 = 10;
/// What has not been heard of for so many seconds is forgotten when there is much to remember.
const FORGET: i64 = 600;
/// Lanes remembered before the old ones go.
const LANES: usize = 4_096;
/// How long a lane that only this worker cannot reach is left to the others.
const LEFT: TimeDelta = TimeDelta::seconds(60);
/// A failure beside a session that was had so many seconds ago is a connection's and not the destination's.
const NEAR: i64 = 5;

/// What the lanes did.
#[derive(Debug, Default)]
pub(crate) struct LaneStats(Mutex<Lanes>);

#[derive(Debug, Default)]
struct Lanes {
    by_id: HashMap<i64, Past>,
    /// How many may be remembered before the old ones are looked for again.
    sweep_at: usize,
    /// Those that are left to other workers, and until when.
    left: HashMap<i64, DateTime<Utc>>,
}

/// What a few mails of a lane came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// Mails tried.
    pub attempted: u32,
    /// Mails taken.
    pub accepted: u32,
    /// Mails for which a session was had.
    pub sessions: u32,
    /// Whether any found no server.
    pub unreachable: bool,
}

#[derive(Debug, Default)]
struct Past {
    /// Second, tried, taken; the newest last.
    seconds: std::collections::VecDeque<(i64, u32, u32)>,
    last_session: Option<DateTime<Utc>>,
    /// Sessions had since the last failure.
    trust: usize,
    /// When it was last heard of.
    at: i64,
}

/// A lane's recent past.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Recent {
    /// Mails tried a second.
    pub attempted: f64,
    /// Mails taken a second.
    pub accepted: f64,
    /// Sessions had since the last failure.
    pub trust: usize,
    /// The last session, if it is only seconds ago.
    pub session_at: Option<DateTime<Utc>>,
    /// The last session, however long ago.
    pub last_session: Option<DateTime<Utc>>,
}

impl LaneStats {
    /// Adds what was seen, and answers the lane's recent past.
    pub(crate) fn note(&self, lane: i64, seen: Seen, now: DateTime<Utc>) -> Recent {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let second = now.timestamp();
        if lanes.by_id.len() >= lanes.sweep_at.max(LANES) {
            lanes.by_id.retain(|_, past| second - past.at < FORGET);
            // Twice as many as were left: with many lanes in use, not each new one costs a look at all.
            lanes.sweep_at = 2 * lanes.by_id.len();
        }
        let past = lanes.by_id.entry(lane).or_default();
        past.add(seen, now);
        past.recent(second)
    }

    /// Leaves a lane to other workers for a while: they reach its destination, and this one does not.
    pub(crate) fn leave(&self, lane: i64, now: DateTime<Utc>) {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.left.insert(lane, now + LEFT);
    }

    /// The lanes that are left to other workers now.
    pub(crate) fn left(&self, now: DateTime<Utc>) -> Vec<i64> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.left.retain(|_, until| now < *until);
        lanes.left.keys().copied().collect()
    }

    /// The recent past of all these lanes.
    pub(crate) fn of(&self, lanes: impl Iterator<Item = i64>, now: DateTime<Utc>) -> HashMap<i64, Recent> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.filter_map(|lane| Some((lane, known.by_id.get(&lane)?.recent(now.timestamp())))).collect()
    }
}

impl Past {
    fn add(&mut self, seen: Seen, now: DateTime<Utc>) {
        let second = now.timestamp();
        self.at = second;
        match self.seconds.back_mut() {
            Some((at, attempted, accepted)) if *at == second => {
                *attempted += seen.attempted;
                *accepted += seen.accepted;
            }
            _ => self.seconds.push_back((second, seen.attempted, seen.accepted)),
        }
        while self.seconds.front().is_some_and(|(at, ..)| *at <= second - SPAN) {
            self.seconds.pop_front();
        }
        if seen.sessions > 0 {
            self.last_session = Some(now);
            self.trust += seen.sessions as usize;
        } else if seen.unreachable {
            self.trust = 0;
        }
    }

    fn recent(&self, second: i64) -> Recent {
        let (mut attempted, mut accepted, mut first) = (0, 0, second);
        for (at, tried, taken) in self.seconds.iter().filter(|(at, ..)| *at > second - SPAN) {
            attempted += tried;
            accepted += taken;
            first = first.min(*at);
        }
        // What has just begun is not slow because there was nothing before.
        let seconds = f64::from(i32::try_from(second - first + 1).unwrap_or(i32::MAX));
        Recent {
            attempted: f64::from(attempted) / seconds,
            accepted: f64::from(accepted) / seconds,
            trust: self.trust,
            session_at: self.last_session.filter(|at| second - at.timestamp() < NEAR),
            last_session: self.last_session,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn ten_seconds_are_looked_back_and_no_further_than_there_was_something() {
        let (pace, ten) = (LaneStats::default(), Seen { attempted: 10, accepted: 5, sessions: 10, unreachable: false });
        let recent = pace.note(1, ten, at(100));
        assert_eq!((recent.attempted.to_string(), recent.accepted.to_string()), ("10".into(), "5".into()));
        let recent = pace.note(1, ten, at(104));
        assert_eq!((recent.attempted.to_string(), recent.accepted.to_string()), ("4".into(), "2".into()));
        let later = |seconds| pace.of([1].into_iter(), at(seconds))[&1].attempted.to_string();
        assert_eq!([107, 109, 113, 114].map(later), ["2.5", "2", "1", "0"]);
        assert!(pace.of([2].into_iter(), at(105)).is_empty());
    }

    #[test]
    fn the_old_ones_go_when_there_are_twice_as_many_as_were_left() {
        let (pace, one) = (LaneStats::default(), Seen { attempted: 1, ..Seen::default() });
        let len = || pace.0.lock().unwrap().by_id.len();
        let mut noted = 0_i64;
        let mut note = |count: usize, seconds| {
            for lane in (noted..).take(count) {
                pace.note(lane, one, at(seconds));
                noted += 1;
            }
            len()
        };
        assert_eq!(note(LANES, 0), LANES);
        assert_eq!(note(1, 1), LANES + 1, "all are in use");
        assert_eq!(note(LANES - 1, FORGET), 2 * LANES, "not looked for again before there are twice as many");
        assert_eq!(note(1, FORGET), LANES + 1, "those of the first second have gone");
    }

    #[test]
    fn a_lane_is_left_to_others_for_a_minute() {
        let pace = LaneStats::default();
        pace.leave(1, at(0));
        assert_eq!([0, 59, 60].map(|seconds| pace.left(at(seconds))), [vec![1], vec![1], vec![]]);
    }

    #[test]
    fn trust_grows_with_sessions_and_goes_with_a_failure() {
        let pace = LaneStats::default();
        let session = Seen { attempted: 3, sessions: 3, ..Seen::default() };
        assert_eq!(pace.note(1, session, at(0)).trust, 3);
        assert_eq!(pace.note(1, session, at(1)).trust, 6);
        let failure = Seen { attempted: 1, unreachable: true, ..Seen::default() };
        let recent = pace.note(1, failure, at(2));
        assert_eq!((recent.trust, recent.session_at), (0, Some(at(1))));
        assert_eq!(pace.note(1, failure, at(6)).session_at, None);
    }
}
