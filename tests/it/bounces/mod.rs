//! Bounces and complaints that come back.

mod inbound_api;
mod inbound_server;
mod returned_bounces;
