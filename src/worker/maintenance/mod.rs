//! Periodic tasks besides deliveries.

pub(crate) mod cleanup;
pub(crate) mod domain_checks;
pub(crate) mod expire_closed_lanes;
pub(crate) mod expired_suppressions;
mod objects;
pub(crate) mod ready_watermark;
pub(crate) mod retention;
pub(crate) mod statistics;
pub(crate) mod tenant_deletion;
pub(crate) mod webhook_secrets;
