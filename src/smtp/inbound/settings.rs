//! The server's name and its bounds.

use std::time::Duration;

use super::tls::Certificate;

/// How a [`Server`](super::Server) names itself and what it bears.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name in the greeting and in the answer to EHLO.
    pub hostname: String,
    /// Bytes in one message, announced as SIZE; more is answered 552.
    pub max_message: usize,
    /// Bytes of a message that are kept, from its beginning: for those who look at no more. The rest is read over.
    pub most_kept: usize,
    /// Recipients of one message; more are answered 452 (RFC 5321 §4.5.3.1.8 asks for at least 100).
    pub max_recipients: usize,
    /// Sessions at once; further clients are answered 421, unless one leaves for them.
    pub max_connections: usize,
    /// Sessions at once from one address, of IPv6 from one /64; further ones are answered 421, unless one of them leaves.
    pub max_per_peer: usize,
    /// Messages a minute from one address, of IPv6 from one /64; further ones are answered 450.
    pub mails_per_minute: Option<u32>,
    /// What STARTTLS shows; without it there is none.
    pub certificate: Option<Certificate>,
    /// Whether AUTH is offered and every user and password accepted: for the inbox, so that an application's settings for
    /// production can be tried. Nothing is kept of them.
    pub accepts_any_login: bool,
    /// Refused commands of one session since its last accepted mail; after that it is closed with 421.
    pub max_errors: u32,
    /// Commands of one session since its last accepted recipient; after that it is closed with 421.
    pub max_commands: u32,
    /// How long a session may go on without a message; then it is closed with 421.
    pub idle_timeout: Duration,
    /// When all places are taken, or all of its network, a session that has been without a transaction for longer leaves with 421, so that another may
    /// come.
    pub idle_grace: Duration,
    /// From one command to the end of the next, and for one write.
    pub command_timeout: Duration,
    /// From 354 to the final dot, however many blocks that takes.
    pub data_timeout: Duration,
    /// How long a stop waits for sessions that are in the middle of a message.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hostname: "localhost".into(),
            max_message: 64 << 20,
            most_kept: usize::MAX,
            max_recipients: 100,
            max_connections: 256,
            max_per_peer: 256,
            mails_per_minute: None,
            certificate: None,
            accepts_any_login: false,
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
