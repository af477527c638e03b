//! `[inbound]`: the SMTP server that receives bounces, complaints and messages for inbound routes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::sections::sending::delivery::PrivateMx;
use crate::config::sections::sending::routes::ascii;
use crate::config::values::range::{within, within_time};
use crate::domain::address::Address;
use crate::domain::network::Allowed;

/// What happens to a message that fails DMARC and whose domain asks to reject such messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DmarcAction {
    /// It is stored with the verdict.
    Mark,
    /// It is refused.
    Reject,
}

/// Settings of the SMTP server for bounces, complaints and inbound routes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Inbound {
    /// Address on which messages to return paths and for inbound routes are received; without it, there is no server. Messages
    /// to postmaster are also accepted, and logged (`event = "postmaster_mail"`). Needs `return_path.domain`. Processes that
    /// run the API listen; port 0 uses a free port.
    pub listen: Option<SocketAddr>,
    /// The address to which mailbox providers send complaints.
    pub feedback: Option<String>,
    /// Maximum size of a message, received over SMTP or by `POST /v1/inbound`, in MiB, 1–100. Of a bounce
    /// received over SMTP, only the first MiB is kept in memory.
    pub max_message_mib: u32,
    /// Maximum size of a message for an inbound route, in MiB, 1–100, and at most `max_message_mib`.
    pub max_received_mib: u32,
    /// Whether SPF, DKIM, DMARC and ARC of messages for inbound routes are checked.
    pub authenticate: bool,
    /// What happens to a message that fails DMARC and whose domain asks to reject it.
    pub dmarc: DmarcAction,
    /// Private addresses at which the servers of inbound routes with the action `relay` may be: `true` allows every private
    /// network and this machine; a list allows the listed addresses, networks and host names. Every key with the scope `admin` can then
    /// make Postrider send messages to the SMTP servers there.
    pub allow_private_relays: PrivateMx,
    /// The domain of the envelope senders of messages that are passed on (SRS); if unset, they keep their sender.
    pub srs_domain: Option<String>,
    /// For how long messages are refused with 451 if their combination of client, sender and recipient is unknown, up to 1h; 0s
    /// refuses none.
    #[serde(with = "crate::config::values::duration")]
    pub greylist: Duration,
    /// Maximum number of concurrent connections, 1–10000.
    pub connections: u32,
    /// Maximum number of concurrent connections from one address (IPv6: one /64), 1–10000.
    pub connections_per_peer: u32,
    /// Maximum number of messages per minute from one address (IPv6: one /64), 1–1000000.
    pub messages_per_minute: u32,
    /// The certificate chain (PEM) for STARTTLS. Changed files are used without a restart. Without it, STARTTLS is not offered.
    pub cert_file: Option<PathBuf>,
    /// The private key of the certificate (PEM).
    pub key_file: Option<PathBuf>,
    /// Whether the servers of inbound routes must be on this machine. Not a configuration key: `postrider dev` sets it.
    #[serde(skip)]
    pub this_machine_only: bool,
}

impl Inbound {
    /// Returns the maximum size of a message, in bytes.
    pub fn max_message(&self) -> u64 {
        u64::from(self.max_message_mib) << 20
    }

    /// Returns the maximum size of a message for an inbound route, in bytes.
    pub fn max_received(&self) -> u64 {
        u64::from(self.max_received_mib.min(self.max_message_mib)) << 20
    }

    /// Returns the addresses, in addition to public ones, that the servers of inbound routes may have.
    pub fn allowed_relays(&self) -> Allowed {
        Allowed { this_machine_only: self.this_machine_only, ..self.allow_private_relays.allowed() }
    }

    /// Returns the domain of rewritten senders in the form that addresses use: A-labels, lower case.
    pub fn srs_domain_ascii(&self) -> Option<String> {
        ascii(self.srs_domain.as_deref()?)
    }

    pub(in crate::config) fn check(&self) -> Result<(), String> {
        within(self.max_message_mib, 1..=100)?;
        within(self.max_received_mib, 1..=100)?;
        within(self.connections, 1..=10_000)?;
        within(self.connections_per_peer, 1..=10_000)?;
        within(self.messages_per_minute, 1..=1_000_000)?;
        self.allow_private_relays.check()?;
        within_time(self.greylist, Duration::ZERO..=Duration::from_hours(1))?;
        if let Some(domain) = self.srs_domain.as_ref().filter(|domain| ascii(domain).is_none()) {
            return Err(format!("{domain:?} is not a domain name such as srs.example.net"));
        }
        match self.feedback.as_ref().map(|address| address.parse::<Address>()) {
            Some(Err(why)) => Err(format!("is not an address: {why}")),
            _ => Ok(()),
        }
    }
}
