//! Webhook endpoints and the deliveries to them. `endpoint` has the settings, states and secrets of endpoints; `retry`
//! decides when a delivery is retried, and when an endpoint is down or disabled.

pub mod endpoint;
pub mod retry;
