//! Recent statistics of each lane, from the attempts of this worker.

use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::{Mutex, MutexGuard};

/// Seconds over which rates are averaged.
const WINDOW: i64 = 10;
/// Seconds after which an unused lane is removed, once many lanes are tracked.
const EXPIRY: i64 = 600;
/// With fewer tracked lanes than this, unused ones are not removed.
const MIN_SWEEP: usize = 4_096;
/// How long a lane that only this worker cannot reach is left to other workers.
const AVOIDANCE: TimeDelta = TimeDelta::seconds(60);
/// A failure within this many seconds after a session is attributed to one connection and not to the destination.
const RECENT_SESSION: i64 = 5;

/// Statistics of the lanes.
#[derive(Debug, Default)]
pub(crate) struct LaneStats(Mutex<Lanes>);

#[derive(Debug, Default)]
struct Lanes {
    by_id: HashMap<i64, History>,
    /// Unused lanes are removed again once this many are tracked.
    sweep_at: usize,
    /// Lanes left to other workers, and until when.
    avoided: HashMap<i64, DateTime<Utc>>,
}

/// Outcomes of some messages of a lane.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    /// Messages attempted.
    pub attempted: u32,
    /// Messages accepted.
    pub accepted: u32,
    /// Messages for which a session was established.
    pub sessions: u32,
    /// Whether any attempt found the destination unreachable.
    pub unreachable: bool,
}

/// Counts of one second.
#[derive(Debug)]
struct Second {
    at: i64,
    attempted: u32,
    accepted: u32,
}

#[derive(Debug, Default)]
struct History {
    /// The newest last.
    seconds: VecDeque<Second>,
    last_session: Option<DateTime<Utc>>,
    sessions_since_failure: usize,
    /// The second of the latest sample.
    updated_at: i64,
}

/// Recent statistics of a lane.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RecentStats {
    /// Messages attempted per second.
    pub attempted: f64,
    /// Messages accepted per second.
    pub accepted: f64,
    /// Sessions since the last failure.
    pub sessions_since_failure: usize,
    /// The last session, if it was less than [`RECENT_SESSION`] seconds ago.
    pub recent_session: Option<DateTime<Utc>>,
    /// The last session, regardless of its age.
    pub last_session: Option<DateTime<Utc>>,
}

impl LaneStats {
    /// Adds a sample, and returns the lane's recent statistics.
    pub(crate) fn add(&self, lane: i64, sample: Sample, now: DateTime<Utc>) -> RecentStats {
        let mut lanes = self.lanes();
        let second = now.timestamp();
        if lanes.by_id.len() >= lanes.sweep_at.max(MIN_SWEEP) {
            lanes.by_id.retain(|_, history| second - history.updated_at < EXPIRY);
            // Twice the number of lanes left, so that with many lanes in use not every new one causes a sweep.
            lanes.sweep_at = 2 * lanes.by_id.len();
        }
        let history = lanes.by_id.entry(lane).or_default();
        history.add(sample, now);
        history.recent(second)
    }

    /// Leaves a lane to other workers for a while, because they reach its destination and this worker does not.
    pub(crate) fn avoid(&self, lane: i64, now: DateTime<Utc>) {
        self.lanes().avoided.insert(lane, now + AVOIDANCE);
    }

    /// Returns the lanes that are left to other workers now.
    pub(crate) fn avoided(&self, now: DateTime<Utc>) -> Vec<i64> {
        let mut lanes = self.lanes();
        lanes.avoided.retain(|_, until| now < *until);
        lanes.avoided.keys().copied().collect()
    }

    /// Returns the recent statistics of these lanes. Lanes without statistics are left out.
    pub(crate) fn recent(&self, lanes: impl Iterator<Item = i64>, now: DateTime<Utc>) -> HashMap<i64, RecentStats> {
        let tracked = self.lanes();
        lanes.filter_map(|lane| Some((lane, tracked.by_id.get(&lane)?.recent(now.timestamp())))).collect()
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.0.lock()
    }
}

impl History {
    fn add(&mut self, sample: Sample, now: DateTime<Utc>) {
        let second = now.timestamp();
        self.updated_at = second;
        match self.seconds.back_mut() {
            Some(last) if last.at == second => {
                last.attempted += sample.attempted;
                last.accepted += sample.accepted;
            }
            _ => self.seconds.push_back(Second { at: second, attempted: sample.attempted, accepted: sample.accepted }),
        }
        while self.seconds.front().is_some_and(|first| first.at <= second - WINDOW) {
            self.seconds.pop_front();
        }
        if sample.sessions > 0 {
            self.last_session = Some(now);
            self.sessions_since_failure += sample.sessions as usize;
        } else if sample.unreachable {
            self.sessions_since_failure = 0;
        }
    }

    fn recent(&self, second: i64) -> RecentStats {
        let (mut attempted, mut accepted, mut first) = (0, 0, second);
        for past in self.seconds.iter().filter(|past| past.at > second - WINDOW) {
            attempted += past.attempted;
            accepted += past.accepted;
            first = first.min(past.at);
        }
        // The rate of a lane that has just started is not averaged over the time before its first attempt.
        let seconds = f64::from(i32::try_from(second - first + 1).unwrap_or(i32::MAX));
        RecentStats {
            attempted: f64::from(attempted) / seconds,
            accepted: f64::from(accepted) / seconds,
            sessions_since_failure: self.sessions_since_failure,
            recent_session: self.last_session.filter(|at| second - at.timestamp() < RECENT_SESSION),
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
    fn rates_average_the_last_ten_seconds_or_since_the_start() {
        let (stats, ten) =
            (LaneStats::default(), Sample { attempted: 10, accepted: 5, sessions: 10, unreachable: false });
        let recent = stats.add(1, ten, at(100));
        assert_eq!((recent.attempted.to_string(), recent.accepted.to_string()), ("10".into(), "5".into()));
        let recent = stats.add(1, ten, at(104));
        assert_eq!((recent.attempted.to_string(), recent.accepted.to_string()), ("4".into(), "2".into()));
        let later = |seconds| stats.recent([1].into_iter(), at(seconds))[&1].attempted.to_string();
        assert_eq!([107, 109, 113, 114].map(later), ["2.5", "2", "1", "0"]);
        assert!(stats.recent([2].into_iter(), at(105)).is_empty());
    }

    #[test]
    fn unused_lanes_are_removed_when_twice_as_many_exist() {
        let (stats, one) = (LaneStats::default(), Sample { attempted: 1, ..Sample::default() });
        let len = || stats.0.lock().by_id.len();
        let mut noted = 0_i64;
        let mut note = |count: usize, seconds| {
            for lane in (noted..).take(count) {
                stats.add(lane, one, at(seconds));
                noted += 1;
            }
            len()
        };
        assert_eq!(note(MIN_SWEEP, 0), MIN_SWEEP);
        assert_eq!(note(1, 1), MIN_SWEEP + 1, "all are in use");
        assert_eq!(note(MIN_SWEEP - 1, EXPIRY), 2 * MIN_SWEEP, "no sweep before there are twice as many");
        assert_eq!(note(1, EXPIRY), MIN_SWEEP + 1, "those of the first second are removed");
    }

    #[test]
    fn lane_is_left_to_other_workers_for_a_minute() {
        let stats = LaneStats::default();
        stats.avoid(1, at(0));
        assert_eq!([0, 59, 60].map(|seconds| stats.avoided(at(seconds))), [vec![1], vec![1], vec![]]);
    }

    #[test]
    fn sessions_count_until_the_next_failure() {
        let stats = LaneStats::default();
        let session = Sample { attempted: 3, sessions: 3, ..Sample::default() };
        assert_eq!(stats.add(1, session, at(0)).sessions_since_failure, 3);
        assert_eq!(stats.add(1, session, at(1)).sessions_since_failure, 6);
        let failure = Sample { attempted: 1, unreachable: true, ..Sample::default() };
        let recent = stats.add(1, failure, at(2));
        assert_eq!((recent.sessions_since_failure, recent.recent_session), (0, Some(at(1))));
        assert_eq!(stats.add(1, failure, at(6)).recent_session, None);
    }
}
