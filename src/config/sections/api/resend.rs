//! `[resend]`: the API that is compatible with Resend's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::values::range::within_time;
use crate::domain::network::{Allowed, Rule};

/// The API that is compatible with Resend's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct Resend {
    /// Whether the API is served, at the root of `listen`.
    pub enabled: bool,
    /// Whether attachments may be given as URLs (`path`), from which this service downloads the files.
    pub fetch_attachments: bool,
    /// Where attachments may be downloaded from besides public addresses: addresses, networks and host names.
    /// Every API key that may send messages can read files from them.
    pub fetch_allow: Vec<String>,
    /// Time limit for downloading all attachments of one request, 1s–2m.
    #[serde(with = "crate::config::values::duration")]
    pub fetch_timeout: Duration,
    /// Whether a message that a relay has accepted is shown as `delivered`, with the webhook event `email.delivered`.
    pub relayed_as_delivered: bool,
    /// Whether attachments may be downloaded only from this machine, whatever the keys above say. Not a configuration key:
    /// `postrider dev` sets it.
    #[serde(skip)]
    pub this_machine_only: bool,
}

impl Resend {
    /// Returns the addresses that are allowed in addition to public ones.
    pub fn allowed(&self) -> Allowed {
        // Invalid rules were refused when the configuration was read.
        let rules = self.fetch_allow.iter().filter_map(|rule| rule.trim().parse().ok()).collect();
        Allowed { this_machine_only: self.this_machine_only, private: false, rules }
    }

    pub(in crate::config) fn check(&self) -> Result<(), String> {
        within_time(self.fetch_timeout, Duration::from_secs(1)..=Duration::from_mins(2))?;
        match self.fetch_allow.iter().find_map(|rule| rule.trim().parse::<Rule>().err().map(|why| (rule, why))) {
            Some((rule, why)) => Err(format!("{rule:?} {why}")),
            None => Ok(()),
        }
    }
}
