//! Adapts the limits of destinations to outcomes: which destinations throttle us, and which are unreachable. Runs before
//! the recipients are released, so that the next claim knows the result.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use super::RecordContext;
use super::throttle_attribution::ThrottleAttribution;
use crate::db::DbError;
use crate::db::lanes;
use crate::db::lanes::ReadyLane;
use crate::db::lanes::dedicated::Sharer;
use crate::db::lanes::health::{Change, Failure, Update};
use crate::db::queue::{Claimed, Finished};
use crate::domain::destination_health::Observation;
use crate::domain::id::LaneId;
use crate::domain::outcome::{Outcome, Signal, Stage, Verdict};
use crate::domain::routing::RouteName;
use crate::domain::unreachable::Cause;
use crate::worker::claim::lane_stats::Sample;

/// Shortest interval between two equal updates of a lane.
const UPDATE_INTERVAL: TimeDelta = TimeDelta::seconds(1);

/// Turns outcomes into updates of lanes.
#[derive(Debug)]
pub(crate) struct AdaptiveLimits {
    cx: Arc<RecordContext>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The latest update of each lane.
    updates: HashMap<i64, (DateTime<Utc>, LaneSignal)>,
    /// Lanes that this worker made unreachable or throttled, and that have not recovered.
    degraded: HashSet<i64>,
    attribution: ThrottleAttribution,
}

/// What outcomes say about a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneSignal {
    Healthy,
    Throttled,
    Unreachable,
}

impl From<&Observation> for LaneSignal {
    fn from(observation: &Observation) -> Self {
        match (observation.slow_down, observation.unreachable) {
            (true, _) => Self::Throttled,
            (false, true) => Self::Unreachable,
            (false, false) => Self::Healthy,
        }
    }
}

/// What a batch of outcomes says about one lane.
#[derive(Debug, Default)]
struct LaneBatch<'a> {
    messages: HashMap<Uuid, Sample>,
    throttled: Option<&'a Outcome>,
    unreachable: Option<&'a Outcome>,
    reached_at: Option<DateTime<Utc>>,
}

impl AdaptiveLimits {
    pub(crate) fn new(cx: Arc<RecordContext>) -> Self {
        Self { cx, state: Mutex::default() }
    }

    /// Adapts limits to outcomes that have been recorded. An update that the database does not accept is dropped; later
    /// outcomes repeat it.
    pub(crate) async fn adapt(&self, batch: &[Finished]) {
        let now = self.cx.clock.now();
        let (mut by_lane, refused) = self.group(batch);
        let split = match self.split(&refused, &mut by_lane, now).await {
            Ok(split) => split,
            Err(error) => {
                tracing::debug!(event = "lane_split_failed", %error, "failed to give a domain its own lane");
                Vec::new()
            }
        };
        let has_split = !split.is_empty();
        let mut updates: Vec<Update> =
            by_lane.into_iter().filter_map(|(lane, batch)| self.update(lane, &batch, now)).collect();
        updates.extend(split);
        if updates.is_empty() {
            return;
        }
        match lanes::health::learn(&self.cx.db, &updates).await {
            Ok(changes) => self.note(&updates, &changes),
            Err(error) => tracing::debug!(
                event = "lane_update_failed",
                %error,
                "failed to record what outcomes say about destinations"
            ),
        }
        // After the update: a lane without one is not a domain's own.
        if has_split {
            self.cx.splits.forget();
        }
    }

    /// Groups outcomes by lane. Also returns the recipients for whom a relay may have passed on the limit of their own domain,
    /// which does not concern the relay's lane.
    fn group<'a>(&self, batch: &'a [Finished]) -> (HashMap<i64, LaneBatch<'a>>, Vec<&'a Finished>) {
        let mut by_lane = HashMap::<i64, LaneBatch>::new();
        let mut refused = Vec::new();
        let mut lanes = HashMap::<i64, Option<(Arc<ReadyLane>, Option<RouteName>)>>::new();
        for finished in batch {
            let Some(outcome) = finished.outcome.as_ref().filter(|outcome| !outcome.is_ours()) else { continue };
            let claimed = &finished.claimed;
            let known = lanes.entry(claimed.lane_id).or_insert_with(|| {
                let lane = self.cx.leases.in_flight.lane(claimed.lane_id)?;
                let route = RouteName::parse(&lane.route);
                Some((lane, route))
            });
            // The configuration may have changed since the recipient was put into the lane: the server is not the lane's
            // destination then, and its limits are not that destination's. The attempt itself counts all the same.
            let leads_there = |route: &RouteName| self.cx.sender.leads_to(route, &outcome.peer);
            let is_foreign = known.as_ref().is_some_and(|(_, route)| !route.as_ref().is_some_and(leads_there));
            let lane = by_lane.entry(claimed.lane_id).or_default();
            let message = lane.messages.entry(claimed.message_id).or_default();
            message.attempted = 1;
            message.accepted |= u32::from(outcome.verdict == Verdict::Accepted);
            let sign = outcome.signal().filter(|_| !is_foreign);
            if outcome.stage > Stage::Session || sign == Some(Signal::SlowDown) {
                message.sessions = 1;
                let ended = finished.started_at + TimeDelta::from_std(outcome.duration).unwrap_or_default();
                lane.reached_at = lane.reached_at.max(Some(ended));
            }
            match sign {
                // 421 is about the connection, for any recipient.
                Some(Signal::SlowDown)
                    if outcome.stage == Stage::Rcpt
                        && outcome.reply.code != Some(421)
                        && known.as_ref().is_some_and(|(lane, _)| lane.is_shared()) =>
                {
                    refused.push(finished);
                }
                Some(Signal::SlowDown) => lane.throttled = Some(outcome),
                Some(Signal::Unreachable) => lane.unreachable = Some(outcome),
                None => {}
            }
        }
        (by_lane, refused)
    }

    /// Returns the update of a lane, unless it repeats a recent one.
    fn update(&self, lane: i64, batch: &LaneBatch, now: DateTime<Utc>) -> Option<Update> {
        let sum = |count: fn(&Sample) -> u32| batch.messages.values().map(count).sum();
        let sample = Sample {
            attempted: sum(|message| message.attempted),
            accepted: sum(|message| message.accepted),
            sessions: sum(|message| message.sessions),
            unreachable: batch.unreachable.is_some(),
        };
        let recent = self.cx.lane_stats.add(lane, sample, now);
        let signal = match (batch.throttled, batch.unreachable) {
            (Some(_), _) => LaneSignal::Throttled,
            (None, Some(_)) if recent.recent_session.is_none() => LaneSignal::Unreachable,
            _ if sample.sessions > 0 && self.is_degraded(lane) => LaneSignal::Healthy,
            _ => return None,
        };
        let is_repeated =
            |(at, last): &(DateTime<Utc>, LaneSignal)| *last == signal && now - *at < UPDATE_INTERVAL && now >= *at;
        if self.state().updates.get(&lane).is_some_and(is_repeated) {
            return None;
        }
        let reply = batch.throttled.or(batch.unreachable).map(reply_text);
        let observation = Observation {
            at: now,
            attempted: recent.attempted,
            accepted: recent.accepted,
            slow_down: signal == LaneSignal::Throttled,
            success: sample.accepted > 0,
            unreachable: signal == LaneSignal::Unreachable,
            reached_at: batch.reached_at,
            own_session_at: recent.last_session,
        };
        let failure = batch
            .unreachable
            .filter(|_| batch.throttled.is_none())
            .map(|outcome| Failure { cause: Cause::new(outcome), host: outcome.peer.mx.clone() });
        Some(Update { lane, lesson: observation, reply, failure })
    }

    /// Whether success would change anything for a lane.
    fn is_degraded(&self, lane: i64) -> bool {
        let was_degraded = self
            .cx
            .leases
            .in_flight
            .lane(lane)
            .is_some_and(|lane| lane.blocked_since.is_some() || lane.learned_rate.is_some());
        was_degraded || self.state().degraded.contains(&lane)
    }

    /// Gives the domains whose limits a relay passed on lanes of their own, which are throttled instead of the relay's.
    /// Where there are many, the relay itself is throttling.
    async fn split<'a>(
        &self,
        refused: &[&'a Finished],
        by_lane: &mut HashMap<i64, LaneBatch<'a>>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Update>, DbError> {
        if refused.is_empty() {
            return Ok(Vec::new());
        }
        let sharers = lanes::dedicated::domains(&self.cx.db, refused.iter().map(|finished| &finished.claimed)).await?;
        let (domains, relays) = self.state().attribution.attribute(sharers, now);
        let reply = |is_meant: &dyn Fn(&Claimed) -> bool| {
            refused.iter().find(|finished| is_meant(&finished.claimed)).and_then(|finished| finished.outcome.as_ref())
        };
        for lane in relays {
            let reply = reply(&|claimed| claimed.lane_id == lane);
            by_lane.entry(lane).or_default().throttled = reply;
        }
        if domains.is_empty() {
            return Ok(Vec::new());
        }
        let observation = Observation {
            at: now,
            attempted: 0.0,
            accepted: 0.0,
            slow_down: true,
            success: false,
            unreachable: false,
            reached_at: Some(now),
            own_session_at: Some(now),
        };
        let lanes = lanes::dedicated::split(&self.cx.db, &domains).await?;
        let updates = lanes.into_iter().map(|(lane, domain)| {
            let is_meant = |sharer: &&Sharer| sharer.domain == domain;
            let reply =
                domains.iter().find(is_meant).and_then(|sharer| reply(&|row| row.recipient_id == sharer.recipient));
            Update { lane, lesson: observation, reply: reply.map(reply_text), failure: None }
        });
        Ok(updates.collect())
    }

    /// Notes updates that were recorded, and logs what they changed.
    fn note(&self, updates: &[Update], changes: &[Change]) {
        let mut state = self.state();
        for Update { lane, lesson, .. } in updates {
            state.updates.retain(|_, (at, _)| lesson.at - *at < UPDATE_INTERVAL);
            state.updates.insert(*lane, (lesson.at, LaneSignal::from(lesson)));
        }
        for change in changes {
            let Change { lane, after, lesson, .. } = change;
            // Other workers reach the destination: it is left to them for a while.
            if lesson.unreachable && after.block.is_none() {
                self.cx.lane_stats.avoid(*lane, lesson.at);
            }
            if after.block.is_none() && after.learned.is_none() {
                state.degraded.remove(lane);
            } else {
                state.degraded.insert(*lane);
            }
            self.log(change, updates.iter().find(|update| update.lane == *lane));
            if change.before.block.is_some() && after.block.is_none() {
                self.cx.leases.wake.notify_one();
            }
        }
    }

    fn log(&self, Change { lane, before, after, .. }: &Change, update: Option<&Update>) {
        let known = self.cx.leases.in_flight.lane(*lane);
        let stream = known.as_ref().map(|lane| lane.stream.as_str());
        let route = known.as_ref().map(|lane| lane.route.as_str());
        let domain = known.as_ref().map(|lane| lane.domain.as_str());
        let reply = update.and_then(|update| update.reply.as_deref());
        let lane = LaneId(*lane);
        match (before.block, after.block) {
            (None, Some(block)) => {
                let failure = update.and_then(|update| update.failure.as_ref());
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Returns a reply as the server sent it.
fn reply_text(outcome: &Outcome) -> String {
    let code = outcome.reply.code.map(|code| format!("{code} ")).unwrap_or_default();
    let enhanced = outcome.reply.enhanced.map(|enhanced| format!("{enhanced} ")).unwrap_or_default();
    format!("{code}{enhanced}{}", outcome.reply.text)
}
