//! `[metrics]`: where and to whom the metrics for Prometheus are served.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::values::secret_key::SecretKey;
use crate::domain::network::parse_network;

/// Metrics for Prometheus.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Metrics {
    /// Address on which only `/metrics`, `/healthz` and `/readyz` are served, without authentication.
    pub listen: Option<SocketAddr>,
    /// Addresses and networks that may read `/metrics` at the API's listener.
    pub allow: Vec<String>,
    /// A token with which others may read `/metrics` at the API's listener, 32 characters or more.
    pub token: Option<SecretKey>,
}

impl Metrics {
    /// Returns the networks of [`Metrics::allow`].
    pub fn networks(&self) -> Vec<IpNet> {
        // Invalid networks were refused when the configuration was read.
        self.allow.iter().filter_map(|text| parse_network(text.trim()).ok()).collect()
    }

    pub(in crate::config) fn check(&self) -> Result<(), String> {
        self.token.as_ref().map_or(Ok(()), SecretKey::check)?;
        match self.allow.iter().find_map(|text| parse_network(text.trim()).err().map(|why| (text, why))) {
            Some((text, why)) => Err(format!("{text:?} {why}")),
            None => Ok(()),
        }
    }
}
