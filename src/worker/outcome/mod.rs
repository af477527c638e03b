//! The steps after an attempt: its outcome is recorded ([`recorder`]), and lowers or raises the limits of its
//! destination ([`adaptive_limits`]).

pub(crate) mod adaptive_limits;
mod attempt_metrics;
pub(crate) mod recorder;
pub(crate) mod retry_policy_cache;
pub(crate) mod throttle_attribution;

use std::sync::Arc;

use super::claim::lane_stats::LaneStats;
use super::lease::Leases;
use crate::clock::SharedClock;
use crate::db::Db;
use crate::db::lanes::dedicated::DedicatedLanes;
use crate::smtp;

/// The dependencies of recording outcomes.
#[derive(Debug)]
pub(crate) struct RecordContext {
    pub db: Db,
    pub clock: SharedClock,
    pub leases: Arc<Leases>,
    pub lane_stats: Arc<LaneStats>,
    pub sender: Arc<smtp::Sender>,
    /// The domains with dedicated lanes.
    pub dedicated_lanes: Arc<DedicatedLanes>,
}
