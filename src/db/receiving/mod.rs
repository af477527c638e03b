//! The tables `inbound_routes` and `received_messages`.

pub mod greylist;
pub mod messages;
pub mod routes;
