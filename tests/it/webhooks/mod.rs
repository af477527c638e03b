//! Webhook endpoints and deliveries.

mod delivery;
mod endpoints;
mod failures;
mod kills;
mod secrets;
mod targets;
