//! `[database]`: the Postgres database.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::values::range::{within, within_time};
use crate::config::values::secret_url::SecretUrl;

/// The Postgres database that all replicas share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Database {
    /// The database's URL, `postgres://user:password@host:port/name`; the variable `DATABASE_URL` sets it too. Without
    /// it, only `dev` and the commands that need no database run.
    pub url: Option<SecretUrl>,
    /// A direct connection to the same server, if `url` goes through a connection pooler in transaction mode. Prepared
    /// statements, LISTEN and migrations use it.
    pub direct_url: Option<SecretUrl>,
    /// Maximum number of connections of this process, for the API and for the worker each, 2–1000. Lowered if the
    /// server allows fewer.
    pub max_connections: u32,
    /// Timeout of a database call, 100ms–10m. A call to a database that does not respond at all fails after half
    /// of this time.
    #[serde(with = "crate::config::values::duration")]
    pub timeout: Duration,
}

impl Database {
    pub(in crate::config) fn check(&self) -> Result<(), String> {
        for url in self.url.iter().chain(&self.direct_url) {
            url.check(&["postgres", "postgresql"], false)?;
        }
        within(self.max_connections, 2..=1_000)?;
        within_time(self.timeout, Duration::from_millis(100)..=Duration::from_mins(10))
    }
}
