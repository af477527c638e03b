//! The sections about how messages are sent.

pub(in crate::config) mod delivery;
pub(in crate::config) mod dkim;
pub(in crate::config) mod domains;
pub(in crate::config) mod return_path;
pub(in crate::config) mod routes;
pub(in crate::config) mod simulator;
pub(in crate::config) mod timeouts;
