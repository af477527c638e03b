//! Claims due recipients from the queue.

pub(crate) mod allocation;
pub(crate) mod claimer;
pub(crate) mod lane_stats;
pub(crate) mod wake_listener;
