//! Calculates how many recipients a claim may take from each lane. Pure.
//!
//! The most urgent priority comes first. Within one priority the free capacity is divided in four levels: among the
//! tenants by weight, among each tenant's routes, among each route's streams by weight, among each stream's lanes; on each
//! level by weighted max-min fairness, so that claimants with little in flight come first ([`routes`]). Tenants take
//! turns, so that each of them is served even if there are more tenants than free capacity ([`super::turns`]).
//!
//! The capacity is a number of SMTP transactions. A destination uses at most as much of it as its connections need;
//! further recipients in flight only wait for these connections, and use nothing but memory. These waiting recipients
//! are allocated afterwards, as many as the destination handles in a fraction of a second, so that no connection is
//! idle until the next claim. The total number of recipients in flight has a separate limit.

mod routes;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::lane_stats::RecentStats;
use super::turns::{Sharer, Turns};
use crate::db::lanes::ReadyLane;
use crate::db::lanes::limits::PIPELINE_DEPTH;
use crate::worker::lease::in_flight::LaneUsage;
use routes::{Route, Routes};

/// Priorities up to this number are urgent: their lanes may use the whole capacity, and the other lanes leave a quarter
/// of it to them.
pub(crate) const URGENT: i16 = 10;
/// Maximum number of recipients in flight of a lane whose destination was not reached yet, or is unreachable.
const PROBE_CONCURRENCY: usize = 4;
/// Seconds of a route's traffic that may be in flight beyond what its connections need: it is sent while the next claim
/// runs.
const PREFETCH: f64 = 0.1;
/// The same for urgent lanes of a relay. A new message that exceeds this limit is claimed, which costs more than a
/// direct handoff.
const URGENT_PREFETCH: f64 = 0.5;

/// The capacity to allocate.
#[derive(Debug)]
pub(crate) struct Capacity<'a> {
    /// Maximum number of SMTP transactions of this process at a time.
    pub total: usize,
    /// Maximum number of recipients in flight, including those that wait for a connection.
    pub recipients: usize,
    /// The number of recipients that may be added to those in flight.
    pub free: usize,
    /// Maximum number of connections of this process to one destination.
    pub connections: usize,
    /// The recipients in flight, by lane.
    pub in_flight: &'a HashMap<i64, LaneUsage>,
    /// Recent statistics of the lanes.
    pub recent: &'a HashMap<i64, RecentStats>,
    /// Whose turn it is.
    pub turns: &'a Turns,
}

/// The result of an allocation.
#[derive(Debug, Default)]
pub(crate) struct Allocation {
    /// The lanes that get something.
    pub quotas: Vec<LaneQuota>,
    /// The tenants that share a resource, for [`Turns::record`]; none if all lanes are of one tenant.
    pub sharers: Vec<Sharer>,
}

/// The number of recipients of a lane that may be claimed.
#[derive(Debug, Clone)]
pub(crate) struct LaneQuota {
    pub lane: Arc<ReadyLane>,
    pub recipients: usize,
}

/// Allocates the free capacity among these lanes.
pub(crate) fn allocate(ready: &[Arc<ReadyLane>], capacity: &Capacity) -> Allocation {
    let mut by_priority = BTreeMap::<i16, Vec<&Arc<ReadyLane>>>::new();
    for lane in ready {
        by_priority.entry(lane.priority).or_default().push(lane);
    }
    let (mut free_slots, mut free) = (capacity.free_slots(), capacity.free);
    let mut allocation = Allocation::default();
    for (priority, lanes) in by_priority {
        // The last quarter is for urgent lanes; the last eighth for destinations that have nothing in flight yet.
        let mut usable =
            usable_by(priority, capacity.total, free_slots).min(usable_by(priority, capacity.recipients, free));
        let for_idle = usable.min(capacity.total / 8);
        usable -= for_idle;
        let mut routes = Routes::new(priority, &lanes, capacity);
        let slots = capacity.slots_per_destination();
        let mut allocated = routes.divide(usable, &Allocated::new(), |route| slots.saturating_sub(route.in_flight));
        let left = usable - sum(&allocated) + for_idle;
        let is_idle = |route: &Route| route.in_flight == 0 && route.allocated(&allocated) == 0;
        let more = routes.divide(left, &allocated, |route| if is_idle(route) { slots } else { 0 });
        allocated.extend(more);
        free_slots = free_slots.saturating_sub(sum(&allocated));
        free = free.saturating_sub(sum(&allocated));
        // Recipients that wait for the connections of their destination.
        let waiting = usable_by(priority, capacity.recipients, free).saturating_sub(capacity.recipients / 8);
        let more = routes.divide(waiting, &allocated, |route| {
            let has_all_slots = route.in_flight + route.allocated(&allocated) >= slots;
            if has_all_slots { usize::MAX } else { 0 }
        });
        free = free.saturating_sub(sum(&more));
        for (lane, recipients) in more {
            *allocated.entry(lane).or_default() += recipients;
        }
        allocation.sharers.extend(routes.sharers());
        allocation.quotas.extend(
            lanes
                .into_iter()
                .filter_map(|lane| Some(LaneQuota { lane: lane.clone(), recipients: *allocated.get(&lane.id)? })),
        );
    }
    allocation
}

/// Returns how much of the `free` capacity all of these lanes may use.
pub(crate) fn usable_by_all(total: usize, free: usize, quotas: &[LaneQuota]) -> usize {
    quotas.iter().map(|quota| usable_by(quota.lane.priority, total, free)).min().unwrap_or(free)
}

fn usable_by(priority: i16, total: usize, free: usize) -> usize {
    free.saturating_sub(if priority > URGENT { total / 4 } else { 0 })
}

/// The number of recipients allocated to each lane.
type Allocated = BTreeMap<i64, usize>;

fn sum(allocated: &Allocated) -> usize {
    allocated.values().sum()
}

impl Capacity<'_> {
    /// Returns how many recipients of a lane are in flight.
    fn recipients(&self, lane: i64) -> usize {
        self.in_flight.get(&lane).map_or(0, |in_lane| in_lane.recipients)
    }

    /// Returns how many recipients of a destination use the capacity: twice as many as it has connections, so that none
    /// of these is idle between two messages.
    fn slots_per_destination(&self) -> usize {
        self.connections * PIPELINE_DEPTH
    }

    /// Returns how much of the capacity is free.
    fn free_slots(&self) -> usize {
        let mut by_relay = HashMap::<&str, usize>::new();
        let (slots, mut used) = (self.slots_per_destination(), 0);
        for in_lane in self.in_flight.values() {
            match in_lane.lane.as_deref() {
                Some(lane) if !lane.is_mx() => *by_relay.entry(&lane.route).or_default() += in_lane.recipients,
                Some(_) => used += in_lane.recipients.min(slots),
                // The lane is closed: its recipients only expire.
                None => {}
            }
        }
        used += by_relay.values().map(|recipients| (*recipients).min(slots)).sum::<usize>();
        self.total.saturating_sub(used)
    }

    /// Returns the lanes of this priority that have recipients in flight.
    fn of_priority(&self, priority: i16) -> impl Iterator<Item = (&ReadyLane, &LaneUsage)> {
        let lanes = self.in_flight.values().filter_map(|in_lane| Some((in_lane.lane.as_deref()?, in_lane)));
        lanes.filter(move |(lane, _)| lane.priority == priority)
    }

    /// Returns the relays' lanes of this priority that have recipients in flight.
    fn through_relays(&self, priority: i16) -> Vec<(&ReadyLane, &LaneUsage)> {
        self.of_priority(priority).filter(|(lane, _)| !lane.is_mx()).collect()
    }

    /// Returns how many recipients a relay's lanes can have in flight.
    fn relay_limit(&self, priority: i16, in_flight: &[(&ReadyLane, &LaneUsage)]) -> usize {
        let attempts_per_second: f64 =
            in_flight.iter().filter_map(|(lane, _)| self.recent.get(&lane.id)).map(|recent| recent.attempted).sum();
        let (recipients, messages_in_flight) =
            in_flight.iter().fold((0, 0), |(r, m), (_, in_lane)| (r + in_lane.recipients, m + in_lane.messages));
        // A message uses one connection at a time, regardless of its number of recipients.
        let connections = self.slots_per_destination();
        let messages = if priority <= URGENT {
            self.total.max(connections + prefetched(attempts_per_second, URGENT_PREFETCH))
        } else {
            connections + prefetched(attempts_per_second, PREFETCH)
        };
        messages * recipients_per_message(recipients, messages_in_flight)
    }

    /// Returns how many more recipients a lane can have in flight. For a lane with limits the number counts messages:
    /// the other due recipients of each message are claimed with it.
    fn lane_demand(&self, lane: &ReadyLane) -> usize {
        let (recipients, messages) =
            self.in_flight.get(&lane.id).map_or((0, 0), |in_lane| (in_lane.recipients, in_lane.messages));
        let limit = |limit: Option<i32>| limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let most = limit(lane.connections).saturating_mul(PIPELINE_DEPTH).min(limit(lane.stream_concurrency));
        let successes = self.recent.get(&lane.id).map_or(0, |recent| recent.sessions_since_failure);
        if lane.blocked_since.is_some() || (lane.is_mx() && successes == 0) {
            // Probes are counted in recipients: everything in flight to an unreachable server waits for its timeout.
            return most
                .min(PROBE_CONCURRENCY)
                .saturating_sub(recipients)
                .min(self.recipients.saturating_sub(recipients));
        }
        // Slow start: the first messages to a server that fails wait for its timeout.
        let most = if lane.is_mx() {
            let attempts_per_second = self.recent.get(&lane.id).map_or(0.0, |recent| recent.attempted);
            let prefetched = prefetched(attempts_per_second, PREFETCH).min(self.recipients / 8);
            let usable = self.slots_per_destination() + prefetched;
            most.min(usable).min(successes.saturating_mul(2).saturating_add(PROBE_CONCURRENCY))
        } else {
            most
        };
        let more = if lane.is_limited() {
            most.saturating_sub(messages)
        } else {
            most.saturating_mul(recipients_per_message(recipients, messages)).saturating_sub(recipients)
        };
        more.min(self.recipients.saturating_sub(recipients))
    }
}

/// Returns how many messages are attempted in these `seconds` at this rate.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "far below 2^52, and not negative")]
fn prefetched(attempts_per_second: f64, seconds: f64) -> usize {
    (attempts_per_second * seconds) as usize
}

/// Returns the average number of recipients per message in flight, rounded up.
fn recipients_per_message(recipients: usize, messages: usize) -> usize {
    recipients.max(1).div_ceil(messages.max(1))
}

#[cfg(test)]
mod tests;
