use std::collections::VecDeque;

use chrono::DateTime;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::db::queue::Claimed;
use crate::worker::lease::in_flight::InFlight;

/// A process with at most 256 recipients in flight, and 16 connections to each destination.
struct Setup {
    lanes: Vec<Arc<ReadyLane>>,
    in_flight: InFlight,
    recent: HashMap<i64, RecentStats>,
    turns: Turns,
    /// Maximum number of connections to one destination.
    connections: usize,
    /// The messages in flight that [`Setup::claims`] claimed, the oldest first.
    sending: VecDeque<Claimed>,
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
        tenant_weight: 100,
        ready_at: DateTime::UNIX_EPOCH,
        connections: None,
        messages_per_connection: None,
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
        let (in_flight, recent, turns) = (InFlight::new(256), HashMap::new(), Turns::default());
        Self { lanes, in_flight, recent, turns, connections: 16, sending: VecDeque::new(), claimed: 0 }
    }

    /// Puts messages of a lane in flight, each with this many recipients.
    fn with_messages(mut self, lane: i64, messages: usize, recipients: usize) -> Self {
        self.add_messages(lane, messages, recipients);
        self
    }

    fn add_messages(&mut self, lane: i64, messages: usize, recipients: usize) -> Vec<Claimed> {
        let mut added = Vec::new();
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
            added.extend(self.in_flight.insert((0..recipients).map(row).collect(), &self.lanes));
        }
        added
    }

    fn with_sessions(mut self, lanes: impl IntoIterator<Item = i64>) -> Self {
        let recent = RecentStats { sessions_since_failure: 1_000, ..RecentStats::default() };
        self.recent.extend(lanes.into_iter().map(|lane| (lane, recent)));
        self
    }

    /// Returns the quotas by lane.
    fn allocate(&self) -> BTreeMap<i64, usize> {
        let quotas = self.allocation().quotas.into_iter();
        quotas.map(|quota| (quota.lane.id, quota.recipients)).collect()
    }

    fn allocation(&self) -> Allocation {
        let capacity = Capacity {
            total: 256,
            recipients: self.in_flight.capacity(),
            free: self.in_flight.free(),
            connections: self.connections,
            in_flight: &self.in_flight.usage(),
            recent: &self.recent,
            turns: &self.turns,
        };
        allocate(&self.lanes, &capacity)
    }

    /// Claims as many recipients as are allocated, all of which are due, and returns them.
    fn claim(&mut self) -> Vec<Claimed> {
        let allocation = self.allocation();
        let quotas: BTreeMap<i64, usize> =
            allocation.quotas.iter().map(|quota| (quota.lane.id, quota.recipients)).collect();
        self.turns.record(&allocation, |lane| quotas.get(&lane).copied().unwrap_or(0));
        quotas.into_iter().flat_map(|(lane, recipients)| self.add_messages(lane, recipients, 1)).collect()
    }

    /// Claims `count` times, whenever one message was sent. Returns the number of messages claimed from each lane.
    fn claims(&mut self, count: usize) -> BTreeMap<i64, usize> {
        let mut by_lane = BTreeMap::new();
        for _ in 0..count {
            let claimed = self.claim();
            for row in &claimed {
                *by_lane.entry(row.lane_id).or_default() += 1;
            }
            self.sending.extend(claimed);
            if let Some(sent) = self.sending.pop_front() {
                self.in_flight.release([&sent].into_iter());
            }
        }
        by_lane
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

/// Returns the lane as one of the tenant with this number.
fn of_tenant(tenant: u128, lane: ReadyLane) -> ReadyLane {
    ReadyLane { tenant_id: Uuid::from_u128(tenant), ..lane }
}

#[test]
fn tenants_share_a_relay_by_weight() {
    let light = of_tenant(1, lane(1, "bulk", 50, "relay"));
    let heavy = ReadyLane { tenant_weight: 300, ..of_tenant(2, lane(2, "bulk", 50, "relay")) };
    assert_eq!(Setup::new([light.clone(), heavy.clone()]).allocate(), quotas([(1, 8), (2, 24)]));
    assert_eq!(Setup::new([light, heavy]).with_messages(1, 20, 1).allocate(), quotas([(2, 12)]));
}

#[test]
fn tenant_with_many_streams_gets_no_larger_share_of_a_relay() {
    let many = (1..=7).map(|id| of_tenant(1, lane(id, &format!("s{id}"), 50, "relay")));
    let setup = Setup::new(many.chain([of_tenant(2, lane(8, "bulk", 50, "relay"))]));
    let allocated = setup.allocate();
    assert_eq!((allocated.values().sum::<usize>(), allocated[&8]), (32, 16));
}

#[test]
fn tenant_with_many_domains_leaves_others_their_share() {
    let many = (1..=100).map(|id| of_tenant(1, lane(id, "bulk", 50, "mx")));
    let setup = Setup::new(many.chain([of_tenant(2, lane(101, "bulk", 50, "mx"))])).with_sessions(1..=101);
    let allocated = setup.allocate();
    assert_eq!((allocated[&101], allocated.values().sum::<usize>()), (32, 160));
    // The other tenant's messages come first when capacity is free again.
    let setup = (1..=90).fold(setup, |setup, id| setup.with_messages(id, 2, 1));
    assert_eq!(setup.allocate(), quotas([(101, 12)]));
}

#[test]
fn capacity_that_a_tenant_cannot_use_goes_to_the_others() {
    let few = ReadyLane { tenant_weight: 1_000, ..of_tenant(1, lane(1, "bulk", 50, "mx")) };
    let setup = Setup::new([few, of_tenant(2, lane(2, "bulk", 50, "relay"))]).with_messages(1, 1, 1);
    assert_eq!(setup.allocate(), quotas([(1, 3), (2, 32)]));
}

#[test]
fn forty_tenants_take_turns_at_eight_messages_of_a_relay() {
    let lanes = (1..=40).zip(1..).map(|(tenant, id)| of_tenant(tenant, lane(id, "bulk", 50, "relay")));
    let mut setup = Setup { connections: 4, ..Setup::new(lanes) };
    let claimed = setup.claims(393);
    assert_eq!(claimed.values().sum::<usize>(), 400);
    assert!(claimed.len() == 40 && claimed.values().all(|count| (9..=11).contains(count)), "{claimed:?}");
}

#[test]
fn light_tenant_is_served_beside_a_heavy_one() {
    let light = ReadyLane { tenant_weight: 1, ..of_tenant(1, lane(1, "bulk", 50, "relay")) };
    let heavy = of_tenant(2, lane(2, "bulk", 50, "relay"));
    let mut setup = Setup { connections: 4, ..Setup::new([heavy, light]) };
    let claimed = setup.claims(1_003);
    assert_eq!(claimed.values().sum::<usize>(), 1_010);
    assert!((8..=12).contains(&claimed[&1]), "{claimed:?}");
}

#[test]
fn tenant_that_was_idle_waits_for_one_turn_of_the_others() {
    let lanes: Vec<ReadyLane> =
        (1..=20).zip(1..).map(|(tenant, id)| of_tenant(tenant, lane(id, "bulk", 50, "relay"))).collect();
    let mut setup = Setup { connections: 2, ..Setup::new(lanes.clone()) };
    setup.claims(100);
    setup.lanes.push(Arc::new(of_tenant(21, lane(21, "bulk", 50, "relay"))));
    let claimed = setup.claims(42);
    assert!((1..=3).contains(&claimed[&21]), "{claimed:?}");
}

proptest! {
    /// A tenant gets more than another one only if the other gets all that it can use, except for the eighth of the
    /// capacity that destinations without messages in flight get.
    #[test]
    fn tenants_with_unmet_demand_get_equal_shares(owners in prop::collection::vec(0_u128..4, 1..80)) {
        let lanes = owners.iter().zip(1..).map(|(tenant, id)| of_tenant(*tenant, lane(id, "bulk", 50, "mx")));
        let setup = Setup::new(lanes).with_sessions(1..=80);
        let allocated = setup.allocate();
        let mut shares = BTreeMap::<u128, (usize, usize)>::new();
        for (tenant, id) in owners.iter().zip(1..) {
            let (share, demand) = shares.entry(*tenant).or_default();
            *share += allocated.get(&id).copied().unwrap_or(0);
            // 16 connections, each with two messages.
            *demand += 32;
        }
        prop_assert!(allocated.values().sum::<usize>() <= 192);
        for (share, _) in shares.values() {
            for (other, demand) in shares.values() {
                prop_assert!(*share <= other + 33 || other == demand, "{shares:?}");
            }
        }
    }
}
