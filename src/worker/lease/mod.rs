//! Keeps, releases and recovers the leases of this worker.

pub(crate) mod crash_quarantine;
pub(crate) mod heartbeat;
pub(crate) mod identity;
pub(crate) mod in_flight;
pub(crate) mod lost_claims;
pub(crate) mod permits;
pub(crate) mod release;
pub(crate) mod rescue;
