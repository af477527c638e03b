//! Reads requests: parameters, headers, bodies, forms, and what they refer to.

pub(super) mod body;
pub(super) mod form;
pub(super) mod idempotency;
pub(super) mod params;
pub(super) mod references;
pub(super) mod send_body;
