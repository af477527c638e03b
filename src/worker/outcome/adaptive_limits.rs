//! Learns from outcomes which destinations throttle Postrider or are unreachable, and adapts the limits of their lanes.
//! Runs before the recipients are released, so that the next claim uses the new limits.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use super::RecordContext;
use super::throttle_attribution::ThrottleAttribution;
use crate::db::DbError;
use crate::db::lanes::dedicated::SharedLaneRecipient;
use crate::db::lanes::health::{Change, Failure, Update};
use crate::db::lanes::{self, ReadyLane};
use crate::db::queue::{Claimed, Finished};
use crate::domain::id::LaneId;
use crate::domain::lane::destination_health::Observation;
use crate::domain::lane::unreachable::Cause;
use crate::domain::outcome::{Outcome, Signal, Stage, Verdict};
use crate::domain::routing::RouteName;
use crate::worker::claim::lane_stats::Sample;

/// Minimum interval between two equal updates of a lane.
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

/// The health of a destination according to outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneSignal {
    Healthy,
    Throttled,
    Unreachable,
}

impl From<&Observation> for LaneSignal {
    fn from(observation: &Observation) -> Self {
        match (observation.throttled, observation.unreachable) {
            (true, _) => Self::Throttled,
            (false, true) => Self::Unreachable,
            (false, false) => Self::Healthy,
        }
    }
}

/// The outcomes of a batch in one lane.
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

    /// Adapts limits to outcomes that have been recorded. An update that cannot be stored is dropped; later outcomes
    /// repeat it.
    pub(crate) async fn adapt(&self, batch: &[Finished]) {
        let now = self.cx.clock.now();
        let (mut by_lane, refused) = self.group(batch);
        let dedicated = match self.dedicate_lanes(&refused, &mut by_lane, now).await {
            Ok(dedicated) => dedicated,
            Err(error) => {
                tracing::debug!(event = "lane_split_failed", %error, "failed to create a dedicated lane for a domain");
                Vec::new()
            }
        };
        let has_dedicated = !dedicated.is_empty();
        let mut updates: Vec<Update> =
            by_lane.into_iter().filter_map(|(lane, batch)| self.update(lane, &batch, now)).collect();
        updates.extend(dedicated);
        if updates.is_empty() {
            return;
        }
        match lanes::health::apply(&self.cx.db, &updates).await {
            Ok(changes) => self.note(&updates, &changes),
            Err(error) => tracing::debug!(
                event = "lane_update_failed",
                %error,
                "failed to update the health of destinations; later outcomes repeat the update"
            ),
        }
        // The cache is cleared after the update, because a lane counts as dedicated only once it is throttled.
        if has_dedicated {
            self.cx.dedicated_lanes.forget();
        }
    }

    /// Groups outcomes by lane. Also returns the recipients that a relay throttled at RCPT. The relay may have passed
    /// on a limit of their domain, so these outcomes do not throttle the relay's lane yet.
    fn group<'a>(&self, batch: &'a [Finished]) -> (HashMap<i64, LaneBatch<'a>>, Vec<&'a Finished>) {
        let mut by_lane = HashMap::<i64, LaneBatch>::new();
        let mut refused = Vec::new();
        let mut lanes = HashMap::<i64, Option<(Arc<ReadyLane>, Option<RouteName>)>>::new();
        for finished in batch {
            let Some(outcome) = finished.outcome.as_ref().filter(|outcome| !outcome.is_local()) else { continue };
            let claimed = &finished.claimed;
            let known = lanes.entry(claimed.lane_id).or_insert_with(|| {
                let lane = self.cx.leases.in_flight.lane(claimed.lane_id)?;
                let route = RouteName::parse(&lane.route);
                Some((lane, route))
            });
            // The simulator has no limits to learn: its scripts are those of the messages.
            if matches!(known, Some((_, Some(RouteName::Simulator)))) {
                continue;
            }
            // The configuration may have changed since the recipient was queued in the lane. If the server is not the
            // lane's destination any more, its limits do not apply to the lane. The attempt itself still counts.
            let is_destination = |route: &RouteName| self.cx.sender.route_includes(route, &outcome.peer);
            let is_other_server = known.as_ref().is_some_and(|(_, route)| !route.as_ref().is_some_and(is_destination));
            let lane = by_lane.entry(claimed.lane_id).or_default();
            let message = lane.messages.entry(claimed.message_id).or_default();
            message.attempted = 1;
            message.accepted |= u32::from(outcome.verdict == Verdict::Accepted);
            let signal = outcome.signal().filter(|_| !is_other_server);
            if outcome.stage > Stage::Session || signal == Some(Signal::Throttled) {
                message.sessions = 1;
                let ended = finished.started_at + TimeDelta::from_std(outcome.duration).unwrap_or_default();
                lane.reached_at = lane.reached_at.max(Some(ended));
            }
            match signal {
                // A reply 421 to RCPT is about the connection, not about the recipient.
                Some(Signal::Throttled)
                    if outcome.stage == Stage::Rcpt
                        && outcome.reply.code != Some(421)
                        && known.as_ref().is_some_and(|(lane, _)| lane.is_shared()) =>
                {
                    refused.push(finished);
                }
                Some(Signal::Throttled) => lane.throttled = Some(outcome),
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
            throttled: signal == LaneSignal::Throttled,
            success: sample.accepted > 0,
            unreachable: signal == LaneSignal::Unreachable,
            reached_at: batch.reached_at,
            own_session_at: recent.last_session,
        };
        let failure = batch
            .unreachable
            .filter(|_| batch.throttled.is_none())
            .map(|outcome| Failure { cause: Cause::new(outcome), host: outcome.peer.mx.clone() });
        Some(Update { lane, observation, reply, failure })
    }

    /// Returns whether a success would change the health of a lane.
    fn is_degraded(&self, lane: i64) -> bool {
        let was_degraded = self
            .cx
            .leases
            .in_flight
            .lane(lane)
            .is_some_and(|lane| lane.blocked_since.is_some() || lane.learned_rate.is_some());
        was_degraded || self.state().degraded.contains(&lane)
    }

    /// Creates dedicated lanes for domains whose limits a relay passed on. These lanes are throttled instead of the
    /// relay's. If there are many such domains, the relay itself is throttling.
    async fn dedicate_lanes<'a>(
        &self,
        refused: &[&'a Finished],
        by_lane: &mut HashMap<i64, LaneBatch<'a>>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Update>, DbError> {
        if refused.is_empty() {
            return Ok(Vec::new());
        }
        let recipients =
            lanes::dedicated::domains(&self.cx.db, refused.iter().map(|finished| &finished.claimed)).await?;
        let (domains, relays) = self.state().attribution.attribute(recipients, now);
        let reply = |matches: &dyn Fn(&Claimed) -> bool| {
            refused.iter().find(|finished| matches(&finished.claimed)).and_then(|finished| finished.outcome.as_ref())
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
            throttled: true,
            success: false,
            unreachable: false,
            reached_at: Some(now),
            own_session_at: Some(now),
        };
        let lanes = lanes::dedicated::create(&self.cx.db, &domains).await?;
        let updates = lanes.into_iter().map(|(lane, domain)| {
            let matches = |recipient: &&SharedLaneRecipient| recipient.domain == domain;
            let reply = domains
                .iter()
                .find(matches)
                .and_then(|recipient| reply(&|row| row.recipient_id == recipient.recipient));
            Update { lane, observation, reply: reply.map(reply_text), failure: None }
        });
        Ok(updates.collect())
    }

    /// Remembers updates that were stored, and logs what they changed.
    fn note(&self, updates: &[Update], changes: &[Change]) {
        let mut state = self.state();
        for Update { lane, observation, .. } in updates {
            state.updates.retain(|_, (at, _)| observation.at - *at < UPDATE_INTERVAL);
            state.updates.insert(*lane, (observation.at, LaneSignal::from(observation)));
        }
        for change in changes {
            let Change { lane, after, observation, .. } = change;
            // Other workers reach the destination, so this worker leaves the lane to them for a while.
            if observation.unreachable && after.unreachable.is_none() {
                self.cx.lane_stats.avoid(*lane, observation.at);
            }
            if after.unreachable.is_none() && after.learned.is_none() {
                state.degraded.remove(lane);
            } else {
                state.degraded.insert(*lane);
            }
            self.log(change, updates.iter().find(|update| update.lane == *lane));
            if change.before.unreachable.is_some() && after.unreachable.is_none() {
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
        match (before.unreachable, after.unreachable) {
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
                    "destination can be reached again; sending the messages that waited"
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
                    "destination accepts the full rate again; no longer limiting it"
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
