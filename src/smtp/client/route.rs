//! What the sender is told about one message: where it goes and for whom it is.

use crate::domain::address::Address;
use crate::domain::routing::RouteName;

/// Where a message goes next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Route {
    /// Through the relays of this name, which is not `mx`.
    Relay(RouteName),
    /// To the domain's own mail exchangers.
    Mx {
        /// A domain as in [`Address::domain`], or an address literal such as `[192.0.2.1]`.
        domain: String,
    },
}

/// The SMTP envelope (RFC 5321 §2.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The return path; `None` is `<>`.
    pub from: Option<Address>,
    /// The recipients, each of whom gets an outcome.
    pub to: Vec<Address>,
    /// What is asked of a server that offers delivery status notifications.
    pub dsn: Option<Dsn>,
}

/// Which notifications are wanted (RFC 3461): of failure and delay always, with the header of the message and no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dsn {
    /// What names the message in them (ENVID): printable ASCII, at most 100 characters.
    pub envelope_id: String,
    /// Whether of success too.
    pub success: bool,
}
