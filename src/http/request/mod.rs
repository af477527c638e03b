//! Reads requests: parameters, headers, bodies and forms, and the files and templates that they refer to.

pub(super) mod body;
pub(super) mod form;
pub(super) mod idempotency;
pub(super) mod params;
pub(super) mod references;
pub(super) mod send_body;
