//! `[routes.NAME]`: which mail goes through which relays. `NAME` is of letters, digits, `-` and `_`, at most 64.
//!
//! A mail takes the most particular route that wants it: one that asks for its sender's domain before one that asks for
//! its stream; among equals the first by name. What no route wants goes through `relay_url`, or directly where that is
//! unset.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::secret_url::SecretUrl;

/// The word among `relays` that means the recipients' own servers.
pub const DIRECT: &str = "mx";

/// One route.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// For mail in one of these streams: `POSTRIDER_ROUTES__NAME__STREAMS`, names, default empty, which means any.
    pub streams: Vec<String>,
    /// For mail from one of these domains: `POSTRIDER_ROUTES__NAME__SENDER_DOMAINS`, domain names, default empty, which
    /// means any.
    pub sender_domains: Vec<String>,
    /// The relays, each asked where those before it cannot be reached: `POSTRIDER_ROUTES__NAME__RELAYS`, URLs as in
    /// `relay_url`, or `mx` alone for directly to the recipients' servers. No default.
    pub relays: Vec<SecretUrl>,
    /// Certificates (PEM) to trust for these relays besides the system's: `POSTRIDER_ROUTES__NAME__CA_FILE`, a path,
    /// default unset.
    pub ca_file: Option<PathBuf>,
}

impl Route {
    /// Whether its mail goes to the recipients' own servers.
    pub fn is_direct(&self) -> bool {
        self.relays.iter().any(|relay| relay.expose() == DIRECT)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(name) = self.streams.iter().find(|name| !is_name(name)) {
            return Err(format!("{name:?} is not the name of a stream"));
        }
        if let Some(domain) = self.sender_domains.iter().find(|domain| ascii(domain).is_none()) {
            return Err(format!("{domain:?} is not a domain name such as example.net"));
        }
        if self.is_direct() {
            let alone = self.relays.len() == 1;
            return if alone { Ok(()) } else { Err("must be relays, or `mx` and nothing else".into()) };
        }
        for (index, relay) in self.relays.iter().enumerate() {
            relay.check_relay().map_err(|why| match self.relays.len() {
                1 => why,
                count => format!("the relay {} of {count} {why}", index + 1),
            })?;
        }
        Ok(())
    }

    /// What can only be said of a route as a whole.
    pub(super) fn check_whole(&self) -> Result<(), String> {
        if self.relays.is_empty() { Err("must name at least one relay, or `mx`".into()) } else { Ok(()) }
    }

    /// [`Route::sender_domains`] as addresses have them: A-labels, lower case.
    pub fn sender_domains_ascii(&self) -> Vec<String> {
        self.sender_domains.iter().filter_map(|domain| ascii(domain)).collect()
    }
}

/// Whether this can be the name of a route, or of a stream.
pub(super) fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
}

/// A domain as addresses have it; `None` where it is none.
pub(super) fn ascii(domain: &str) -> Option<String> {
    let address = format!("x@{domain}").parse::<crate::domain::address::Address>().ok()?;
    Some(address.domain().to_owned())
}
