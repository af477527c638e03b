//! Speaks SMTP (RFC 5321) to other mail servers. Knows no database.
//!
//! [`Sender::send`] takes a [`Route`], an [`Envelope`] and the finished MIME, and answers one
//! [`Outcome`](crate::domain::outcome::Outcome) per recipient. It never fails: every failure is an outcome.
//!
//! From the socket upward: `reply` makes replies of octets and `body` octets of a mail; `wire` is one connection;
//! `handshake` opens it (greeting, EHLO, STARTTLS, AUTH), `session` is what then stays open, `transaction` hands one mail
//! over; `pool` keeps sessions for the next mail; `mx` finds a domain's servers; `sender` joins them.
//!
//! What it promises:
//! - every recipient has its own answer, judged by the reply that was meant for it;
//! - a server that cannot be reached or understood is a temporary failure, and so are refused credentials;
//! - once the final dot may have been seen, a lost link is [`Uncertain`](crate::domain::outcome::Verdict::Uncertain), and
//!   before it never is;
//! - a call that is dropped midway closes its connection; no session is used again in an unknown state.

mod auth;
mod body;
mod handshake;
pub mod inbound;
mod mx;
mod offer;
mod pool;
mod relay;
mod reply;
mod route;
mod screen;
mod sender;
mod session;
mod settings;
mod tls;
mod transaction;
mod wire;

pub use relay::{Login, Relay, RelayError, TlsMode};
pub use route::{Envelope, Route};
pub use sender::{NotBegun, Sender};
pub use settings::{Settings, SetupError, Timeouts};
