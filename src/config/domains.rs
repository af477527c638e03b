//! `[domains]`: senders' domains and what they publish.

use serde::{Deserialize, Serialize};

use crate::domain::dns_records;

/// What is done with mail of domains that were not verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unverified {
    /// It is taken, with warnings.
    Allow,
    /// It is refused.
    Refuse,
}

/// Settings of senders' domains.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Domains {
    /// Whether mail is taken from domains that are not registered or not verified: `POSTRIDER_DOMAINS__UNVERIFIED`,
    /// `allow` or `refuse`, default `allow`.
    pub unverified: Unverified,
    /// What stands for this installation in SPF records: `POSTRIDER_DOMAINS__SPF`, mechanisms separated by spaces such
    /// as `include:spf.relay.example`, default unset, which means `a:` and the hostname. Behind a relay it is what the
    /// relay's operator tells. SPF records are evaluated for the addresses that these mechanisms let pass.
    pub spf: Option<String>,
}

impl Default for Domains {
    fn default() -> Self {
        Self { unverified: Unverified::Allow, spf: None }
    }
}

impl Domains {
    pub(super) fn check(&self) -> Result<(), String> {
        let Some(spf) = &self.spf else { return Ok(()) };
        let is_whole =
            |term: &str| term.starts_with("v=spf1") || term.trim_start_matches(['+', '-', '~', '?']) == "all";
        if spf.trim().is_empty() || spf.contains(['"', ';']) || spf.split(' ').any(is_whole) {
            return Err("holds the mechanisms alone, such as include:spf.relay.example: without v=spf1 and all".into());
        }
        dns_records::spf::parse(&format!("v=spf1 {spf} ~all"))
            .map_err(|why| format!("holds mechanisms of SPF, such as include:spf.relay.example: {why}"))?;
        Ok(())
    }
}
