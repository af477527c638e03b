//! SMTP (RFC 5321): the client that delivers messages (`client`), the server that receives bounces and submissions
//! (`inbound`), and the MTA-STS policies of recipient domains (`sts`). Knows no database.
//!
//! [`Sender::send`] takes a [`Route`], an [`Envelope`] and the finished MIME, and returns one
//! [`Outcome`](crate::domain::outcome::Outcome) per recipient. It never fails: every failure is an outcome.
//!
//! From the socket upward: `client/connection` is one connection (replies, TLS, EHLO, AUTH, the open session);
//! `client/transaction` sends one message over a session; `client/pool` keeps sessions, and limits how many there may be;
//! `client/mx` finds a domain's servers; `client/server_delivery` sends a message to one server, `client/failover` to the first of
//! several that accepts or refuses it; `client/sender` joins them. `client/send_options` is what a caller asks for,
//! `client/policies` how sessions are opened; `client/check` tries relays out without a message.
//!
//! What it promises:
//! - every recipient has its own answer, judged by the reply that was meant for it;
//! - a server that cannot be reached or understood is a temporary failure, and so are refused credentials;
//! - once the final dot may have been seen, a lost link is [`Uncertain`](crate::domain::outcome::Verdict::Uncertain), and
//!   before it never is;
//! - a call that is dropped midway closes its connection; no session is used again in an unknown state.

mod client;
pub mod inbound;
mod sts;

pub use crate::domain::relay::{Login, Mechanism, Password, Relay, RelayError, TlsMode};
pub use client::check::Checked;
pub use client::route::{Dsn, Envelope, Route};
pub use client::send_options::{Limits, SendGuard, SendOptions};
pub use client::sender::Sender;
pub use client::server_delivery::NotBegun;
pub use client::settings::{MtaSts, Settings, SetupError, Timeouts};
