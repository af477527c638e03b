//! Raises the lower bounds of lanes (`lanes.ready_at`) past the rows that have left them: a claim begins there, and each
//! claim that begins too low wades through what is gone, all of it while somebody holds an old snapshot.
//!
//! A lane that has nothing is to rest, so that no claim looks at it. Not so a lane in steady use: its next mail would lower
//! the bound again, and each change is one more version of a row that every commit and every claim looks up. Its bound follows
//! a moment behind the clock instead, a few times a second; where new mail would pass it by once it rests, it rests as soon as
//! it has nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use crate::db::lanes::{self, Raise};
use crate::worker::Parts;

/// How often the bound of a lane in steady use is raised.
const EVERY: Duration = Duration::from_millis(250);
/// How far it stays behind the clock: mail is due when it was accepted, and seen when that was committed.
const BEHIND: TimeDelta = TimeDelta::milliseconds(200);
/// A lane is in steady use once it has been giving something for so long…
const STEADY: Duration = Duration::from_millis(500);
/// …and until it has given nothing for so long.
const REST: Duration = Duration::from_secs(1);
/// Lanes in steady use at one time; the others rest whenever they have nothing. Those that wait empty would else take the
/// places of those that have something.
const MOST: usize = 32;

/// Which lanes have been giving something of late.
#[derive(Debug, Default)]
pub(crate) struct ReadyWatermarks(HashMap<i64, Use>);

#[derive(Debug)]
struct Use {
    since: Instant,
    last: Instant,
    /// When its bound was last raised.
    raised: Instant,
}

/// What came of a claim from one lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    /// `lanes.id`.
    pub lane: i64,
    /// Whether it gave something.
    pub gave: bool,
    /// Whether that was less than there was room for.
    pub had_less: bool,
    /// Whether new mail passes it by while it rests ([`crate::worker::handoff::direct`]).
    pub is_passed: bool,
}

impl ReadyWatermarks {
    /// Takes note of what was claimed, and answers whose bounds are to be raised.
    pub(crate) fn due(
        &mut self,
        claims: impl IntoIterator<Item = Claim>,
        now: DateTime<Utc>,
        at: Instant,
    ) -> Vec<Raise> {
        self.0.retain(|_, lane| at.duration_since(lane.last) < REST);
        claims.into_iter().filter_map(|claim| self.raise(claim, now, at)).collect()
    }

    fn raise(&mut self, claim: Claim, now: DateTime<Utc>, at: Instant) -> Option<Raise> {
        let rest = Raise { lane: claim.lane, most: None };
        let is_full = self.0.len() >= MOST;
        let Some(lane) = self.0.get_mut(&claim.lane) else {
            if claim.gave && !is_full {
                self.0.insert(claim.lane, Use { since: at, last: at, raised: at });
            }
            return claim.had_less.then_some(rest);
        };
        if claim.gave {
            lane.last = at;
        }
        let is_due = at.duration_since(lane.raised) >= EVERY;
        if lane.last.duration_since(lane.since) < STEADY {
            (claim.had_less || is_due).then_some(rest)
        } else {
            let follow = Raise { most: Some(now - BEHIND), ..rest };
            is_due.then_some(if claim.is_passed && claim.had_less { rest } else { follow })
        }
    }

    /// These were looked at; the others are tried again with the next claim.
    pub(crate) fn note(&mut self, lanes: &[i64], at: Instant) {
        for lane in lanes {
            if let Some(lane) = self.0.get_mut(lane) {
                lane.raised = at;
            }
        }
    }
}

/// Raises these bounds. Answers the lanes that nobody was adding to.
pub(crate) async fn raise(parts: &Parts, lanes: &[Raise]) -> Vec<i64> {
    if lanes.is_empty() {
        return Vec::new();
    }
    lanes::raise(&parts.db, lanes).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "could not raise the bounds of lanes; they are asked again");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a claim leads to.
    #[derive(Debug, PartialEq)]
    enum Due {
        Nothing,
        Rest,
        /// Milliseconds behind the clock.
        Behind(i64),
    }

    use Due::{Behind, Nothing, Rest};

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn due(bounds: &mut ReadyWatermarks, start: Instant, millis: u64, gave: bool, had_less: bool) -> Due {
        let at = start + Duration::from_millis(millis);
        let Some(raise) = bounds.due([Claim { lane: 1, gave, had_less, is_passed: false }], NOW, at).pop() else {
            return Nothing;
        };
        bounds.note(&[1], at);
        raise.most.map_or(Rest, |most| Behind((NOW - most).num_milliseconds()))
    }

    #[test]
    fn a_lane_rests_once_it_has_nothing() {
        let (mut bounds, start) = (ReadyWatermarks::default(), Instant::now());
        assert_eq!(due(&mut bounds, start, 0, false, true), Rest);
        assert_eq!(due(&mut bounds, start, 10, true, false), Nothing, "it may have more");
        assert_eq!(due(&mut bounds, start, 20, false, true), Rest);
        // Now and then is no steady use.
        assert_eq!(due(&mut bounds, start, 5_000, true, true), Rest);
        assert_eq!(due(&mut bounds, start, 10_000, true, true), Rest);
    }

    #[test]
    fn the_bound_of_a_lane_in_use_follows_the_clock_a_few_times_a_second_until_it_is_left() {
        let (mut bounds, start) = (ReadyWatermarks::default(), Instant::now());
        let raised: Vec<u64> =
            (0..=200).map(|n| n * 10).filter(|at| due(&mut bounds, start, *at, true, false) != Nothing).collect();
        assert_eq!(raised, [250, 500, 750, 1_000, 1_250, 1_500, 1_750, 2_000]);
        // Empty for a moment.
        assert_eq!(due(&mut bounds, start, 2_100, false, true), Nothing);
        assert_eq!(due(&mut bounds, start, 2_300, false, true), Behind(200));
        assert_eq!(due(&mut bounds, start, 3_000, false, true), Rest);
    }

    #[test]
    fn a_lane_that_new_mail_passes_by_rests_once_it_has_nothing_however_busy_it_was() {
        let (mut bounds, start) = (ReadyWatermarks::default(), Instant::now());
        let mut raised = |millis, had_less| {
            let claim = Claim { lane: 1, gave: true, had_less, is_passed: true };
            let at = start + Duration::from_millis(millis);
            let due = bounds.due([claim], NOW, at).pop();
            bounds.note(&[1], at);
            due.map(|raise| raise.most)
        };
        raised(0, false);
        assert_eq!(raised(300, false), Some(None));
        assert_eq!(raised(600, false), Some(Some(NOW - BEHIND)), "it may have more");
        assert_eq!(raised(900, true), Some(None));
    }

    #[test]
    fn what_could_not_be_raised_is_tried_at_the_next_claim() {
        let (mut bounds, start) = (ReadyWatermarks::default(), Instant::now());
        let claim = Claim { lane: 1, gave: true, had_less: false, is_passed: false };
        let mut due = |millis| bounds.due([claim], NOW, start + Duration::from_millis(millis)).len();
        assert_eq!([0, 250, 260, 270].map(&mut due), [0, 1, 1, 1]);
    }

    #[test]
    fn of_many_lanes_a_few_are_in_steady_use_and_the_others_rest() {
        let (mut bounds, start) = (ReadyWatermarks::default(), Instant::now());
        let mut resting = 0;
        for millis in (0..=1_000).step_by(100) {
            let claims = (1..=100).map(|lane| Claim { lane, gave: true, had_less: true, is_passed: false });
            let due = bounds.due(claims, NOW, start + Duration::from_millis(millis));
            resting = due.iter().filter(|raise| raise.most.is_none()).count();
        }
        assert_eq!(resting, 100 - MOST);
    }
}
