//! `[http]`: limits on HTTP connections.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::values::range::{within, within_time};
use crate::domain::network::parse_network;

/// Limits on HTTP connections.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Http {
    /// Maximum number of concurrent connections, 16–100000. Lowered at startup if the process may not open that many
    /// files. At the limit, an idle connection of the address with the most connections is closed.
    pub max_connections: u32,
    /// Maximum number of concurrent connections from one address (IPv6: one /64), 1–100000. Behind a proxy, all
    /// connections come from its address.
    pub connections_per_peer: u32,
    /// Timeout from a request's first byte to the end of its headers, 1s–60s.
    #[serde(with = "crate::config::values::duration")]
    pub header_timeout: Duration,
    /// How long a connection may stay open without a request, 1s–1h. It should exceed the keep-alive timeout of a
    /// proxy.
    #[serde(with = "crate::config::values::duration")]
    pub keep_alive: Duration,
    /// Addresses and networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
    /// How many requests per minute one address (IPv6: one /64) may make with API keys that are not valid, 1–100000.
    pub auth_failures_per_minute: u32,
    /// How long requests are still accepted after SIGTERM, while `/readyz` already fails, 0s–5m.
    #[serde(with = "crate::config::values::duration")]
    pub drain_delay: Duration,
}

impl Http {
    /// Returns the networks of [`Http::trusted_proxies`].
    pub fn proxies(&self) -> Vec<IpNet> {
        // Invalid networks were refused when the configuration was read.
        self.trusted_proxies.iter().filter_map(|text| parse_network(text.trim()).ok()).collect()
    }

    pub(in crate::config) fn check(&self) -> Result<(), String> {
        within(self.max_connections, 16..=100_000)?;
        within(self.connections_per_peer, 1..=100_000)?;
        within_time(self.header_timeout, Duration::from_secs(1)..=Duration::from_mins(1))?;
        within_time(self.keep_alive, Duration::from_secs(1)..=Duration::from_hours(1))?;
        within(self.auth_failures_per_minute, 1..=100_000)?;
        within_time(self.drain_delay, Duration::ZERO..=Duration::from_mins(5))?;
        match self.trusted_proxies.iter().find_map(|text| parse_network(text.trim()).err().map(|why| (text, why))) {
            Some((text, why)) => Err(format!("{text:?} {why}")),
            None => Ok(()),
        }
    }
}
