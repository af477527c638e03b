//! How many recipients a claim may take of each lane. Pure.
//!
//! The most urgent priority first. Within one, what is free is divided three times over: among the routes, among each
//! route's streams by weight, among each stream's lanes; each time so that those that have little in hand come first.
//! Nobody gets more than it can use: what only waits for a connection would keep others from a hand.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::lane_stats::Recent;
use crate::db::lanes::ReadyLane;
use crate::db::limits::DEPTH;
use crate::domain::fair_share::{self, Claimant};
use crate::worker::lease::in_flight::LaneInFlight;

/// A lane that is this urgent may use every hand; one with a higher number leaves a quarter of them for it.
pub(crate) const URGENT: i16 = 10;
/// Recipients of a lane in hand before anybody has seen a session of its destination, or while that is blocked.
const PROBE_CONCURRENCY: usize = 4;
/// What a route sends in so many seconds may be in hand beside what its connections need: while it is sent the next
/// claim is under way.
const PREFETCH: f64 = 0.1;

/// What the division goes by.
#[derive(Debug)]
pub(crate) struct Capacity<'a> {
    /// InFlight in all.
    pub capacity: usize,
    /// Those that are free.
    pub free: usize,
    /// Connections of this process to one destination.
    pub connections: usize,
    /// What is in hand.
    pub in_hand: &'a HashMap<i64, LaneInFlight>,
    /// How the lanes have been going.
    pub recent: &'a HashMap<i64, Recent>,
}

/// Lanes that get room, and how many recipients of each may be claimed.
pub(crate) fn allocate(ready: &[Arc<ReadyLane>], situation: &Capacity) -> Vec<(Arc<ReadyLane>, usize)> {
    let mut by_priority = BTreeMap::<i16, Vec<&Arc<ReadyLane>>>::new();
    for lane in ready {
        by_priority.entry(lane.priority).or_default().push(lane);
    }
    let mut free = situation.free;
    let mut rooms = Vec::new();
    for (priority, lanes) in by_priority {
        // The last quarter is for what is urgent; the last eighth for destinations that have nothing in hand yet.
        let mut usable = usable_by(priority, situation.capacity, free);
        let newcomers = usable.min(situation.capacity / 8);
        usable -= newcomers;
        let routes = Routes::of(priority, &lanes, situation);
        let mut given = routes.fill(usable, |_| true);
        let left = usable - given.values().sum::<usize>() + newcomers;
        for (lane, rows) in routes.fill(left, |route| route.held == 0 && !given.contains_key(&route.first())) {
            given.insert(lane, rows);
        }
        free -= given.values().sum::<usize>();
        rooms.extend(lanes.into_iter().filter_map(|lane| Some((lane.clone(), *given.get(&lane.id)?))));
    }
    rooms
}

/// Of `free` hands, those that all of these lanes may use.
pub(crate) fn usable(capacity: usize, free: usize, rooms: &[(Arc<ReadyLane>, usize)]) -> usize {
    rooms.iter().map(|(lane, _)| usable_by(lane.priority, capacity, free)).min().unwrap_or(free)
}

fn usable_by(priority: i16, capacity: usize, free: usize) -> usize {
    free.saturating_sub(if priority > URGENT { capacity / 4 } else { 0 })
}

/// The destinations of one priority: a relay is one with all its lanes, on the way to MX each lane is.
struct Routes<'a>(Vec<Route<'a>>);

struct Route<'a> {
    held: usize,
    room: usize,
    streams: Vec<Stream<'a>>,
}

struct Stream<'a> {
    held: usize,
    weight: u32,
    lanes: Vec<(&'a ReadyLane, Claimant)>,
}

impl<'a> Routes<'a> {
    fn of(priority: i16, ready: &[&'a Arc<ReadyLane>], situation: &Capacity) -> Self {
        let mut by_route = BTreeMap::<(&str, Option<i64>), BTreeMap<_, Vec<&'a ReadyLane>>>::new();
        for lane in ready {
            let one = lane.is_mx().then_some(lane.id);
            let streams = by_route.entry((&lane.route, one)).or_default();
            streams.entry((lane.tenant_id, &lane.stream)).or_default().push(lane);
        }
        let through_relays = situation.through_relays(priority);
        let of = |((route, one), streams): (_, BTreeMap<_, Vec<&'a ReadyLane>>)| match one {
            Some(id) => Route::direct(id, streams.into_values(), situation),
            None => Route::through(priority, &through_relays, route, streams.into_values(), situation),
        };
        Self(by_route.into_iter().map(of).collect())
    }

    /// What each lane gets of `total`.
    fn fill(&self, total: usize, wants: impl Fn(&Route) -> bool) -> BTreeMap<i64, usize> {
        let routes: Vec<&Route> = self.0.iter().filter(|route| wants(route)).collect();
        let claimants: Vec<Claimant> = routes.iter().map(|route| route.claimant()).collect();
        let mut given = BTreeMap::new();
        for (route, total) in routes.into_iter().zip(fair_share::divide(total, &claimants)) {
            let claimants: Vec<Claimant> = route.streams.iter().map(Stream::claimant).collect();
            for (stream, total) in route.streams.iter().zip(fair_share::divide(total, &claimants)) {
                let claimants: Vec<Claimant> = stream.lanes.iter().map(|(_, claimant)| *claimant).collect();
                let shares = stream.lanes.iter().map(|(lane, _)| lane.id).zip(fair_share::divide(total, &claimants));
                given.extend(shares.filter(|(_, rows)| *rows > 0));
            }
        }
        given
    }
}

impl<'a> Route<'a> {
    /// Straight to a domain: it is one lane.
    fn direct(id: i64, streams: impl Iterator<Item = Vec<&'a ReadyLane>>, situation: &Capacity) -> Self {
        let held = situation.rows(id);
        let streams: Vec<Stream> = streams.map(|lanes| Stream::of(&lanes, held, situation)).collect();
        Self { held, room: streams.iter().map(Stream::room).sum(), streams }
    }

    /// Through a relay, of which `in_hand` may be lanes of any.
    fn through(
        priority: i16,
        in_hand: &[(&ReadyLane, &LaneInFlight)],
        route: &str,
        streams: impl Iterator<Item = Vec<&'a ReadyLane>>,
        situation: &Capacity,
    ) -> Self {
        let in_hand: Vec<_> = in_hand.iter().copied().filter(|(lane, _)| lane.route == route).collect();
        let rows = |is_meant: &dyn Fn(&ReadyLane) -> bool| {
            in_hand.iter().filter(|(lane, _)| is_meant(lane)).map(|(_, in_lane)| in_lane.rows).sum()
        };
        let of = |lanes: Vec<&'a ReadyLane>| {
            let first = lanes.first().copied();
            let is_of_stream = |lane: &ReadyLane| {
                first.is_some_and(|first| (lane.tenant_id, &lane.stream) == (first.tenant_id, &first.stream))
            };
            Stream::of(&lanes, rows(&is_of_stream), situation)
        };
        let streams: Vec<Stream> = streams.map(of).collect();
        let held = rows(&|_| true);
        let wanted: usize = streams.iter().map(Stream::room).sum();
        let most = situation.relay_limit(priority, &in_hand);
        Self { held, room: wanted.min(most.saturating_sub(held)), streams }
    }

    fn claimant(&self) -> Claimant {
        Claimant { held: self.held, room: self.room, weight: self.streams.iter().map(|stream| stream.weight).sum() }
    }

    fn first(&self) -> i64 {
        self.streams.first().and_then(|stream| stream.lanes.first()).map_or(0, |(lane, _)| lane.id)
    }
}

impl<'a> Stream<'a> {
    fn of(lanes: &[&'a ReadyLane], held: usize, situation: &Capacity) -> Self {
        let claimant = |lane: &&'a ReadyLane| {
            let (held, room) = (situation.rows(lane.id), situation.lane_room(lane));
            (*lane, Claimant { held, room, weight: 1 })
        };
        let weight = lanes.first().map_or(1, |lane| u32::try_from(lane.weight).unwrap_or(1));
        Self { held, weight, lanes: lanes.iter().map(claimant).collect() }
    }

    fn room(&self) -> usize {
        self.lanes.iter().map(|(_, claimant)| claimant.room).sum()
    }

    fn claimant(&self) -> Claimant {
        Claimant { held: self.held, room: self.room(), weight: self.weight }
    }
}

impl Capacity<'_> {
    /// Recipients of a lane in hand.
    fn rows(&self, lane: i64) -> usize {
        self.in_hand.get(&lane).map_or(0, |in_lane| in_lane.rows)
    }

    /// What is in hand of relays' lanes.
    fn through_relays(&self, priority: i16) -> Vec<(&ReadyLane, &LaneInFlight)> {
        let known = self.in_hand.values().filter_map(|in_lane| Some((in_lane.lane.as_deref()?, in_lane)));
        known.filter(|(lane, _)| lane.priority == priority && !lane.is_mx()).collect()
    }

    /// Recipients of a relay's lanes that are of use in hand.
    fn relay_limit(&self, priority: i16, in_hand: &[(&ReadyLane, &LaneInFlight)]) -> usize {
        if priority <= URGENT {
            return self.capacity;
        }
        let pace: f64 = in_hand.iter().filter_map(|(lane, _)| self.recent.get(&lane.id)).map(|it| it.attempted).sum();
        let (rows, mails) = in_hand.iter().fold((0, 0), |(r, m), (_, in_lane)| (r + in_lane.rows, m + in_lane.mails()));
        // A mail with many recipients takes one connection like any other.
        (self.connections * DEPTH + ahead(pace)) * recipients_a_mail(rows, mails)
    }

    /// How many more recipients of a lane are of use in hand. Of a limited lane so many mails: what else is due of each
    /// comes along.
    fn lane_room(&self, lane: &ReadyLane) -> usize {
        let (rows, mails) = self.in_hand.get(&lane.id).map_or((0, 0), |in_lane| (in_lane.rows, in_lane.mails()));
        let limit = |limit: Option<i32>| limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let most = limit(lane.connections).saturating_mul(DEPTH).min(limit(lane.stream_concurrency));
        let trust = self.recent.get(&lane.id).map_or(0, |recent| recent.trust);
        if lane.blocked_since.is_some() || (lane.is_mx() && trust == 0) {
            // A probe, whoever it is for: all that is in hand waits for a dead server's time-out.
            return most.min(PROBE_CONCURRENCY).saturating_sub(rows).min(self.capacity.saturating_sub(rows));
        }
        // Slow at first: the first mails of a server that dies wait for its time-out.
        let most = if lane.is_mx() {
            let pace = self.recent.get(&lane.id).map_or(0.0, |recent| recent.attempted);
            let of_use = self.connections * DEPTH + ahead(pace).min(self.capacity / 8);
            most.min(of_use).min(trust.saturating_mul(2).saturating_add(PROBE_CONCURRENCY))
        } else {
            most
        };
        let more = if lane.is_limited() {
            most.saturating_sub(mails)
        } else {
            most.saturating_mul(recipients_a_mail(rows, mails)).saturating_sub(rows)
        };
        more.min(self.capacity.saturating_sub(rows))
    }
}

/// Mails that may be in hand beside what connections need, where so many are sent a second.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "far below 2^52, and not negative")]
fn ahead(pace: f64) -> usize {
    (pace * PREFETCH) as usize
}

/// As far as is known.
fn recipients_a_mail(rows: usize, mails: usize) -> usize {
    rows.max(1).div_ceil(mails.max(1))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::db::queue::Claimed;
    use crate::worker::lease::in_flight::InFlight;

    /// A process of 256 hands, with 16 connections to each destination.
    struct World {
        lanes: Vec<Arc<ReadyLane>>,
        in_flight: InFlight,
        recent: HashMap<i64, Recent>,
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

    impl World {
        fn new(lanes: impl IntoIterator<Item = ReadyLane>) -> Self {
            let lanes = lanes.into_iter().map(Arc::new).collect();
            Self { lanes, in_flight: InFlight::new(256), recent: HashMap::new(), claimed: 0 }
        }

        /// Has so many mails of a lane in hand, each to so many.
        fn has(mut self, lane: i64, mails: usize, recipients: usize) -> Self {
            for _ in 0..mails {
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

        fn trusts(mut self, lanes: impl IntoIterator<Item = i64>) -> Self {
            let recent = Recent { trust: 1_000, ..Recent::default() };
            self.recent.extend(lanes.into_iter().map(|lane| (lane, recent)));
            self
        }

        /// Room by lane.
        fn divide(&self) -> BTreeMap<i64, usize> {
            let situation = Capacity {
                capacity: 256,
                free: self.in_flight.free(),
                connections: 16,
                in_hand: &self.in_flight.by_lane(),
                recent: &self.recent,
            };
            allocate(&self.lanes, &situation).into_iter().map(|(lane, rows)| (lane.id, rows)).collect()
        }
    }

    fn rooms<const N: usize>(rooms: [(i64, usize); N]) -> BTreeMap<i64, usize> {
        rooms.into()
    }

    #[test]
    fn bulk_through_a_relay_takes_what_its_connections_need_and_urgent_mail_the_rest() {
        let world = World::new([lane(1, "bulk", 50, "relay"), lane(2, "transactional", 10, "relay")]);
        assert_eq!(world.divide(), rooms([(1, 32), (2, 224)]).into_iter().filter(|(id, _)| *id == 2).collect());
        let world = World::new([lane(1, "bulk", 50, "relay")]);
        assert_eq!(world.divide(), rooms([(1, 32)]));
        assert_eq!(world.has(1, 32, 1).divide(), rooms([]));
    }

    #[test]
    fn a_relay_that_is_fast_has_more_in_hand() {
        let mut world = World::new([lane(1, "bulk", 50, "relay")]).has(1, 32, 1);
        world.recent.insert(1, Recent { attempted: 400.0, ..Recent::default() });
        assert_eq!(world.divide(), rooms([(1, 40)]));
    }

    #[test]
    fn a_domain_that_is_fast_has_more_in_hand_but_not_all() {
        let mut world = World::new([lane(1, "bulk", 50, "mx")]).trusts([1]);
        for (attempted, room) in [(0.0, 32), (200.0, 52), (4_000.0, 64)] {
            world.recent.insert(1, Recent { attempted, trust: 1_000, ..Recent::default() });
            assert_eq!(world.divide(), rooms([(1, room)]), "{attempted} a second");
        }
    }

    #[test]
    fn mails_to_many_take_one_connection_each() {
        let world = World::new([lane(1, "bulk", 50, "relay")]).has(1, 4, 5);
        assert_eq!(world.divide(), rooms([(1, 140)]));
    }

    #[test]
    fn a_limit_of_connections_counts_mails_and_not_their_recipients() {
        let limited = ReadyLane { connections: Some(3), ..lane(1, "bulk", 50, "relay") };
        assert_eq!(World::new([limited.clone()]).has(1, 1, 50).divide(), rooms([(1, 5)]));
        assert_eq!(World::new([limited]).has(1, 6, 2).divide(), rooms([]));
        let domain = || World::new([lane(1, "bulk", 50, "mx")]).trusts([1]);
        assert_eq!(domain().has(1, 2, 10).divide(), rooms([(1, 140)]), "16 connections for twice as many mails of ten");
    }

    #[test]
    fn streams_of_one_priority_share_by_weight() {
        let light = ReadyLane { weight: 10, ..lane(1, "news", 50, "relay") };
        let heavy = ReadyLane { weight: 30, ..lane(2, "digest", 50, "relay") };
        assert_eq!(World::new([light.clone(), heavy.clone()]).divide(), rooms([(1, 8), (2, 24)]));
        assert_eq!(World::new([light, heavy]).has(1, 20, 1).divide(), rooms([(2, 12)]));
    }

    #[test]
    fn a_domain_that_has_shown_nothing_begins_with_a_few() {
        let world = World::new([lane(1, "bulk", 50, "mx"), lane(2, "bulk", 50, "mx")]);
        assert_eq!(world.divide(), rooms([(1, 4), (2, 4)]));
        assert_eq!(world.trusts([2]).divide(), rooms([(1, 4), (2, 32)]));
    }

    #[test]
    fn domains_that_are_slow_leave_an_eighth_to_those_that_have_nothing_in_hand() {
        let slow = (1..=10).map(|id| lane(id, "bulk", 50, "mx"));
        let world = World::new(slow.chain([lane(11, "bulk", 50, "mx")])).trusts(1..=11);
        let world = (1..=10).fold(world, |world, id| world.has(id, 16, 1));
        assert_eq!(world.divide(), rooms([(11, 32)]));
    }

    #[test]
    fn what_is_blocked_is_probed_by_few_and_limits_count() {
        let blocked = ReadyLane { blocked_since: Some(DateTime::UNIX_EPOCH), ..lane(1, "bulk", 50, "relay") };
        assert_eq!(World::new([blocked]).divide(), rooms([(1, 4)]));
        let limited = ReadyLane { connections: Some(3), ..lane(1, "bulk", 50, "relay") };
        assert_eq!(World::new([limited]).has(1, 2, 1).divide(), rooms([(1, 4)]));
        // However many a mail is for.
        let blocked = ReadyLane { blocked_since: Some(DateTime::UNIX_EPOCH), ..lane(1, "bulk", 50, "relay") };
        assert_eq!(World::new([blocked.clone()]).has(1, 1, 3).divide(), rooms([(1, 1)]));
        assert_eq!(World::new([blocked]).has(1, 1, 4).divide(), rooms([]));
        assert_eq!(World::new([lane(1, "bulk", 50, "mx")]).has(1, 1, 4).divide(), rooms([]));
    }
}
