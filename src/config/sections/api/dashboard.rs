//! `[dashboard]`: the web pages at `/ui`.

use serde::{Deserialize, Serialize};

use crate::config::values::range::within;

/// The dashboard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dashboard {
    /// Whether the dashboard is served at `/ui`.
    pub enabled: bool,
    /// Maximum number of database connections that its pages read with, 2–100.
    pub pool_size: u32,
}

impl Dashboard {
    pub(in crate::config) fn check(&self) -> Result<(), String> {
        within(self.pool_size, 2..=100)
    }
}
