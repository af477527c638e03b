//! Learns from outcomes: which destinations ask for less, and which cannot be reached. Before what they concern is let
//! go of, so that the next claim knows it already.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Notify;
use uuid::Uuid;

use super::throttle_attribution::ThrottleAttribution;
use crate::clock::SharedClock;
use crate::db::conditions::{self, Change, Failure, Update};
use crate::db::lanes::ReadyLane;
use crate::db::queue::{Claimed, Finished};
use crate::db::splits::{self, Sharer, Splits};
use crate::db::{Db, DbError};
use crate::domain::condition::Observation;
use crate::domain::id::LaneId;
use crate::domain::outcome::{Outcome, Peer, Sign, Stage, Verdict};
use crate::domain::routing::RouteName;
use crate::domain::unreachable::Cause;
use crate::smtp;
use crate::worker::claim::lane_stats::{LaneStats, Seen};
use crate::worker::lease::in_flight::InFlight;

/// A lane's lessons come at most this often.
const EVERY: TimeDelta = TimeDelta::seconds(1);

/// What outcomes teach.
#[derive(Debug)]
pub(crate) struct AdaptiveLimits {
    pub db: Db,
    pub clock: SharedClock,
    pub in_flight: InFlight,
    pub sender: Arc<smtp::Sender>,
    pub lane_stats: Arc<LaneStats>,
    pub splits: Arc<Splits>,
    /// Told when a lane has been opened.
    pub wake: Arc<Notify>,
    pub known: Mutex<Known>,
}

/// What lanes were last taught.
#[derive(Debug, Default)]
pub(crate) struct Known {
    taught: HashMap<i64, (DateTime<Utc>, Kind)>,
    /// Lanes that this worker has blocked or slowed down, and not seen well since.
    ill: HashSet<i64>,
    complaints: ThrottleAttribution,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Slow,
    Unreachable,
}

impl Kind {
    fn of(lesson: &Observation) -> Self {
        match (lesson.slow_down, lesson.unreachable) {
            (true, _) => Self::Slow,
            (false, true) => Self::Unreachable,
            (false, false) => Self::Good,
        }
    }
}

/// What a batch says of one lane.
#[derive(Debug, Default)]
struct Batch<'a> {
    mails: HashMap<Uuid, Seen>,
    slow_down: Option<&'a Outcome>,
    unreachable: Option<&'a Outcome>,
    reached_at: Option<DateTime<Utc>>,
}

impl AdaptiveLimits {
    /// Learns from outcomes that have been recorded. What the database does not take is learned another time.
    pub(crate) async fn learn(&self, batch: &[Finished]) {
        let now = self.clock.now();
        let (mut by_lane, refused) = self.sort(batch);
        let split = match self.split(&refused, &mut by_lane, now).await {
            Ok(split) => split,
            Err(error) => {
                tracing::debug!(%error, "could not give a domain a lane of its own");
                Vec::new()
            }
        };
        let has_split = !split.is_empty();
        let mut taught: Vec<Update> =
            by_lane.into_iter().filter_map(|(lane, batch)| self.lesson(lane, &batch, now)).collect();
        taught.extend(split);
        if taught.is_empty() {
            return;
        }
        match conditions::learn(&self.db, &taught).await {
            Ok(changes) => self.take_note(&taught, &changes),
            Err(error) => tracing::debug!(%error, "could not record what was learned of lanes"),
        }
        // After the lesson: a lane of which nothing is known is none of a domain's own.
        if has_split {
            self.splits.forget().await;
        }
    }

    /// What each lane has shown, and the recipients whose domain a relay may have complained of: that would not be the
    /// relay's lane.
    fn sort<'a>(&self, batch: &'a [Finished]) -> (HashMap<i64, Batch<'a>>, Vec<&'a Finished>) {
        let mut by_lane = HashMap::<i64, Batch>::new();
        let mut refused = Vec::new();
        for finished in batch {
            let Some(outcome) = finished.outcome.as_ref().filter(|outcome| !outcome.is_ours()) else { continue };
            let claimed = &finished.claimed;
            let known = self.in_flight.lane(claimed.lane_id);
            // The configuration may have changed since the mail was put there: who was spoken to is not the lane's destination
            // then, and what it complains of is not that one's. That mail goes at all is to be seen all the same.
            let is_foreign = known.as_ref().is_some_and(|lane| !self.is_of(lane, &outcome.peer));
            let lane = by_lane.entry(claimed.lane_id).or_default();
            let mail = lane.mails.entry(claimed.message_id).or_default();
            mail.attempted = 1;
            mail.accepted |= u32::from(outcome.verdict == Verdict::Accepted);
            let sign = outcome.sign().filter(|_| !is_foreign);
            if outcome.stage > Stage::Session || sign == Some(Sign::SlowDown) {
                mail.sessions = 1;
                let ended = finished.started_at + TimeDelta::from_std(outcome.duration).unwrap_or_default();
                lane.reached_at = lane.reached_at.max(Some(ended));
            }
            match sign {
                // 421 is about the connection, whoever's turn it was.
                Some(Sign::SlowDown)
                    if outcome.stage == Stage::Rcpt
                        && outcome.reply.code != Some(421)
                        && known.is_some_and(|lane| lane.is_shared()) =>
                {
                    refused.push(finished);
                }
                Some(Sign::SlowDown) => lane.slow_down = Some(outcome),
                Some(Sign::Unreachable) => lane.unreachable = Some(outcome),
                None => {}
            }
        }
        (by_lane, refused)
    }

    /// Whether a lane's mail goes to this server.
    fn is_of(&self, lane: &ReadyLane, peer: &Peer) -> bool {
        RouteName::parse(&lane.route).is_some_and(|route| self.sender.leads_to(&route, peer))
    }

    /// What there is to be learned of a lane, unless it was said a moment ago.
    fn lesson(&self, lane: i64, batch: &Batch, now: DateTime<Utc>) -> Option<Update> {
        let sum = |of: fn(&Seen) -> u32| batch.mails.values().map(of).sum();
        let seen = Seen {
            attempted: sum(|mail| mail.attempted),
            accepted: sum(|mail| mail.accepted),
            sessions: sum(|mail| mail.sessions),
            unreachable: batch.unreachable.is_some(),
        };
        let recent = self.lane_stats.note(lane, seen, now);
        let kind = match (batch.slow_down, batch.unreachable) {
            (Some(_), _) => Kind::Slow,
            (None, Some(_)) if recent.session_at.is_none() => Kind::Unreachable,
            _ if seen.sessions > 0 && self.is_ill(lane) => Kind::Good,
            _ => return None,
        };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.taught.get(&lane).is_some_and(|(at, said)| *said == kind && now - *at < EVERY && now >= *at) {
            return None;
        }
        let reply = batch.slow_down.or(batch.unreachable).map(told);
        let lesson = Observation {
            at: now,
            attempted: recent.attempted,
            accepted: recent.accepted,
            slow_down: kind == Kind::Slow,
            success: seen.accepted > 0,
            unreachable: kind == Kind::Unreachable,
            reached_at: batch.reached_at,
            own_session_at: recent.last_session,
        };
        let failure = batch
            .unreachable
            .filter(|_| batch.slow_down.is_none())
            .map(|outcome| Failure { cause: Cause::new(outcome), host: outcome.peer.mx.clone() });
        Some(Update { lane, lesson, reply, failure })
    }

    /// Whether success would change anything for a lane.
    fn is_ill(&self, lane: i64) -> bool {
        let was_ill =
            self.in_flight.lane(lane).is_some_and(|lane| lane.blocked_since.is_some() || lane.learned_rate.is_some());
        was_ill || self.known.lock().unwrap_or_else(PoisonError::into_inner).ill.contains(&lane)
    }

    /// Gives the domains that a relay complained of lanes of their own, which are slowed down instead of the relay's. Where
    /// they are many it is the relay that asks for less.
    async fn split<'a>(
        &self,
        refused: &[&'a Finished],
        by_lane: &mut HashMap<i64, Batch<'a>>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Update>, DbError> {
        if refused.is_empty() {
            return Ok(Vec::new());
        }
        let sharers = splits::domains(&self.db, refused.iter().map(|finished| &finished.claimed)).await?;
        let (apart, relays) = self.known.lock().unwrap_or_else(PoisonError::into_inner).complaints.sort(sharers, now);
        let reply_of = |is_meant: &dyn Fn(&Claimed) -> bool| {
            refused.iter().find(|finished| is_meant(&finished.claimed)).and_then(|finished| finished.outcome.as_ref())
        };
        for lane in relays {
            let reply = reply_of(&|claimed| claimed.lane_id == lane);
            by_lane.entry(lane).or_default().slow_down = reply;
        }
        if apart.is_empty() {
            return Ok(Vec::new());
        }
        let lesson = Observation {
            at: now,
            attempted: 0.0,
            accepted: 0.0,
            slow_down: true,
            success: false,
            unreachable: false,
            reached_at: Some(now),
            own_session_at: Some(now),
        };
        let lanes = splits::split(&self.db, &apart).await?;
        let taught = lanes.into_iter().map(|(lane, domain)| {
            let meant = |sharer: &&Sharer| sharer.domain == domain;
            let reply = apart.iter().find(meant).and_then(|one| reply_of(&|row| row.recipient_id == one.recipient));
            Update { lane, lesson, reply: reply.map(told), failure: None }
        });
        Ok(taught.collect())
    }

    /// Only now is it known to the next claim: who saw the same meanwhile has taught it as well.
    fn take_note(&self, taught: &[Update], changes: &[Change]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let taught_of = |lane: i64| taught.iter().find(|taught| taught.lane == lane);
        for Update { lane, lesson, .. } in taught {
            known.taught.retain(|_, (at, _)| lesson.at - *at < EVERY);
            known.taught.insert(*lane, (lesson.at, Kind::of(lesson)));
        }
        for Change { lane, before, after, lesson } in changes {
            // Others get through: it is left to them for a while.
            if lesson.unreachable && after.block.is_none() {
                self.lane_stats.leave(*lane, lesson.at);
            }
            if after.block.is_none() && after.learned.is_none() {
                known.ill.remove(lane);
            } else {
                known.ill.insert(*lane);
            }
            let place = self.in_flight.lane(*lane);
            let stream = place.as_ref().map(|lane| lane.stream.as_str());
            let route = place.as_ref().map(|lane| lane.route.as_str());
            let domain = place.as_ref().map(|lane| lane.domain.as_str());
            let reply = taught_of(*lane).and_then(|taught| taught.reply.as_deref());
            let lane = LaneId(*lane);
            match (before.block, after.block) {
                (None, Some(block)) => {
                    let failure = taught_of(lane.0).and_then(|taught| taught.failure.as_ref());
                    tracing::warn!(
                        event = "destination_blocked",
                        %lane,
                        stream,
                        route,
                        domain,
                        cause = failure.map(|failure| failure.cause.as_str()),
                        host = failure.and_then(|failure| failure.host.as_deref()),
                        reply,
                        next_probe_at = %block.open_at,
                        "destination is unreachable; probing it until it can be reached again"
                    );
                }
                (Some(block), None) => {
                    tracing::info!(
                        event = "destination_unblocked",
                        %lane,
                        stream,
                        route,
                        domain,
                        blocked_since = %block.since,
                        "destination can be reached again; sending what waited"
                    );
                    self.wake.notify_one();
                }
                _ => {}
            }
            match (before.learned, after.learned) {
                (None, Some(learned)) => {
                    tracing::warn!(
                        event = "destination_throttled",
                        %lane,
                        stream,
                        route,
                        domain,
                        rate = learned.rate,
                        reply,
                        "destination throttled us; lowering rate"
                    );
                }
                (Some(_), None) => {
                    tracing::info!(
                        event = "destination_unthrottled",
                        %lane,
                        stream,
                        route,
                        domain,
                        "destination accepts our rate again; no longer limiting it"
                    );
                }
                _ => {}
            }
        }
    }
}

fn told(outcome: &Outcome) -> String {
    let code = outcome.reply.code.map(|code| format!("{code} ")).unwrap_or_default();
    let enhanced = outcome.reply.enhanced.map(|enhanced| format!("{enhanced} ")).unwrap_or_default();
    format!("{code}{enhanced}{}", outcome.reply.text)
}
