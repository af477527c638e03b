//! Whose turn it is: the virtual times of the tenants at each resource that they share, which are the capacity of this
//! process, and the connections of each relay. Each priority has its own, because the more urgent one comes first.
//! [`fair_queue`](crate::domain::limits::fair_queue) has the rule.
//!
//! They are in memory and of this process only: a process that starts begins with equal tenants.

use std::collections::HashMap;

use uuid::Uuid;

use super::allocation::{Allocation, LaneQuota};
use crate::domain::limits::fair_queue::{FairQueue, Need, Turn};

/// The virtual times of all tenants that were served lately.
#[derive(Debug, Default)]
pub(crate) struct Turns(HashMap<i16, Resources>);

/// The resources of one priority.
#[derive(Debug, Default)]
struct Resources {
    process: FairQueue<Uuid>,
    /// By route.
    relays: HashMap<String, FairQueue<Uuid>>,
}

/// A tenant that shares a resource with others, and what it needs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sharer {
    /// The priority of its lanes.
    pub priority: i16,
    /// The relay's route; `None` for the capacity of this process.
    pub relay: Option<String>,
    /// The tenant.
    pub tenant: Uuid,
    /// Its weight.
    pub weight: u32,
    /// Why it was not allocated more.
    pub need: Need,
}

impl Turns {
    /// Returns when the tenant's next unit starts, if it is served `units` more until then. `relay` is as in [`Sharer`].
    pub(crate) fn start(&self, priority: i16, relay: Option<&str>, tenant: Uuid, weight: u32, units: usize) -> u64 {
        let queue = self.0.get(&priority).and_then(|resources| match relay {
            Some(route) => resources.relays.get(route),
            None => Some(&resources.process),
        });
        queue.map_or_else(
            || FairQueue::default().start(tenant, weight, units),
            |queue| queue.start(tenant, weight, units),
        )
    }

    /// Records the result of a claim; `claimed` returns the number of recipients claimed from a lane.
    pub(crate) fn record(&mut self, allocation: &Allocation, claimed: impl Fn(i64) -> usize) {
        if allocation.sharers.is_empty() {
            return;
        }
        let mut by_tenant = HashMap::<(i16, Uuid), Vec<&LaneQuota>>::new();
        for quota in &allocation.quotas {
            by_tenant.entry((quota.lane.priority, quota.lane.tenant_id)).or_default().push(quota);
        }
        let mut by_resource = HashMap::<(i16, Option<&str>), Vec<Turn<Uuid>>>::new();
        for sharer in &allocation.sharers {
            let quotas = by_tenant.get(&(sharer.priority, sharer.tenant)).map_or(&[][..], Vec::as_slice);
            let turn = sharer.turn(quotas, &claimed);
            by_resource.entry((sharer.priority, sharer.relay.as_deref())).or_default().push(turn);
        }
        for ((priority, relay), turns) in by_resource {
            let resources = self.0.entry(priority).or_default();
            match relay {
                Some(route) => resources.relays.entry(route.to_owned()).or_default().serve(&turns),
                None => resources.process.serve(&turns),
            }
        }
        for resources in self.0.values_mut() {
            resources.relays.retain(|_, queue| !queue.is_even());
        }
        self.0.retain(|_, resources| !resources.relays.is_empty() || !resources.process.is_even());
    }
}

impl Sharer {
    /// Returns what the tenant was served of the resource. `quotas` are those of the tenant in this priority.
    fn turn(&self, quotas: &[&LaneQuota], claimed: impl Fn(i64) -> usize) -> Turn<Uuid> {
        let own = quotas.iter().filter(|quota| self.relay.as_ref().is_none_or(|route| *route == quota.lane.route));
        let (quota, units) =
            own.fold((0, 0), |(quota, units), lane| (quota + lane.recipients, units + claimed(lane.lane.id)));
        Turn {
            key: self.tenant,
            weight: self.weight,
            // A quota that was not used at all counts as one unit: otherwise it would be the same tenant's turn again.
            units: units.max(quota.min(1)),
            // A tenant that had less due than it was allocated does not wait.
            need: if units < quota { Need::None } else { self.need },
        }
    }
}
