//! Delivers claimed recipients: loads their messages ([`dispatch`]), prepares and sends each ([`attempt`]), and turns
//! outcomes into transitions ([`transition`]).

pub(crate) mod attempt;
pub(crate) mod dispatch;
pub(crate) mod envelopes;
pub(crate) mod inbound_relays;
pub(crate) mod lease_check;
pub(crate) mod message;
pub(crate) mod quarantined;
pub(crate) mod send_options;
pub(crate) mod traced_lanes;
pub(crate) mod transition;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::claim::allocation::URGENT;
use super::lease::Leases;
use super::lease::crash_quarantine::CrashQuarantine;
use super::outcome::recorder::OutcomeRecorder;
use super::outcome::retry_policy_cache::RetryPolicyCache;
use crate::clock::SharedClock;
use crate::db::Db;
use crate::db::lanes::dedicated::DedicatedLanes;
use crate::db::queue::Claimed;
use crate::domain::message::unsubscribe::Links;
use crate::domain::routing::RouteTable;
use crate::limiter::ReservedPermit;
use crate::rendering::Renderer;
use crate::simulator::Simulator;
use crate::smtp;
use crate::telemetry::KeyedLogLimit;
use envelopes::Returns;
use inbound_relays::InboundRelays;
use message::memory_budget::MessageMemory;
use message::signing::Signing;
use traced_lanes::TracedLanes;

/// The dependencies of deliveries.
#[derive(Debug)]
pub(crate) struct DeliverContext {
    pub db: Db,
    pub clock: SharedClock,
    pub leases: Arc<Leases>,
    pub recorder: OutcomeRecorder,
    pub sender: Arc<smtp::Sender>,
    /// Plays the last hop of messages to simulator addresses.
    pub simulator: Arc<Simulator>,
    pub signing: Signing,
    pub retry_policies: RetryPolicyCache,
    pub quarantine: CrashQuarantine,
    pub memory: MessageMemory,
    /// The domains with dedicated lanes.
    pub dedicated_lanes: Arc<DedicatedLanes>,
    pub traced_lanes: Arc<TracedLanes>,
    pub routes: RouteTable,
    /// The servers to which received messages are passed on.
    pub inbound_relays: Arc<InboundRelays>,
    pub returns: Option<Returns>,
    pub links: Option<Links>,
    /// Renders the bodies of messages of bulks.
    pub renderer: Arc<Renderer>,
    /// Limits the log lines about messages of one domain or stream that cannot be prepared.
    pub preparation_failures: KeyedLogLimit,
    /// Cancelled when no more attempts may start.
    pub closing: CancellationToken,
    pub tasks: TaskTracker,
}

impl DeliverContext {
    /// Reserves the memory for a message with `size` bytes of content, if it is free. `claimed` are its recipients.
    pub(crate) fn try_reserve_memory(&self, size: i64, claimed: &[Claimed]) -> Option<ReservedPermit> {
        self.memory.try_reserve(size, self.is_urgent(claimed))
    }

    /// Waits until the memory for a message with `size` bytes of content is free, and reserves it.
    pub(crate) async fn reserve_memory(&self, size: i64, claimed: &[Claimed]) -> ReservedPermit {
        self.memory.reserve(size, self.is_urgent(claimed)).await
    }

    fn is_urgent(&self, claimed: &[Claimed]) -> bool {
        let lane = claimed.first().and_then(|row| self.leases.in_flight.lane(row.lane_id));
        lane.is_some_and(|lane| lane.priority <= URGENT)
    }

    /// Prevents new attempts: a message that waits for a connection, for memory or in quarantine is released at once.
    pub(crate) fn close(&self) {
        self.closing.cancel();
        self.sender.stop_starting();
    }
}
