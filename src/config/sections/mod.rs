//! The sections of the configuration, each with its checks.

pub(super) mod accept;
pub(super) mod attachments;
pub(super) mod dashboard;
pub(super) mod database;
pub(super) mod delivery;
pub(super) mod dkim;
pub(super) mod domains;
pub(super) mod http;
pub(super) mod inbound;
pub(super) mod log;
pub(super) mod metrics;
pub(super) mod resend;
pub(super) mod restore_guard;
pub(super) mod retention;
pub(super) mod return_path;
pub(super) mod routes;
pub(super) mod simulator;
pub(super) mod submission;
pub(super) mod timeouts;
pub(super) mod webhooks;
