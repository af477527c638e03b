//! Divides capacity among the tenants, routes, streams and lanes of one priority.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::{Allocated, Capacity};
use crate::db::lanes::ReadyLane;
use crate::domain::limits::fair_queue::{self, Contender, Need};
use crate::domain::limits::fair_share::{self, Claimant};
use crate::worker::claim::turns::{Sharer, Turns};
use crate::worker::lease::in_flight::LaneUsage;

/// The destinations of one priority: each route through relays, with all of its lanes, and each lane that goes directly
/// to MX.
#[allow(clippy::struct_field_names, reason = "the routes are its content")]
pub(super) struct Routes<'a> {
    priority: i16,
    turns: &'a Turns,
    routes: Vec<Route<'a>>,
    /// The tenants of these lanes, in the order of the lanes.
    tenants: Vec<Tenant>,
}

/// A tenant, and its recipients of this priority that are in flight.
struct Tenant {
    id: Uuid,
    weight: u32,
    /// Not counted if there is no other tenant to compare with.
    in_flight: usize,
    /// Why it was not allocated more of the capacity.
    need: Need,
}

pub(super) struct Route<'a> {
    /// The route, if it leads through relays.
    relay: Option<&'a str>,
    pub(super) in_flight: usize,
    demand: usize,
    parts: Vec<Part<'a>>,
}

/// The lanes of one tenant on a route.
struct Part<'a> {
    /// The tenant's index.
    tenant: usize,
    in_flight: usize,
    streams: Vec<Stream<'a>>,
    /// Why it was not allocated more of the route.
    need: Need,
}

struct Stream<'a> {
    in_flight: usize,
    weight: u32,
    lanes: Vec<(&'a ReadyLane, Claimant)>,
}

/// The lanes of a route by tenant and stream.
type LanesByTenant<'a> = BTreeMap<usize, BTreeMap<&'a str, Vec<&'a ReadyLane>>>;

impl<'a> Routes<'a> {
    /// Groups lanes of one priority. Among equals, the tenants of the first lanes come first.
    pub(super) fn new(priority: i16, ready: &[&'a Arc<ReadyLane>], capacity: &Capacity<'a>) -> Self {
        let mut indexes = HashMap::<Uuid, usize>::new();
        let mut tenants = Vec::new();
        let mut by_route = BTreeMap::<(&str, Option<i64>), LanesByTenant<'a>>::new();
        for lane in ready {
            let tenant = *indexes.entry(lane.tenant_id).or_insert_with(|| {
                let weight = u32::try_from(lane.tenant_weight).unwrap_or(1);
                tenants.push(Tenant { id: lane.tenant_id, weight, in_flight: 0, need: Need::None });
                tenants.len() - 1
            });
            let mx_lane = lane.is_mx().then_some(lane.id);
            let streams = by_route.entry((&lane.route, mx_lane)).or_default().entry(tenant).or_default();
            streams.entry(&lane.stream).or_default().push(lane);
        }
        if tenants.len() > 1 {
            for (lane, usage) in capacity.of_priority(priority) {
                if let Some(tenant) = indexes.get(&lane.tenant_id).and_then(|index| tenants.get_mut(*index)) {
                    tenant.in_flight += usage.recipients;
                }
            }
        }
        let through_relays = capacity.through_relays(priority);
        let route = |((route, mx_lane), lanes): (_, LanesByTenant<'a>)| match mx_lane {
            Some(id) => Route::direct(id, lanes, capacity),
            None => Route::through_relay(priority, &through_relays, route, lanes, capacity),
        };
        let routes = by_route.into_iter().map(route).collect();
        Self { priority, turns: capacity.turns, routes, tenants }
    }

    /// Returns the tenants that share the capacity or a relay with others.
    pub(super) fn sharers(&self) -> Vec<Sharer> {
        if self.tenants.len() < 2 {
            return Vec::new();
        }
        let sharer = |relay: Option<&str>, tenant: &Tenant, need| Sharer {
            priority: self.priority,
            relay: relay.map(str::to_owned),
            tenant: tenant.id,
            weight: tenant.weight,
            need,
        };
        let of_process = self.tenants.iter().map(|tenant| sharer(None, tenant, tenant.need));
        let relays = self.routes.iter().filter(|route| route.relay.is_some() && route.parts.len() > 1);
        let of_relays = relays.flat_map(|route| {
            route.parts.iter().filter_map(|part| Some(sharer(route.relay, self.tenants.get(part.tenant)?, part.need)))
        });
        of_process.chain(of_relays).collect()
    }

    /// Returns the share of `total` that each lane gets in addition to what it has in flight and what was `allocated`
    /// to it before. No route gets more than `limit` returns for it.
    pub(super) fn divide(&mut self, total: usize, allocated: &Allocated, limit: impl Fn(&Route) -> usize) -> Allocated {
        let (priority, turns) = (self.priority, self.turns);
        let mut by_tenant: Vec<Vec<(&Part, Claimant)>> = self.tenants.iter().map(|_| Vec::new()).collect();
        for route in &mut self.routes {
            let limit = limit(route);
            let demands = route.demands(priority, turns, &self.tenants, allocated, limit);
            for (part, demand) in route.parts.iter().zip(demands) {
                let claimant = Claimant { demand, ..part.claimant(allocated) };
                if let Some(parts) = by_tenant.get_mut(part.tenant) {
                    parts.push((part, claimant));
                }
            }
        }
        let contender = |(tenant, parts): (&Tenant, &Vec<(&Part, Claimant)>)| {
            let Tenant { id, weight, in_flight, .. } = *tenant;
            let more = parts.iter().map(|(part, _)| part.allocated(allocated)).sum::<usize>();
            let demand = parts.iter().map(|(_, claimant)| claimant.demand).sum();
            let start = turns.start(priority, None, id, weight, more);
            Contender { claimant: Claimant { in_use: in_flight + more, demand, weight }, start }
        };
        let contenders: Vec<Contender> = self.tenants.iter().zip(&by_tenant).map(contender).collect();
        let mut shares = Allocated::new();
        let divided = fair_queue::divide(total, &contenders);
        for ((tenant, parts), share) in self.tenants.iter_mut().zip(by_tenant).zip(divided) {
            tenant.need = tenant.need.max(share.need);
            if share.units == 0 {
                continue;
            }
            let (parts, claimants): (Vec<&Part>, Vec<Claimant>) = parts.into_iter().unzip();
            for (part, total) in parts.into_iter().zip(fair_share::divide(share.units, &claimants)) {
                if total > 0 {
                    part.divide(total, allocated, &mut shares);
                }
            }
        }
        shares
    }
}

impl<'a> Route<'a> {
    /// Creates the route to the mail exchangers of one domain, which is one lane.
    fn direct(id: i64, lanes: LanesByTenant<'a>, capacity: &Capacity) -> Self {
        let in_flight = capacity.recipients(id);
        let part = |(tenant, streams): (usize, BTreeMap<&str, Vec<&'a ReadyLane>>)| {
            let streams = streams.into_values().map(|lanes| Stream::new(&lanes, in_flight, capacity)).collect();
            Part { tenant, in_flight, streams, need: Need::None }
        };
        let parts: Vec<Part> = lanes.into_iter().map(part).collect();
        Self { relay: None, in_flight, demand: parts.iter().map(Part::demand).sum(), parts }
    }

    /// Creates the route through a relay. `in_flight` may contain lanes of other routes.
    fn through_relay(
        priority: i16,
        in_flight: &[(&ReadyLane, &LaneUsage)],
        route: &'a str,
        lanes: LanesByTenant<'a>,
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
        let part = |(tenant, streams): (usize, BTreeMap<&str, Vec<&'a ReadyLane>>)| {
            let id = streams.values().flatten().next().map(|lane| lane.tenant_id);
            let in_flight = recipients(&|lane| Some(lane.tenant_id) == id);
            Part { tenant, in_flight, streams: streams.into_values().map(stream).collect(), need: Need::None }
        };
        let parts: Vec<Part> = lanes.into_iter().map(part).collect();
        let in_flight = recipients(&|_| true);
        let wanted: usize = parts.iter().map(Part::demand).sum();
        let limit = capacity.relay_limit(priority, &own);
        Self { relay: Some(route), in_flight, demand: wanted.min(limit.saturating_sub(in_flight)), parts }
    }

    /// Returns how much each tenant can get of the route, of which at most `limit` is free: the tenants share a
    /// destination's capacity by weight, and take turns.
    fn demands(
        &mut self,
        priority: i16,
        turns: &Turns,
        tenants: &[Tenant],
        allocated: &Allocated,
        limit: usize,
    ) -> Vec<usize> {
        let free = self.demand.saturating_sub(self.allocated(allocated)).min(limit);
        if let [only] = self.parts.as_slice() {
            return vec![only.claimant(allocated).demand.min(free)];
        }
        let contender = |part: &Part| {
            let (id, weight) = tenants.get(part.tenant).map_or((Uuid::nil(), 1), |tenant| (tenant.id, tenant.weight));
            let start = turns.start(priority, self.relay, id, weight, part.allocated(allocated));
            Contender { claimant: Claimant { weight, ..part.claimant(allocated) }, start }
        };
        let contenders: Vec<Contender> = self.parts.iter().map(contender).collect();
        let shares = fair_queue::divide(free, &contenders);
        for (part, share) in self.parts.iter_mut().zip(&shares) {
            part.need = part.need.max(share.need);
        }
        shares.into_iter().map(|share| share.units).collect()
    }

    pub(super) fn allocated(&self, allocated: &Allocated) -> usize {
        self.parts.iter().map(|part| part.allocated(allocated)).sum()
    }
}

impl Part<'_> {
    fn demand(&self) -> usize {
        self.streams.iter().map(Stream::demand).sum()
    }

    fn allocated(&self, allocated: &Allocated) -> usize {
        self.streams.iter().map(|stream| stream.allocated(allocated)).sum()
    }

    /// Returns the part as one of the tenant's routes.
    fn claimant(&self, allocated: &Allocated) -> Claimant {
        let (more, weight) = (self.allocated(allocated), self.streams.iter().map(|stream| stream.weight).sum());
        Claimant { in_use: self.in_flight + more, demand: self.demand().saturating_sub(more), weight }
    }

    /// Adds the share of `total` that each lane gets.
    fn divide(&self, total: usize, allocated: &Allocated, shares: &mut Allocated) {
        let claimants: Vec<Claimant> = self.streams.iter().map(|stream| stream.claimant(allocated)).collect();
        for (stream, total) in self.streams.iter().zip(fair_share::divide(total, &claimants)) {
            let claimants: Vec<Claimant> = stream.lane_claimants(allocated).collect();
            let ids = stream.lanes.iter().map(|(lane, _)| lane.id);
            let lanes = ids.zip(fair_share::divide(total, &claimants));
            shares.extend(lanes.filter(|(_, recipients)| *recipients > 0));
        }
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
