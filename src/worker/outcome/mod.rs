//! Records outcomes and learns from them.

pub(crate) mod adaptive_limits;
pub(crate) mod recorder;
pub(crate) mod retry_policy_cache;
pub(crate) mod throttle_attribution;
