//! `[submission]`: the SMTP server to which applications send messages.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::values::range::within;

/// Settings of the SMTP server for submission. Without an address, there is none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Submission {
    /// Address on which applications send messages over SMTP with STARTTLS. Processes that run the API listen; port 0 uses
    /// a free port.
    pub listen: Option<SocketAddr>,
    /// Address on which applications send messages over SMTP with TLS from the start. Needs a certificate.
    pub tls_listen: Option<SocketAddr>,
    /// Maximum number of concurrent connections to each address, 1–10000.
    pub connections: u32,
    /// Maximum number of concurrent connections from one address (IPv6: one /64), 1–10000.
    pub connections_per_peer: u32,
    /// The certificate chain (PEM). Changed files are used without a restart. Without a certificate, only programs on this
    /// machine can sign in.
    pub cert_file: Option<PathBuf>,
    /// The private key of the certificate (PEM).
    pub key_file: Option<PathBuf>,
}

impl Submission {
    /// Returns the maximum number of connections to all addresses together.
    pub fn all_connections(&self) -> u64 {
        let listeners = [self.listen, self.tls_listen].into_iter().flatten().count() as u64;
        listeners * u64::from(self.connections)
    }

    pub(in crate::config) fn check(&self) -> Result<(), String> {
        within(self.connections, 1..=10_000)?;
        within(self.connections_per_peer, 1..=10_000)
    }
}
