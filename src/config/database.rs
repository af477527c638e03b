//! `[database]`: the Postgres database.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::range::{within, within_time};
use super::secret_url::SecretUrl;

/// The Postgres database that all replicas share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Database {
    /// The database's URL: `POSTRIDER_DATABASE__URL` or, if that is unset, `DATABASE_URL`,
    /// `postgres://user:password@host:port/name`, default unset. Without it, only `dev` and the commands that need no
    /// database run.
    pub url: Option<SecretUrl>,
    /// A direct connection to the same server, if `url` goes through a connection pooler in transaction mode:
    /// `POSTRIDER_DATABASE__DIRECT_URL`, like `url`, default unset. Prepared statements, LISTEN and migrations use it.
    pub direct_url: Option<SecretUrl>,
    /// Maximum number of connections of the API, and of the worker, of this process:
    /// `POSTRIDER_DATABASE__MAX_CONNECTIONS`, 2–1000, default 14. Lowered if the server allows fewer.
    pub max_connections: u32,
    /// Timeout of a database call: `POSTRIDER_DATABASE__TIMEOUT`, a duration, 100ms–10m, default `10s`. A database that
    /// does not respond at all is given up after half of it.
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
