//! Sends messages to other servers over pooled sessions. Each recipient gets one outcome.

pub(super) mod check;
mod chosen_servers;
mod connection;
pub(super) mod failover;
pub(super) mod mx;
pub(super) mod outgoing_message;
pub(super) mod policies;
pub(super) mod pool;
pub(super) mod route;
pub(super) mod send_options;
pub(super) mod sender;
pub(super) mod server_delivery;
pub(super) mod settings;
pub(super) mod transaction;
