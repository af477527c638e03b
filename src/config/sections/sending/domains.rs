//! `[domains]`: sender domains and their DNS records.

use serde::{Deserialize, Serialize};

use crate::domain::sender_domain::dns_records;

/// Handling of messages from unverified domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unverified {
    /// Messages from unverified domains are accepted, with warnings.
    Allow,
    /// Messages from unverified domains are refused.
    Refuse,
}

/// Settings of sender domains.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Domains {
    /// Whether messages from domains that are not registered or not verified are accepted.
    pub unverified: Unverified,
    /// SPF mechanisms of this installation, separated by spaces, such as `include:spf.relay.example`. For a relay, use
    /// the mechanisms that its operator documents. SPF records are evaluated for the addresses that these mechanisms
    /// allow. If unset, the mechanism is `a:HOSTNAME`, or `ip4:` or `ip6:` if the hostname is an address literal.
    pub spf: Option<String>,
}

impl Domains {
    pub(in crate::config) fn check(&self) -> Result<(), String> {
        let Some(spf) = &self.spf else { return Ok(()) };
        let is_record_part =
            |term: &str| term.starts_with("v=spf1") || term.trim_start_matches(['+', '-', '~', '?']) == "all";
        if spf.trim().is_empty() || spf.contains(['"', ';']) || spf.split(' ').any(is_record_part) {
            return Err("must be mechanisms such as include:spf.relay.example, without v=spf1 and all".into());
        }
        dns_records::spf::parse(&format!("v=spf1 {spf} ~all"))
            .map_err(|why| format!("must be SPF mechanisms such as include:spf.relay.example: {why}"))?;
        Ok(())
    }
}
