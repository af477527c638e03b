//! The types of values that several sections use, and their checks.

pub(super) mod duration;
pub(super) mod period;
pub(super) mod range;
pub(super) mod secret_key;
pub(super) mod secret_url;
