//! Calculates how many recipients a claim may take from each lane. Pure.
//!
//! The most urgent priority comes first. Within one priority the free capacity is divided in three levels: among the
//! routes, among each route's streams by weight, among each stream's lanes; on each level by weighted max-min fairness,
//! so that claimants with little in flight come first.
//!
//! The capacity is a number of SMTP transactions. A destination uses at most as much of it as its connections need;
//! further recipients in flight only wait for these connections, and use nothing but memory. These waiting recipients
//! are allocated afterwards, as many as the destination handles in a fraction of a second, so that no connection is
//! idle until the next claim. The total number of recipients in flight has a separate limit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::lane_stats::RecentStats;
use crate::db::lanes::ReadyLane;
use crate::db::lanes::limits::PIPELINE_DEPTH;
use crate::domain::limits::fair_share::{self, Claimant};
use crate::worker::lease::in_flight::LaneUsage;

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
}

/// The number of recipients of a lane that may be claimed.
#[derive(Debug, Clone)]
pub(crate) struct LaneQuota {
    pub lane: Arc<ReadyLane>,
    pub recipients: usize,
}

/// Allocates the free capacity among these lanes. Lanes that get nothing are left out.
pub(crate) fn allocate(ready: &[Arc<ReadyLane>], capacity: &Capacity) -> Vec<LaneQuota> {
    let mut by_priority = BTreeMap::<i16, Vec<&Arc<ReadyLane>>>::new();
    for lane in ready {
        by_priority.entry(lane.priority).or_default().push(lane);
    }
    let (mut free_slots, mut free) = (capacity.free_slots(), capacity.free);
    let mut quotas = Vec::new();
    for (priority, lanes) in by_priority {
        // The last quarter is for urgent lanes; the last eighth for destinations that have nothing in flight yet.
        let mut usable =
            usable_by(priority, capacity.total, free_slots).min(usable_by(priority, capacity.recipients, free));
        let for_idle = usable.min(capacity.total / 8);
        usable -= for_idle;
        let routes = Routes::new(priority, &lanes, capacity);
        let slots = capacity.slots_per_destination();
        let mut allocated = routes.divide(usable, &Allocated::new(), |route| slots.saturating_sub(route.in_flight));
        let left = usable - sum(&allocated) + for_idle;
        let is_idle = |route: &Route| route.in_flight == 0 && !allocated.contains_key(&route.first_lane());
        let more = routes.divide(left, &Allocated::new(), |route| if is_idle(route) { slots } else { 0 });
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
        quotas.extend(
            lanes
                .into_iter()
                .filter_map(|lane| Some(LaneQuota { lane: lane.clone(), recipients: *allocated.get(&lane.id)? })),
        );
    }
    quotas
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

/// The destinations of one priority: each route through relays, with all of its lanes, and each lane that goes directly
/// to MX.
struct Routes<'a>(Vec<Route<'a>>);

struct Route<'a> {
    in_flight: usize,
    demand: usize,
    streams: Vec<Stream<'a>>,
}

struct Stream<'a> {
    in_flight: usize,
    weight: u32,
    lanes: Vec<(&'a ReadyLane, Claimant)>,
}

impl<'a> Routes<'a> {
    fn new(priority: i16, ready: &[&'a Arc<ReadyLane>], capacity: &Capacity) -> Self {
        let mut by_route = BTreeMap::<(&str, Option<i64>), BTreeMap<_, Vec<&'a ReadyLane>>>::new();
        for lane in ready {
            let mx_lane = lane.is_mx().then_some(lane.id);
            let streams = by_route.entry((&lane.route, mx_lane)).or_default();
            streams.entry((lane.tenant_id, &lane.stream)).or_default().push(lane);
        }
        let through_relays = capacity.through_relays(priority);
        let route = |((route, mx_lane), streams): (_, BTreeMap<_, Vec<&'a ReadyLane>>)| match mx_lane {
            Some(id) => Route::direct(id, streams.into_values(), capacity),
            None => Route::through_relay(priority, &through_relays, route, streams.into_values(), capacity),
        };
        Self(by_route.into_iter().map(route).collect())
    }

    /// Returns the share of `total` that each lane gets in addition to what it has in flight and what was `allocated`
    /// to it before. No route gets more than `limit` returns for it.
    fn divide(&self, total: usize, allocated: &Allocated, limit: impl Fn(&Route) -> usize) -> Allocated {
        let limited = |route: &Route| {
            let claimant = route.claimant(allocated);
            Claimant { demand: claimant.demand.min(limit(route)), ..claimant }
        };
        let claimants: Vec<Claimant> = self.0.iter().map(limited).collect();
        let mut shares = Allocated::new();
        for (route, total) in self.0.iter().zip(fair_share::divide(total, &claimants)) {
            if total == 0 {
                continue;
            }
            let claimants: Vec<Claimant> = route.streams.iter().map(|stream| stream.claimant(allocated)).collect();
            for (stream, total) in route.streams.iter().zip(fair_share::divide(total, &claimants)) {
                let claimants: Vec<Claimant> = stream.lane_claimants(allocated).collect();
                let ids = stream.lanes.iter().map(|(lane, _)| lane.id);
                let lanes = ids.zip(fair_share::divide(total, &claimants));
                shares.extend(lanes.filter(|(_, recipients)| *recipients > 0));
            }
        }
        shares
    }
}

impl<'a> Route<'a> {
    /// Creates the route to the mail exchangers of one domain, which is one lane.
    fn direct(id: i64, streams: impl Iterator<Item = Vec<&'a ReadyLane>>, capacity: &Capacity) -> Self {
        let in_flight = capacity.recipients(id);
        let streams: Vec<Stream> = streams.map(|lanes| Stream::new(&lanes, in_flight, capacity)).collect();
        Self { in_flight, demand: streams.iter().map(Stream::demand).sum(), streams }
    }

    /// Creates the route through a relay. `in_flight` may contain lanes of other routes.
    fn through_relay(
        priority: i16,
        in_flight: &[(&ReadyLane, &LaneUsage)],
        route: &str,
        streams: impl Iterator<Item = Vec<&'a ReadyLane>>,
        capacity: &Capacity,
    ) -> Self {
        let own: Vec<_> = in_flight.iter().copied().filter(|(lane, _)| lane.route == route).collect();
        let recipients = |includes: &dyn Fn(&ReadyLane) -> bool| {
            own.iter().filter(|(lane, _)| includes(lane)).map(|(_, in_lane)| in_lane.recipients).sum()
        };
        let stream = |lanes: Vec<&'a ReadyLane>| {
            let first = lanes.first().copied();
            let is_of_stream = |lane: &ReadyLane| {
                first.is_some_and(|first| (lane.tenant_id, &lane.stream) == (first.tenant_id, &first.stream))
            };
            Stream::new(&lanes, recipients(&is_of_stream), capacity)
        };
        let streams: Vec<Stream> = streams.map(stream).collect();
        let in_flight = recipients(&|_| true);
        let wanted: usize = streams.iter().map(Stream::demand).sum();
        let limit = capacity.relay_limit(priority, &own);
        Self { in_flight, demand: wanted.min(limit.saturating_sub(in_flight)), streams }
    }

    fn claimant(&self, allocated: &Allocated) -> Claimant {
        let (more, weight) = (self.allocated(allocated), self.streams.iter().map(|stream| stream.weight).sum());
        Claimant { in_use: self.in_flight + more, demand: self.demand.saturating_sub(more), weight }
    }

    fn allocated(&self, allocated: &Allocated) -> usize {
        self.streams.iter().map(|stream| stream.allocated(allocated)).sum()
    }

    fn first_lane(&self) -> i64 {
        self.streams.first().and_then(|stream| stream.lanes.first()).map_or(0, |(lane, _)| lane.id)
    }
}

impl<'a> Stream<'a> {
    fn new(lanes: &[&'a ReadyLane], in_flight: usize, capacity: &Capacity) -> Self {
        let claimant = |lane: &&'a ReadyLane| {
            let (in_use, demand) = (capacity.recipients(lane.id), capacity.lane_demand(lane));
            (*lane, Claimant { in_use, demand, weight: 1 })
        };
        let weight = lanes.first().map_or(1, |lane| u32::try_from(lane.weight).unwrap_or(1));
        Self { in_flight, weight, lanes: lanes.iter().map(claimant).collect() }
    }

    fn demand(&self) -> usize {
        self.lanes.iter().map(|(_, claimant)| claimant.demand).sum()
    }

    fn claimant(&self, allocated: &Allocated) -> Claimant {
        let more = self.allocated(allocated);
        Claimant { in_use: self.in_flight + more, demand: self.demand().saturating_sub(more), weight: self.weight }
    }

    fn lane_claimants(&self, allocated: &Allocated) -> impl Iterator<Item = Claimant> {
        self.lanes.iter().map(|(lane, claimant)| {
            let more = allocated.get(&lane.id).copied().unwrap_or(0);
            Claimant { in_use: claimant.in_use + more, demand: claimant.demand.saturating_sub(more), weight: 1 }
        })
    }

    fn allocated(&self, allocated: &Allocated) -> usize {
        self.lanes.iter().filter_map(|(lane, _)| allocated.get(&lane.id)).sum()
    }
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

    /// Returns the relays' lanes of this priority that have recipients in flight.
    fn through_relays(&self, priority: i16) -> Vec<(&ReadyLane, &LaneUsage)> {
        let lanes = self.in_flight.values().filter_map(|in_lane| Some((in_lane.lane.as_deref()?, in_lane)));
        lanes.filter(|(lane, _)| lane.priority == priority && !lane.is_mx()).collect()
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
