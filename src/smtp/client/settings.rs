//! How the sender is set up: plain data, and what can be wrong with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::mx::mx_guard::MxGuard;
use crate::domain::network::Allowed;
use crate::domain::relay::{Relay, TlsMode};

/// Everything a [`Sender`](crate::smtp::Sender) needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name given in EHLO: a host name, or an IP address, which is sent as an address literal.
    pub hostname: String,
    /// The relay behind [`RouteName::Relay`](crate::domain::routing::RouteName::Relay).
    pub relay: Option<Relay>,
    /// The relays behind each [`RouteName::Named`](crate::domain::routing::RouteName::Named), at least one, in the order
    /// in which they are asked.
    pub routes: BTreeMap<String, Vec<Relay>>,
    /// The resolver for mail exchangers and relays. Where there is none the system's is asked, for relays with its hosts
    /// file.
    pub dns: Option<SocketAddr>,
    /// The port of mail exchangers: 25.
    pub mx_port: u16,
    /// How much TLS is asked of a domain's mail exchangers, `*` standing for all that are not named; opportunistic where
    /// neither is there.
    pub mx_tls: BTreeMap<String, TlsMode>,
    /// The most connections to one destination (the relay, or one address of a mail exchanger), at least 1.
    pub connections: usize,
    /// The most messages over one connection, at least 1.
    pub mails_per_connection: u32,
    /// The oldest a connection may get before it is replaced.
    pub connection_age: Duration,
    /// How long a connection to the relay is kept when there is nothing to send.
    pub relay_idle: Duration,
    /// The same for mail exchangers, which dislike idle connections more.
    pub mx_idle: Duration,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// Whether a domain's mail exchanger may be this machine: for development and tests.
    pub allow_loopback_mx: bool,
    /// Where mail exchangers may be besides the Internet and this machine.
    pub allow_private_mx: Allowed,
    /// Whether and how the MTA-STS policies of domains are followed.
    pub mta_sts: MtaSts,
}

/// How MTA-STS policies (RFC 8461) are looked for.
#[derive(Debug, Clone)]
pub struct MtaSts {
    /// Whether they are.
    pub enabled: bool,
    /// The port of the HTTPS servers that publish them: 443.
    pub port: u16,
    /// For how long a domain's DNS record is not asked for again.
    pub period: Duration,
    /// A PEM file of certificates that are trusted besides the system's, for those servers and for mail exchangers
    /// that must show a valid certificate.
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
            mails_per_connection: 100,
            connection_age: Duration::from_mins(5),
            relay_idle: Duration::from_secs(30),
            mx_idle: Duration::from_secs(5),
            timeouts: Timeouts::default(),
            allow_loopback_mx: false,
            allow_private_mx: Allowed::default(),
            mta_sts: MtaSts::default(),
        }
    }
}

impl Settings {
    /// Which addresses may be mail exchangers.
    pub(in crate::smtp) fn mx_guard(&self) -> MxGuard {
        MxGuard { loopback: self.allow_loopback_mx, allowed: self.allow_private_mx.clone() }
    }
}

/// How long to wait: RFC 5321 §4.5.3.2 and, where it says nothing, our own choice. Each is for a whole reply.
///
/// The commands of one message up to DATA together get `mail + rcpt + data` plus 10 s a recipient, and the message itself
/// `block` plus its size at 8 KiB a second: a server that is slow in every step is given up all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For a free connection, where all are in use (ours: 300 s).
    pub slot: Duration,
    /// For a free connection, where another server may take the message instead (ours: 10 s).
    pub slot_or_next: Duration,
    /// For all answers of the DNS together (ours: 20 s).
    pub dns: Duration,
    /// For an MTA-STS policy, from connection to last byte (RFC 8461 §3.3 suggests 60 s; ours: 20 s).
    pub policy: Duration,
    /// To establish TCP with one address (ours: 30 s).
    pub connect: Duration,
    /// For the greeting (300 s).
    pub greeting: Duration,
    /// For the reply to EHLO, HELO, STARTTLS, AUTH and RSET (ours, as for MAIL: 300 s).
    pub ehlo: Duration,
    /// For the TLS handshake (ours: 60 s).
    pub tls: Duration,
    /// For a server to become ready for MAIL, from connection to last reply. Once so much has gone by with the servers or
    /// addresses of one destination together, no third is tried (ours: 600 s).
    pub session: Duration,
    /// For the reply to MAIL (300 s).
    pub mail: Duration,
    /// For the reply to RCPT (300 s).
    pub rcpt: Duration,
    /// For the reply to DATA (120 s).
    pub data: Duration,
    /// For a block of the message to be written (180 s).
    pub block: Duration,
    /// For the reply to the final dot (600 s).
    pub final_dot: Duration,
    /// For the reply to QUIT, and for words of parting from a server that hangs up (ours: 5 s).
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

/// Why a [`Sender`](crate::smtp::Sender) cannot be made of these settings.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The name for EHLO would break the command.
    #[error("the host name {0:?} cannot be given in EHLO: it must be a host name or an IP address")]
    Hostname(String),
    /// A limit of zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// The file of trusted certificates.
    #[error("cannot read certificates from {path}: {reason}", path = path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS could not be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The system's resolver configuration could not be read.
    #[error("cannot set up the DNS resolver: {0}")]
    Dns(String),
}
