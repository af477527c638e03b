//! Claims due recipients. The number claimed from each lane ([`allocation`]) depends on the lane's limits and on this
//! worker's recent attempts ([`lane_stats`]).

pub(crate) mod allocation;
pub(crate) mod claimer;
pub(crate) mod lane_stats;
pub(crate) mod turns;
pub(crate) mod wake_listener;

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::lease::Leases;
use super::lease::in_flight::LaneUsage;
use crate::clock::SharedClock;
use crate::db::Db;
use crate::db::lanes::ReadyLane;
use crate::smtp;
use allocation::Capacity;
use lane_stats::{LaneStats, RecentStats};
use turns::Turns;

/// The dependencies of claims.
#[derive(Debug)]
pub(crate) struct ClaimContext {
    pub db: Db,
    pub clock: SharedClock,
    pub leases: Arc<Leases>,
    pub lane_stats: Arc<LaneStats>,
    pub sender: Arc<smtp::Sender>,
    /// Maximum number of SMTP transactions of this process at a time.
    pub concurrency: usize,
    /// Maximum number of connections of this process to one destination.
    pub connections: usize,
    /// Whether each recipient gets a separate envelope (VERP).
    pub one_recipient_per_envelope: bool,
}

impl ClaimContext {
    /// Returns the recent statistics of these lanes and of those with recipients in flight.
    pub(crate) fn recent(
        &self,
        lanes: &[Arc<ReadyLane>],
        in_flight: &HashMap<i64, LaneUsage>,
        now: DateTime<Utc>,
    ) -> HashMap<i64, RecentStats> {
        let ids = lanes.iter().map(|lane| lane.id).chain(in_flight.keys().copied());
        self.lane_stats.recent(ids, now)
    }

    /// Returns the capacity to allocate.
    pub(crate) fn capacity<'a>(
        &self,
        free: usize,
        in_flight: &'a HashMap<i64, LaneUsage>,
        recent: &'a HashMap<i64, RecentStats>,
        turns: &'a Turns,
    ) -> Capacity<'a> {
        let (total, recipients) = (self.concurrency, self.leases.in_flight.capacity());
        Capacity { total, recipients, free, connections: self.connections, in_flight, recent, turns }
    }
}
