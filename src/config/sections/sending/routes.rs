//! `[routes.NAME]`: which messages leave through which relays. `NAME` is 1 to 64 letters, digits, `-` and `_`.
//!
//! A message takes the most specific matching route: a route for its sender domain wins over a route for its stream;
//! among equally specific routes, the first by name wins. A message that matches no route goes through `relay_url`, or
//! direct to MX if that is unset.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::values::secret_url::SecretUrl;

/// The value in `relays` that means direct to MX.
pub const DIRECT: &str = "mx";

/// One route.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Matches messages in these streams; empty means any.
    pub streams: Vec<String>,
    /// Matches messages from these domains; empty means any.
    pub sender_domains: Vec<String>,
    /// The relays, each used if those before it are unreachable: URLs as in `relay_url`, or only `mx` for direct to MX.
    pub relays: Vec<SecretUrl>,
    /// Certificates (PEM) to trust for these relays in addition to the system's certificates.
    pub ca_file: Option<PathBuf>,
}

impl Route {
    /// Returns whether the route's messages go direct to MX.
    pub fn is_direct(&self) -> bool {
        self.relays.iter().any(|relay| relay.expose() == DIRECT)
    }

    pub(in crate::config) fn check(&self) -> Result<(), String> {
        if let Some(name) = self.streams.iter().find(|name| !is_name(name)) {
            return Err(format!("{name:?} is not the name of a stream"));
        }
        if let Some(domain) = self.sender_domains.iter().find(|domain| ascii(domain).is_none()) {
            return Err(format!("{domain:?} is not a domain name such as example.net"));
        }
        if self.is_direct() {
            let is_only_entry = self.relays.len() == 1;
            return if is_only_entry { Ok(()) } else { Err("must be relays, or only `mx`".into()) };
        }
        for (index, relay) in self.relays.iter().enumerate() {
            relay.check_relay().map_err(|why| match self.relays.len() {
                1 => why,
                count => format!("relay {} of {count} {why}", index + 1),
            })?;
        }
        Ok(())
    }

    /// Checks a route as a whole, after its settings have been merged.
    pub(in crate::config) fn check_whole(&self) -> Result<(), String> {
        if self.relays.is_empty() { Err("must name at least one relay, or `mx`".into()) } else { Ok(()) }
    }

    /// Returns [`Route::sender_domains`] in the form that addresses use: A-labels, lower case.
    pub fn sender_domains_ascii(&self) -> Vec<String> {
        self.sender_domains.iter().filter_map(|domain| ascii(domain)).collect()
    }
}

/// Returns whether this is a valid name of a route or a stream.
pub(in crate::config) fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
}

/// Returns the domain in the form that addresses use, or `None` if it is not a domain.
pub(in crate::config) fn ascii(domain: &str) -> Option<String> {
    let address = format!("x@{domain}").parse::<crate::domain::address::Address>().ok()?;
    Some(address.domain().to_owned())
}
