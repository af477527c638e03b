//! Speaks SMTP (RFC 5321) to other mail servers. Knows no database.
//!
//! [`Sender::send`] takes a [`Route`], an [`Envelope`] and the finished MIME, and answers one
//! [`Outcome`](crate::domain::outcome::Outcome) per recipient. It never fails: every failure is an outcome.
//!
//! From the socket upward: `reply` makes replies of octets and `body` octets of a mail; `wire` is one connection;
//! `handshake` opens it (greeting, EHLO, STARTTLS, AUTH), `session` is what then stays open, `transaction` hands one mail
//! over (`message` is what goes in and comes out, `recipient_limit` how many a server takes at once), `dsn` what it asks to be told; `pool` keeps sessions for the next mail; `gate` and `lane` say how many there may be; `mx` finds a domain's
//! servers, `mx_guard` says which addresses may be theirs, `sts` its policy, `direct` both; `failover` asks servers in turn; `hand_over` gives a mail to one
//! server; `sender` joins them. `policies` say how sessions are opened, `terms` what a caller asks for, `check` tries
//! relays out without a mail.
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
