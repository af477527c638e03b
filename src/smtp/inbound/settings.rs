//! Name and limits of the server.

use std::time::Duration;

use super::limits::memory::MessageMemory;
use super::tls::Certificate;

/// What a listener does with AUTH (RFC 4954).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// AUTH is not offered.
    None,
    /// AUTH is offered and accepts every user and password, without TLS too: for the development inbox, so that an
    /// application's production settings can be tried. Credentials are discarded.
    AcceptsAny,
    /// AUTH is required before MAIL, and [`Handler::sign_in`](super::Handler::sign_in) checks the credentials. They are
    /// accepted over TLS, or from this machine.
    Required,
}

/// Settings of a [`Server`](super::Server).
#[derive(Debug, Clone)]
pub struct Settings {
    /// The configuration section of the listener, for the log.
    pub section: &'static str,
    /// Name in the greeting and in the reply to EHLO.
    pub hostname: String,
    /// Maximum bytes of a message, announced as SIZE; a larger one gets 552.
    pub max_message: usize,
    /// Maximum bytes stored of a message, from its beginning; the rest is read and discarded.
    pub max_stored: usize,
    /// Maximum recipients of one message; more get 452 (RFC 5321 §4.5.3.1.8 requires at least 100).
    pub max_recipients: usize,
    /// Maximum concurrent sessions; further clients get 421, unless an idle session is evicted for them.
    pub max_connections: usize,
    /// Maximum concurrent sessions of one address, or of one /64 of IPv6; further ones get 421, unless an idle one of
    /// them is evicted.
    pub max_per_peer: usize,
    /// Maximum messages per minute from one address, or from one /64 of IPv6; further ones get 450.
    pub messages_per_minute: Option<u32>,
    /// Memory that the messages in transfer share, so that many large ones at once do not exhaust the memory of the
    /// process; `None` if `max_stored` and `max_connections` are limit enough.
    pub memory: Option<MessageMemory>,
    /// Certificate for TLS; without one STARTTLS is not offered.
    pub certificate: Option<Certificate>,
    /// Whether a session begins with the TLS handshake (RFC 8314 §3.3), which needs a certificate.
    pub implicit_tls: bool,
    /// What the listener does with AUTH.
    pub authentication: Authentication,
    /// Whether the parameters of DSN (RFC 3461) are offered: they are checked, and have no effect.
    pub accepts_dsn: bool,
    /// Maximum refused commands of one session since its last accepted message; one more closes it with 421.
    pub max_errors: u32,
    /// Maximum commands of one session since its last accepted recipient; one more closes it with 421.
    pub max_commands: u32,
    /// Maximum time of a session without a message; then it is closed with 421.
    pub idle_timeout: Duration,
    /// Minimum time without a transaction before a session may be evicted (421) to admit a new client, when all
    /// sessions, or all of a network, are in use.
    pub idle_grace: Duration,
    /// Time limit from one command to the end of the next, and for one write.
    pub command_timeout: Duration,
    /// Time limit from 354 to the final dot, and for each chunk of BDAT.
    pub data_timeout: Duration,
    /// How long a stop waits for sessions in the middle of a message.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            section: "inbound",
            hostname: "localhost".into(),
            max_message: 64 << 20,
            max_stored: usize::MAX,
            max_recipients: 100,
            max_connections: 256,
            max_per_peer: 256,
            messages_per_minute: None,
            memory: None,
            certificate: None,
            implicit_tls: false,
            authentication: Authentication::None,
            accepts_dsn: false,
            max_errors: 20,
            max_commands: 100,
            idle_timeout: Duration::from_mins(10),
            idle_grace: Duration::from_secs(5),
            command_timeout: Duration::from_mins(5),
            data_timeout: Duration::from_mins(10),
            grace: Duration::from_secs(10),
        }
    }
}
