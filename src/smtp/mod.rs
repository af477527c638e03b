//! SMTP (RFC 5321): the client that delivers messages (`client`), the server that receives bounces and submissions
//! (`inbound`), and the MTA-STS policies of recipient domains (`sts`). It does not use the database.
//!
//! [`Sender::send`] takes a [`Route`], an [`Envelope`] and the finished MIME, and returns one
//! [`Outcome`](crate::domain::outcome::Outcome) per recipient. It never fails: every failure is an outcome.
//!
//! From the socket upward: `client/connection` is one connection (replies, TLS, EHLO, AUTH, the open session);
//! `client/transaction` sends one message over a session; `client/pool` reuses sessions and limits their number;
//! `client/mx` finds a domain's mail exchangers; `client/server_delivery` sends a message to one server,
//! `client/failover` to the first of several that accepts or refuses it; `client/sender` joins them.
//! `client/send_options` holds a caller's options, `client/policies` how sessions are opened; `client/check` checks
//! relays without a message.
//!
//! Guarantees:
//! - every recipient gets an outcome, which is decided by the reply to its command;
//! - a server that cannot be reached or understood is a temporary failure, and so are refused credentials;
//! - a recipient is [`Uncertain`](crate::domain::outcome::Verdict::Uncertain) only if the connection was lost when the
//!   server may already have received the final dot;
//! - a call that is dropped midway closes its connection; no session is reused in an unknown state.

mod client;
pub mod inbound;
mod sts;

pub use crate::domain::routing::relay::{Login, Mechanism, Password, Relay, RelayError, TlsMode};
pub use client::check::Checked;
pub use client::route::{Dsn, Envelope, Route};
pub use client::send_options::{Limits, SendGuard, SendOptions};
pub use client::sender::Sender;
pub use client::server_delivery::NotAttempted;
pub use client::settings::{MtaSts, Settings, SetupError, Timeouts};
