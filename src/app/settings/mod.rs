//! Builds the settings of each part from the configuration.

pub(super) mod api_settings;
pub(super) mod delivery;
pub(crate) mod domains;
pub(super) mod message_limits;
pub(super) mod outbound_http;
pub(super) mod routes;
