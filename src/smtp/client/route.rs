//! Where a message goes, and its envelope.

use std::sync::Arc;

use crate::domain::address::Address;
use crate::domain::routing::RouteName;
use crate::domain::routing::relay::Relay;

/// Next hop of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The relays of the route with this name, which is not `mx`.
    Relay(RouteName),
    /// A server that is not in the configuration: users of the API chose it.
    Server {
        /// The route, which has one server at a time.
        name: RouteName,
        /// The server.
        relay: Arc<Relay>,
    },
    /// The domain's mail exchangers.
    Mx {
        /// A domain as in [`Address::domain`], or an address literal such as `[192.0.2.1]`.
        domain: String,
    },
}

/// The SMTP envelope (RFC 5321 §2.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Return path; `None` is `<>`.
    pub from: Option<Address>,
    /// Recipients; each gets an outcome.
    pub to: Vec<Address>,
    /// Notifications to request from a server that supports them.
    pub dsn: Option<Dsn>,
}

/// Delivery status notifications to request (RFC 3461): always of failure and delay, with the header of the message
/// only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dsn {
    /// Identifies the message in notifications (ENVID): printable ASCII, at most 100 characters.
    pub envelope_id: String,
    /// Whether to request notifications of success.
    pub success: bool,
}
