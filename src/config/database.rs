//! `[database]`: where everything durable is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::range::{within, within_time};
use super::secret_url::SecretUrl;

/// The one Postgres that all replicas share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Database {
    /// `DATABASE_URL` or `POSTRIDER_DATABASE__URL` (which wins), `postgres://user:password@host:port/name`; default
    /// unset, with which only `dev` and the commands that need no database run.
    pub url: Option<SecretUrl>,
    /// The same server past a connection pooler in transaction mode, where `url` leads through one:
    /// `POSTRIDER_DATABASE__DIRECT_URL`, like `url`, default unset. Kept plans, LISTEN and migrations go there.
    pub direct_url: Option<SecretUrl>,
    /// Connections that the API and the worker of this process each open at most:
    /// `POSTRIDER_DATABASE__MAX_CONNECTIONS`, 2–1000, default 14. Fewer where the
    /// server does not allow so many.
    pub max_connections: u32,
    /// The longest that one call may take before it counts as failed: `POSTRIDER_DATABASE__TIMEOUT`, a duration,
    /// 100ms–10m, default `10s`. A database that nobody answers for is given up after half of it.
    #[serde(with = "super::duration")]
    pub timeout: Duration,
}

impl Default for Database {
    fn default() -> Self {
        Self { url: None, direct_url: None, max_connections: 14, timeout: Duration::from_secs(10) }
    }
}

impl Database {
    pub(super) fn check(&self) -> Result<(), String> {
        for url in self.url.iter().chain(&self.direct_url) {
            url.check(&["postgres", "postgresql"], false)?;
        }
        within(self.max_connections, 2..=1_000)?;
        within_time(self.timeout, Duration::from_millis(100)..=Duration::from_mins(10))
    }
}
