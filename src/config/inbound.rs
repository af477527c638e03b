//! `[inbound]`: the SMTP server that takes what comes back.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::range::within;
use crate::domain::address::Address;

/// Bounces and complaints over SMTP.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Inbound {
    /// Where mail to return paths is taken: `POSTRIDER_INBOUND__LISTEN`, an address and port, default unset, with which it
    /// is not. Mail to postmaster is taken too and logged (`event = "postmaster_mail"`). Needs `return_path.domain`. Processes with the API listen; port 0 takes a free one.
    pub listen: Option<SocketAddr>,
    /// The address to which mailbox providers send complaints: `POSTRIDER_INBOUND__FEEDBACK`, default unset.
    pub feedback: Option<String>,
    /// The largest mail, also of `POST /v1/inbound`: `POSTRIDER_INBOUND__MAX_MESSAGE_MIB`, MiB, 1–100, default 50. Of a
    /// mail that comes over SMTP the first mebibyte is kept.
    pub max_message_mib: u32,
    /// Connections at a time: `POSTRIDER_INBOUND__CONNECTIONS`, 1–10000, default 50.
    pub connections: u32,
    /// Connections at a time from one address (IPv6: one /64): `POSTRIDER_INBOUND__CONNECTIONS_PER_PEER`, 1–10000,
    /// default 10.
    pub connections_per_peer: u32,
    /// Mails a minute from one address (IPv6: one /64): `POSTRIDER_INBOUND__MAILS_PER_MINUTE`, 1–1000000, default 600.
    pub mails_per_minute: u32,
    /// The certificate chain (PEM) for STARTTLS: `POSTRIDER_INBOUND__CERT_FILE`, a path, default unset, with which STARTTLS
    /// is not offered. Read at the start.
    pub cert_file: Option<PathBuf>,
    /// Its private key (PEM): `POSTRIDER_INBOUND__KEY_FILE`, a path, default unset.
    pub key_file: Option<PathBuf>,
}

impl Default for Inbound {
    fn default() -> Self {
        Self {
            listen: None,
            feedback: None,
            max_message_mib: 50,
            connections: 50,
            connections_per_peer: 10,
            mails_per_minute: 600,
            cert_file: None,
            key_file: None,
        }
    }
}

impl Inbound {
    /// Octets of the largest mail.
    pub fn max_message(&self) -> u64 {
        u64::from(self.max_message_mib) << 20
    }

    pub(super) fn check(&self) -> Result<(), String> {
        within(self.max_message_mib, 1..=100)?;
        within(self.connections, 1..=10_000)?;
        within(self.connections_per_peer, 1..=10_000)?;
        within(self.mails_per_minute, 1..=1_000_000)?;
        match self.feedback.as_ref().map(|address| address.parse::<Address>()) {
            Some(Err(why)) => Err(format!("is not an address: {why}")),
            _ => Ok(()),
        }
    }
}
