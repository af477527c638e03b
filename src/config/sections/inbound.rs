//! `[inbound]`: the SMTP server that receives bounces and complaints.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::values::range::within;
use crate::domain::address::Address;

/// Settings of the SMTP server for bounces and complaints.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Inbound {
    /// Address on which messages to return paths are received; without it, there is no server. Messages to postmaster
    /// are accepted too and logged (`event = "postmaster_mail"`). Needs `return_path.domain`. Processes that run the
    /// API listen; port 0 uses a free port.
    pub listen: Option<SocketAddr>,
    /// The address to which mailbox providers send complaints.
    pub feedback: Option<String>,
    /// Maximum size of a message, received over SMTP or by `POST /v1/inbound`, in MiB, 1–100. Of a message received
    /// over SMTP, only the first MiB is kept in memory.
    pub max_message_mib: u32,
    /// Maximum number of concurrent connections, 1–10000.
    pub connections: u32,
    /// Maximum number of concurrent connections from one address (IPv6: one /64), 1–10000.
    pub connections_per_peer: u32,
    /// Maximum number of messages per minute from one address (IPv6: one /64), 1–1000000.
    pub messages_per_minute: u32,
    /// The certificate chain (PEM) for STARTTLS, read at startup. Without it, STARTTLS is not offered.
    pub cert_file: Option<PathBuf>,
    /// The private key of the certificate (PEM).
    pub key_file: Option<PathBuf>,
}

impl Inbound {
    /// Returns the maximum size of a message, in bytes.
    pub fn max_message(&self) -> u64 {
        u64::from(self.max_message_mib) << 20
    }

    pub(in crate::config) fn check(&self) -> Result<(), String> {
        within(self.max_message_mib, 1..=100)?;
        within(self.connections, 1..=10_000)?;
        within(self.connections_per_peer, 1..=10_000)?;
        within(self.messages_per_minute, 1..=1_000_000)?;
        match self.feedback.as_ref().map(|address| address.parse::<Address>()) {
            Some(Err(why)) => Err(format!("is not an address: {why}")),
            _ => Ok(()),
        }
    }
}
