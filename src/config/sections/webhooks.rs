//! `[webhooks]`: which addresses webhook endpoints may have, and how long a POST may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::values::range::within_time;
use crate::domain::network::{Allowed, Rule};

/// Limits on webhook endpoints.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Webhooks {
    /// Whether endpoints may be at private and loopback addresses; `dev` always posts to this machine only. If set,
    /// every API key that may create a webhook endpoint can reach the private hosts that this machine can reach.
    pub allow_private: bool,
    /// Private addresses at which endpoints may be: addresses, networks and host names. A host name in the list allows
    /// all of its addresses.
    pub allow: Vec<String>,
    /// Time limit of one POST, including its response, 1s–60s.
    #[serde(with = "crate::config::values::duration")]
    pub timeout: Duration,
    /// Whether endpoints must be on this machine, regardless of `allow_private` and `allow`. Not a configuration key:
    /// `postrider dev` sets it.
    #[serde(skip)]
    pub this_machine_only: bool,
}

impl Webhooks {
    /// Returns the addresses that are allowed in addition to public ones.
    pub fn allowed(&self) -> Allowed {
        // Invalid rules were refused when the configuration was read.
        let rules = self.allow.iter().filter_map(|rule| rule.trim().parse().ok()).collect();
        Allowed { this_machine_only: self.this_machine_only, private: self.allow_private, rules }
    }

    pub(in crate::config) fn check(&self) -> Result<(), String> {
        within_time(self.timeout, Duration::from_secs(1)..=Duration::from_mins(1))?;
        match self.allow.iter().find_map(|rule| rule.trim().parse::<Rule>().err().map(|why| (rule, why))) {
            Some((rule, why)) => Err(format!("{rule:?} {why}")),
            None => Ok(()),
        }
    }
}
