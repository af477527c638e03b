//! Settings of the sender, and setup errors.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::mx::mx_guard::MxGuard;
use crate::domain::network::Allowed;
use crate::domain::routing::relay::{Relay, TlsMode};

/// Settings of a [`Sender`](crate::smtp::Sender).
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name in EHLO: a host name, or an IP address, which is sent as an address literal.
    pub hostname: String,
    /// The relay behind [`RouteName::Relay`](crate::domain::routing::RouteName::Relay).
    pub relay: Option<Relay>,
    /// Relays of each [`RouteName::Named`](crate::domain::routing::RouteName::Named), at least one, in the order in
    /// which they are tried.
    pub routes: BTreeMap<String, Vec<Relay>>,
    /// DNS server for mail exchangers and relays. `None` uses the system's; relays then also use the hosts file.
    pub dns: Option<SocketAddr>,
    /// Port of mail exchangers; 25 except in tests.
    pub mx_port: u16,
    /// TLS mode by recipient domain; `*` applies to all other domains. Opportunistic if neither matches.
    pub mx_tls: BTreeMap<String, TlsMode>,
    /// Maximum connections to one destination (the relay, or one address of a mail exchanger), at least 1.
    pub connections: usize,
    /// Maximum messages over one connection, at least 1.
    pub messages_per_connection: u32,
    /// Maximum age of a connection before it is replaced.
    pub connection_age: Duration,
    /// Maximum idle time of a connection to a relay.
    pub relay_idle: Duration,
    /// Maximum idle time of a connection to a mail exchanger; mail exchangers close idle connections sooner than
    /// relays.
    pub mx_idle: Duration,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Whether this machine may be a mail exchanger; for development and tests.
    pub allow_loopback_mx: bool,
    /// Non-public networks, and host names, that mail exchangers are allowed to have.
    pub allow_private_mx: Allowed,
    /// Non-public networks, and host names, that the servers of inbound routes are allowed to have.
    pub allow_private_relays: Allowed,
    /// Settings for MTA-STS policies.
    pub mta_sts: MtaSts,
}

/// Settings for MTA-STS policies (RFC 8461).
#[derive(Debug, Clone)]
pub struct MtaSts {
    /// Whether policies are fetched and applied.
    pub enabled: bool,
    /// Port of the HTTPS servers that publish policies; 443 except in tests.
    pub port: u16,
    /// How long a domain's DNS record is cached.
    pub period: Duration,
    /// PEM file of certificates that are trusted in addition to the system's, for those servers and for mail exchangers
    /// that must present a valid certificate.
    pub ca_file: Option<PathBuf>,
}

impl Default for MtaSts {
    fn default() -> Self {
        Self { enabled: true, port: 443, period: Duration::from_mins(5), ca_file: None }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hostname: "localhost".into(),
            relay: None,
            routes: BTreeMap::new(),
            dns: None,
            mx_port: 25,
            mx_tls: BTreeMap::new(),
            connections: 16,
            messages_per_connection: 100,
            connection_age: Duration::from_mins(5),
            relay_idle: Duration::from_secs(30),
            mx_idle: Duration::from_secs(5),
            timeouts: Timeouts::default(),
            allow_loopback_mx: false,
            allow_private_mx: Allowed::default(),
            allow_private_relays: Allowed::default(),
            mta_sts: MtaSts::default(),
        }
    }
}

impl Settings {
    /// Returns which addresses may be mail exchangers.
    pub(in crate::smtp) fn mx_guard(&self) -> MxGuard {
        MxGuard { loopback: self.allow_loopback_mx, allowed: self.allow_private_mx.clone() }
    }
}

/// Timeouts of RFC 5321 §4.5.3.2, and Postrider's own ("own") where the RFC has none. A timeout for a reply ends when the
/// whole reply has arrived.
///
/// The time limit of all commands of a message up to DATA is `mail + rcpt + data` plus 10 s per recipient; that of the
/// message text is `block` plus its size at 8 KiB/s. These bound the total time of a server that is slow in every step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For a free connection, if all are in use (own: 300 s).
    pub slot: Duration,
    /// For a free connection, if another server can be tried instead (own: 10 s).
    pub slot_or_next: Duration,
    /// For the DNS queries that find the servers of a domain, together, for each name of a relay, and for that of an MTA-STS record
    /// (own: 20 s).
    pub dns: Duration,
    /// For an MTA-STS policy, from connection to last byte (RFC 8461 §3.3 suggests 60 s; own: 20 s).
    pub policy: Duration,
    /// To establish TCP with one address (own: 30 s).
    pub connect: Duration,
    /// For the greeting (300 s).
    pub greeting: Duration,
    /// For the reply to EHLO, HELO, STARTTLS, AUTH and RSET (own, as for MAIL: 300 s).
    pub ehlo: Duration,
    /// For the TLS handshake (own: 60 s).
    pub tls: Duration,
    /// For opening a session, from the connection to the last reply before MAIL (own: 600 s). Further servers of
    /// a message, and further addresses of a server, are tried within this time, and in any case two of each.
    pub session: Duration,
    /// For the reply to MAIL (300 s).
    pub mail: Duration,
    /// For the reply to RCPT (300 s).
    pub rcpt: Duration,
    /// For the reply to DATA, and to an empty message if all recipients were refused (120 s).
    pub data: Duration,
    /// For a block of the message to be written (180 s).
    pub block: Duration,
    /// For the reply to the final dot (600 s).
    pub final_dot: Duration,
    /// For the reply to QUIT, and for a last reply from a server that closes the connection (own: 5 s).
    pub quit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            slot: seconds(300),
            slot_or_next: seconds(10),
            dns: seconds(20),
            policy: seconds(20),
            connect: seconds(30),
            greeting: seconds(300),
            ehlo: seconds(300),
            tls: seconds(60),
            session: seconds(600),
            mail: seconds(300),
            rcpt: seconds(300),
            data: seconds(120),
            block: seconds(180),
            final_dot: seconds(600),
            quit: seconds(5),
        }
    }
}

/// Why a [`Sender`](crate::smtp::Sender) could not be created from these settings.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The host name is not valid in EHLO.
    #[error("the host name {0:?} is not valid in EHLO: it must be a host name or an IP address")]
    Hostname(String),
    /// A limit is zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// The file of trusted certificates could not be used.
    #[error("cannot read certificates from {path}: {reason}", path = path.display())]
    CaFile {
        /// Path of the file.
        path: PathBuf,
        /// Why it could not be used.
        reason: String,
    },
    /// TLS could not be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The system's resolver configuration could not be read.
    #[error("cannot set up the DNS resolver: {0}")]
    Dns(String),
}
