//! The sections of the configuration, each with its checks.

pub(super) mod api;
pub(super) mod attachments;
pub(super) mod database;
pub(super) mod log;
pub(super) mod metrics;
pub(super) mod receiving;
pub(super) mod restore_guard;
pub(super) mod retention;
pub(super) mod sending;
pub(super) mod webhooks;
