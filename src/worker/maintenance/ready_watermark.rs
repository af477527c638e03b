//! Raises the watermarks of lanes (`lanes.ready_at`) past the rows that have left them. A claim starts reading there;
//! with a watermark that is too low it reads dead rows, which an old snapshot can keep from being removed.
//!
//! A lane without due recipients becomes idle, so that no claim reads it. A lane in steady use does not: its next
//! message would lower the watermark again, and each change adds a version of a row that every commit and every claim
//! reads. Its watermark follows the clock instead, a few times a second. A lane that new messages bypass while it is
//! empty (direct handoff) becomes idle even in steady use, once it is empty.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use crate::db::Db;
use crate::db::lanes::{self, Raise};
use crate::worker::claim::claimer::LaneClaim;

/// How often the watermark of a lane in steady use is raised.
const RAISE_INTERVAL: Duration = Duration::from_millis(250);
/// How far the watermark stays behind the clock: messages are due when they are accepted, and visible only when they
/// are committed.
const CLOCK_LAG: TimeDelta = TimeDelta::milliseconds(200);
/// A lane is in steady use once recipients have been claimed from it for this long…
const STEADY_AFTER: Duration = Duration::from_millis(500);
/// …and until none was claimed from it for this long.
const IDLE_AFTER: Duration = Duration::from_secs(1);
/// Maximum number of lanes in steady use; others become idle whenever they are empty. Otherwise empty lanes would fill
/// the list of lanes that a claim reads.
const STEADY_LANES: usize = 32;

/// The lanes from which recipients were claimed recently.
#[derive(Debug, Default)]
pub(crate) struct ReadyWatermarks(HashMap<i64, LaneUse>);

#[derive(Debug)]
struct LaneUse {
    since: Instant,
    last: Instant,
    /// When its watermark was last raised.
    raised: Instant,
}

impl ReadyWatermarks {
    /// Records the results of a claim, and returns the watermarks to raise.
    pub(crate) fn due(
        &mut self,
        claims: impl IntoIterator<Item = LaneClaim>,
        now: DateTime<Utc>,
        at: Instant,
    ) -> Vec<Raise> {
        self.0.retain(|_, lane| at.duration_since(lane.last) < IDLE_AFTER);
        claims.into_iter().filter_map(|claim| self.raise(claim, now, at)).collect()
    }

    fn raise(&mut self, claim: LaneClaim, now: DateTime<Utc>, at: Instant) -> Option<Raise> {
        let idle = Raise { lane: claim.lane, most: None };
        let is_full = self.0.len() >= STEADY_LANES;
        let Some(lane) = self.0.get_mut(&claim.lane) else {
            if claim.has_claimed && !is_full {
                self.0.insert(claim.lane, LaneUse { since: at, last: at, raised: at });
            }
            return claim.is_below_quota.then_some(idle);
        };
        if claim.has_claimed {
            lane.last = at;
        }
        let is_due = at.duration_since(lane.raised) >= RAISE_INTERVAL;
        if lane.last.duration_since(lane.since) < STEADY_AFTER {
            (claim.is_below_quota || is_due).then_some(idle)
        } else {
            let follow = Raise { most: Some(now - CLOCK_LAG), ..idle };
            is_due.then_some(if claim.is_bypassed && claim.is_below_quota { idle } else { follow })
        }
    }

    /// Records the lanes whose watermarks were raised; the others are tried again with the next claim.
    pub(crate) fn note(&mut self, lanes: &[i64], at: Instant) {
        for lane in lanes {
            if let Some(lane) = self.0.get_mut(lane) {
                lane.raised = at;
            }
        }
    }
}

/// Raises these watermarks, except those of lanes to which a transaction is adding recipients. Returns the raised
/// lanes.
pub(crate) async fn raise(db: &Db, lanes: &[Raise]) -> Vec<i64> {
    if lanes.is_empty() {
        return Vec::new();
    }
    lanes::raise(db, lanes).await.unwrap_or_else(|error| {
        tracing::debug!(
            event = "watermarks_not_raised",
            %error,
            "failed to raise the watermarks of lanes; trying again with the next claim"
        );
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected change of a lane's watermark.
    #[derive(Debug, PartialEq)]
    enum Due {
        Nothing,
        Idle,
        /// Follows the clock, with this lag in milliseconds.
        Behind(i64),
    }

    use Due::{Behind, Idle, Nothing};

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn due(
        watermarks: &mut ReadyWatermarks,
        start: Instant,
        millis: u64,
        has_claimed: bool,
        is_below_quota: bool,
    ) -> Due {
        let at = start + Duration::from_millis(millis);
        let Some(raise) =
            watermarks.due([LaneClaim { lane: 1, has_claimed, is_below_quota, is_bypassed: false }], NOW, at).pop()
        else {
            return Nothing;
        };
        watermarks.note(&[1], at);
        raise.most.map_or(Idle, |most| Behind((NOW - most).num_milliseconds()))
    }

    #[test]
    fn empty_lane_becomes_idle() {
        let (mut watermarks, start) = (ReadyWatermarks::default(), Instant::now());
        assert_eq!(due(&mut watermarks, start, 0, false, true), Idle);
        assert_eq!(due(&mut watermarks, start, 10, true, false), Nothing, "it may have more");
        assert_eq!(due(&mut watermarks, start, 20, false, true), Idle);
        // Occasional use is not steady.
        assert_eq!(due(&mut watermarks, start, 5_000, true, true), Idle);
        assert_eq!(due(&mut watermarks, start, 10_000, true, true), Idle);
    }

    #[test]
    fn watermark_of_a_lane_in_use_follows_the_clock() {
        let (mut watermarks, start) = (ReadyWatermarks::default(), Instant::now());
        let raised: Vec<u64> =
            (0..=200).map(|n| n * 10).filter(|at| due(&mut watermarks, start, *at, true, false) != Nothing).collect();
        assert_eq!(raised, [250, 500, 750, 1_000, 1_250, 1_500, 1_750, 2_000]);
        // Empty for a moment.
        assert_eq!(due(&mut watermarks, start, 2_100, false, true), Nothing);
        assert_eq!(due(&mut watermarks, start, 2_300, false, true), Behind(200));
        assert_eq!(due(&mut watermarks, start, 3_000, false, true), Idle);
    }

    #[test]
    fn busy_bypassed_lane_becomes_idle_when_empty() {
        let (mut watermarks, start) = (ReadyWatermarks::default(), Instant::now());
        let mut raised = |millis, is_below_quota| {
            let claim = LaneClaim { lane: 1, has_claimed: true, is_below_quota, is_bypassed: true };
            let at = start + Duration::from_millis(millis);
            let due = watermarks.due([claim], NOW, at).pop();
            watermarks.note(&[1], at);
            due.map(|raise| raise.most)
        };
        raised(0, false);
        assert_eq!(raised(300, false), Some(None));
        assert_eq!(raised(600, false), Some(Some(NOW - CLOCK_LAG)), "it may have more");
        assert_eq!(raised(900, true), Some(None));
    }

    #[test]
    fn failed_raise_is_repeated_with_the_next_claim() {
        let (mut watermarks, start) = (ReadyWatermarks::default(), Instant::now());
        let claim = LaneClaim { lane: 1, has_claimed: true, is_below_quota: false, is_bypassed: false };
        let mut due = |millis| watermarks.due([claim], NOW, start + Duration::from_millis(millis)).len();
        assert_eq!([0, 250, 260, 270].map(&mut due), [0, 1, 1, 1]);
    }

    #[test]
    fn number_of_lanes_in_steady_use_is_limited() {
        let (mut watermarks, start) = (ReadyWatermarks::default(), Instant::now());
        let mut idle = 0;
        for millis in (0..=1_000).step_by(100) {
            let claims =
                (1..=100).map(|lane| LaneClaim { lane, has_claimed: true, is_below_quota: true, is_bypassed: false });
            let due = watermarks.due(claims, NOW, start + Duration::from_millis(millis));
            idle = due.iter().filter(|raise| raise.most.is_none()).count();
        }
        assert_eq!(idle, 100 - STEADY_LANES);
    }
}
