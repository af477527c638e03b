//! Calculates how many recipients a claim may take from each lane. Pure.
//!
//! The most urgent priority comes first. Within one priority the free capacity is divided in three levels: among the
//! routes, among each route's streams by weight, among each stream's lanes; on each level by weighted max-min fairness,
//! so that those with little in flight come first. No lane gets more than it can use: recipients that only wait for a
//! connection would use up capacity that other lanes need.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::lane_stats::RecentStats;
use crate::db::lanes::ReadyLane;
use crate::db::lanes::limits::PIPELINE_DEPTH;
use crate::domain::fair_share::{self, Claimant};
use crate::worker::lease::in_flight::LaneInFlight;

/// Priorities up to this number are urgent: their lanes may use the whole capacity, and the other lanes leave a quarter
/// of it to them.
pub(crate) const URGENT: i16 = 10;
/// Maximum number of recipients in flight of a lane whose destination was not reached yet, or is unreachable.
const PROBE_CONCURRENCY: usize = 4;
/// Seconds of a route's traffic that may be in flight beyond what its connections need: it is sent while the next claim
/// runs.
const PREFETCH: f64 = 0.1;

/// The capacity to allocate.
#[derive(Debug)]
pub(crate) struct Capacity<'a> {
    /// Recipients that may be in flight.
    pub total: usize,
    /// Of those, how many may be claimed now.
    pub free: usize,
    /// Connections of this process to one destination.
    pub connections: usize,
    /// The recipients in flight, by lane.
    pub in_flight: &'a HashMap<i64, LaneInFlight>,
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
    let mut free = capacity.free;
    let mut quotas = Vec::new();
    for (priority, lanes) in by_priority {
        // The last quarter is for urgent lanes; the last eighth for destinations that have nothing in flight yet.
        let mut usable = usable_by(priority, capacity.total, free);
        let for_idle = usable.min(capacity.total / 8);
        usable -= for_idle;
        let routes = Routes::new(priority, &lanes, capacity);
        let mut allocated = routes.divide(usable, |_| true);
        let left = usable - allocated.values().sum::<usize>() + for_idle;
        let is_idle = |route: &Route| route.in_flight == 0 && !allocated.contains_key(&route.first_lane());
        let more = routes.divide(left, is_idle);
        allocated.extend(more);
        free -= allocated.values().sum::<usize>();
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

/// The destinations of one priority: a relay with all of its lanes is one, and so is each lane that goes directly to
/// MX.
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

    /// Returns the share of `total` that each lane gets.
    fn divide(&self, total: usize, includes: impl Fn(&Route) -> bool) -> BTreeMap<i64, usize> {
        let routes: Vec<&Route> = self.0.iter().filter(|route| includes(route)).collect();
        let claimants: Vec<Claimant> = routes.iter().map(|route| route.claimant()).collect();
        let mut allocated = BTreeMap::new();
        for (route, total) in routes.into_iter().zip(fair_share::divide(total, &claimants)) {
            let claimants: Vec<Claimant> = route.streams.iter().map(Stream::claimant).collect();
            for (stream, total) in route.streams.iter().zip(fair_share::divide(total, &claimants)) {
                let claimants: Vec<Claimant> = stream.lanes.iter().map(|(_, claimant)| *claimant).collect();
                let ids = stream.lanes.iter().map(|(lane, _)| lane.id);
                let shares = ids.zip(fair_share::divide(total, &claimants));
                allocated.extend(shares.filter(|(_, recipients)| *recipients > 0));
            }
        }
        allocated
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
        in_flight: &[(&ReadyLane, &LaneInFlight)],
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

    fn claimant(&self) -> Claimant {
        let weight = self.streams.iter().map(|stream| stream.weight).sum();
        Claimant { in_use: self.in_flight, demand: self.demand, weight }
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

    fn claimant(&self) -> Claimant {
        Claimant { in_use: self.in_flight, demand: self.demand(), weight: self.weight }
    }
}

impl Capacity<'_> {
    /// Returns how many recipients of a lane are in flight.
    fn recipients(&self, lane: i64) -> usize {
        self.in_flight.get(&lane).map_or(0, |in_lane| in_lane.recipients)
    }

    /// Returns the relays' lanes of this priority that have recipients in flight.
    fn through_relays(&self, priority: i16) -> Vec<(&ReadyLane, &LaneInFlight)> {
        let lanes = self.in_flight.values().filter_map(|in_lane| Some((in_lane.lane.as_deref()?, in_lane)));
        lanes.filter(|(lane, _)| lane.priority == priority && !lane.is_mx()).collect()
    }

    /// Returns how many recipients a relay's lanes can have in flight.
    fn relay_limit(&self, priority: i16, in_flight: &[(&ReadyLane, &LaneInFlight)]) -> usize {
        if priority <= URGENT {
            return self.total;
        }
        let attempts_per_second: f64 =
            in_flight.iter().filter_map(|(lane, _)| self.recent.get(&lane.id)).map(|recent| recent.attempted).sum();
        let (recipients, messages) =
            in_flight.iter().fold((0, 0), |(r, m), (_, in_lane)| (r + in_lane.recipients, m + in_lane.message_count()));
        // A message with many recipients uses one connection like any other.
        (self.connections * PIPELINE_DEPTH + prefetched(attempts_per_second))
            * recipients_per_message(recipients, messages)
    }

    /// Returns how many more recipients a lane can have in flight. For a lane with limits the number counts messages:
    /// the other due recipients of each message are claimed with it.
    fn lane_demand(&self, lane: &ReadyLane) -> usize {
        let (recipients, messages) =
            self.in_flight.get(&lane.id).map_or((0, 0), |in_lane| (in_lane.recipients, in_lane.message_count()));
        let limit = |limit: Option<i32>| limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let most = limit(lane.connections).saturating_mul(PIPELINE_DEPTH).min(limit(lane.stream_concurrency));
        let successes = self.recent.get(&lane.id).map_or(0, |recent| recent.sessions_since_failure);
        if lane.blocked_since.is_some() || (lane.is_mx() && successes == 0) {
            // Probes are counted in recipients: everything in flight to an unreachable server waits for its timeout.
            return most.min(PROBE_CONCURRENCY).saturating_sub(recipients).min(self.total.saturating_sub(recipients));
        }
        // Slow start: the first messages to a server that fails wait for its timeout.
        let most = if lane.is_mx() {
            let attempts_per_second = self.recent.get(&lane.id).map_or(0.0, |recent| recent.attempted);
            let usable = self.connections * PIPELINE_DEPTH + prefetched(attempts_per_second).min(self.total / 8);
            most.min(usable).min(successes.saturating_mul(2).saturating_add(PROBE_CONCURRENCY))
        } else {
            most
        };
        let more = if lane.is_limited() {
            most.saturating_sub(messages)
        } else {
            most.saturating_mul(recipients_per_message(recipients, messages)).saturating_sub(recipients)
        };
        more.min(self.total.saturating_sub(recipients))
    }
}

/// Returns how many messages may be in flight beyond what connections need, at this rate.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "far below 2^52, and not negative")]
fn prefetched(attempts_per_second: f64) -> usize {
    (attempts_per_second * PREFETCH) as usize
}

/// Returns the average number of recipients per message in flight, rounded up.
fn recipients_per_message(recipients: usize, messages: usize) -> usize {
    recipients.max(1).div_ceil(messages.max(1))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::db::queue::Claimed;
    use crate::worker::lease::in_flight::InFlight;

    /// A process with 256 recipients in flight at most, and 16 connections to each destination.
    struct Setup {
        lanes: Vec<Arc<ReadyLane>>,
        in_flight: InFlight,
        recent: HashMap<i64, RecentStats>,
        claimed: u128,
    }

    fn lane(id: i64, stream: &str, priority: i16, route: &str) -> ReadyLane {
        ReadyLane {
            id,
            tenant_id: Uuid::nil(),
            stream: stream.into(),
            route: route.into(),
            domain: if route == "mx" { format!("{id}.test") } else { "*".into() },
            priority,
            weight: 10,
            ready_at: DateTime::UNIX_EPOCH,
            connections: None,
            mails_per_connection: None,
            rate: None,
            learned_rate: None,
            blocked_since: None,
            stream_rate: None,
            stream_concurrency: None,
        }
    }

    impl Setup {
        fn new(lanes: impl IntoIterator<Item = ReadyLane>) -> Self {
            let lanes = lanes.into_iter().map(Arc::new).collect();
            Self { lanes, in_flight: InFlight::new(256), recent: HashMap::new(), claimed: 0 }
        }

        /// Puts messages of a lane in flight, each with this many recipients.
        fn with_messages(mut self, lane: i64, messages: usize, recipients: usize) -> Self {
            for _ in 0..messages {
                self.claimed += 1;
                let row = |n| Claimed {
                    message_id: Uuid::from_u128(self.claimed),
                    recipient_id: Uuid::from_u128(n as u128),
                    tenant_id: Uuid::nil(),
                    lane_id: lane,
                    attempts: 0,
                    crashes: 0,
                    first_due_at: DateTime::UNIX_EPOCH,
                    lease: Uuid::nil(),
                    claims: 1,
                };
                self.in_flight.insert((0..recipients).map(row).collect(), &self.lanes);
            }
            self
        }

        fn with_sessions(mut self, lanes: impl IntoIterator<Item = i64>) -> Self {
            let recent = RecentStats { sessions_since_failure: 1_000, ..RecentStats::default() };
            self.recent.extend(lanes.into_iter().map(|lane| (lane, recent)));
            self
        }

        /// Returns the quotas by lane.
        fn allocate(&self) -> BTreeMap<i64, usize> {
            let capacity = Capacity {
                total: 256,
                free: self.in_flight.free(),
                connections: 16,
                in_flight: &self.in_flight.by_lane(),
                recent: &self.recent,
            };
            allocate(&self.lanes, &capacity).into_iter().map(|quota| (quota.lane.id, quota.recipients)).collect()
        }
    }

    fn quotas<const N: usize>(quotas: [(i64, usize); N]) -> BTreeMap<i64, usize> {
        quotas.into()
    }

    #[test]
    fn bulk_is_limited_by_its_connections_and_urgent_is_not() {
        let setup = Setup::new([lane(1, "bulk", 50, "relay"), lane(2, "transactional", 10, "relay")]);
        assert_eq!(setup.allocate(), quotas([(1, 32), (2, 224)]).into_iter().filter(|(id, _)| *id == 2).collect());
        let setup = Setup::new([lane(1, "bulk", 50, "relay")]);
        assert_eq!(setup.allocate(), quotas([(1, 32)]));
        assert_eq!(setup.with_messages(1, 32, 1).allocate(), quotas([]));
    }

    #[test]
    fn fast_relay_has_more_in_flight() {
        let mut setup = Setup::new([lane(1, "bulk", 50, "relay")]).with_messages(1, 32, 1);
        setup.recent.insert(1, RecentStats { attempted: 400.0, ..RecentStats::default() });
        assert_eq!(setup.allocate(), quotas([(1, 40)]));
    }

    #[test]
    fn fast_domain_has_more_in_flight_but_not_everything() {
        let mut setup = Setup::new([lane(1, "bulk", 50, "mx")]).with_sessions([1]);
        for (attempted, quota) in [(0.0, 32), (200.0, 52), (4_000.0, 64)] {
            setup.recent.insert(1, RecentStats { attempted, sessions_since_failure: 1_000, ..RecentStats::default() });
            assert_eq!(setup.allocate(), quotas([(1, quota)]), "{attempted} per second");
        }
    }

    #[test]
    fn message_with_many_recipients_uses_one_connection() {
        let setup = Setup::new([lane(1, "bulk", 50, "relay")]).with_messages(1, 4, 5);
        assert_eq!(setup.allocate(), quotas([(1, 140)]));
    }

    #[test]
    fn connection_limit_counts_messages_and_not_recipients() {
        let limited = ReadyLane { connections: Some(3), ..lane(1, "bulk", 50, "relay") };
        assert_eq!(Setup::new([limited.clone()]).with_messages(1, 1, 50).allocate(), quotas([(1, 5)]));
        assert_eq!(Setup::new([limited]).with_messages(1, 6, 2).allocate(), quotas([]));
        let domain = || Setup::new([lane(1, "bulk", 50, "mx")]).with_sessions([1]);
        assert_eq!(
            domain().with_messages(1, 2, 10).allocate(),
            quotas([(1, 140)]),
            "16 connections for twice as many messages of ten"
        );
    }

    #[test]
    fn streams_of_one_priority_share_by_weight() {
        let light = ReadyLane { weight: 10, ..lane(1, "news", 50, "relay") };
        let heavy = ReadyLane { weight: 30, ..lane(2, "digest", 50, "relay") };
        assert_eq!(Setup::new([light.clone(), heavy.clone()]).allocate(), quotas([(1, 8), (2, 24)]));
        assert_eq!(Setup::new([light, heavy]).with_messages(1, 20, 1).allocate(), quotas([(2, 12)]));
    }

    #[test]
    fn unknown_domain_starts_with_few_recipients() {
        let setup = Setup::new([lane(1, "bulk", 50, "mx"), lane(2, "bulk", 50, "mx")]);
        assert_eq!(setup.allocate(), quotas([(1, 4), (2, 4)]));
        assert_eq!(setup.with_sessions([2]).allocate(), quotas([(1, 4), (2, 32)]));
    }

    #[test]
    fn slow_domains_leave_an_eighth_to_idle_destinations() {
        let slow = (1..=10).map(|id| lane(id, "bulk", 50, "mx"));
        let setup = Setup::new(slow.chain([lane(11, "bulk", 50, "mx")])).with_sessions(1..=11);
        let setup = (1..=10).fold(setup, |setup, id| setup.with_messages(id, 16, 1));
        assert_eq!(setup.allocate(), quotas([(11, 32)]));
    }

    #[test]
    fn unreachable_lanes_are_probed_with_few_recipients() {
        let unreachable = ReadyLane { blocked_since: Some(DateTime::UNIX_EPOCH), ..lane(1, "bulk", 50, "relay") };
        assert_eq!(Setup::new([unreachable]).allocate(), quotas([(1, 4)]));
        let limited = ReadyLane { connections: Some(3), ..lane(1, "bulk", 50, "relay") };
        assert_eq!(Setup::new([limited]).with_messages(1, 2, 1).allocate(), quotas([(1, 4)]));
        // The limit counts recipients, also those of one message.
        let unreachable = ReadyLane { blocked_since: Some(DateTime::UNIX_EPOCH), ..lane(1, "bulk", 50, "relay") };
        assert_eq!(Setup::new([unreachable.clone()]).with_messages(1, 1, 3).allocate(), quotas([(1, 1)]));
        assert_eq!(Setup::new([unreachable]).with_messages(1, 1, 4).allocate(), quotas([]));
        assert_eq!(Setup::new([lane(1, "bulk", 50, "mx")]).with_messages(1, 1, 4).allocate(), quotas([]));
    }
}
