//! An embedded Postgres for `postrider dev`, `postrider bench` and the tests, started from the installed binaries.
//!
//! Guarantees:
//!
//! - a directory holds one cluster; a later start finds its data, and an incomplete cluster is created again;
//! - it listens on 127.0.0.1 only, on a free port, with a generated password;
//! - it never outlives the process that started it, even if that process is killed: a watchdog waits on a pipe
//!   (`process`);
//! - two processes never share a directory: the second gets [`PostgresError::InUse`];
//! - if started as root, it runs as another user, because Postgres refuses to run as root.

use std::path::PathBuf;
use std::time::Duration;

use crate::db;

mod account;
mod binaries;
mod cluster;
mod error;
mod home;
mod leftover;
mod process;
mod ready;

pub use error::PostgresError;

use cluster::Cluster;
use home::{Home, Lock};
use process::Watched;

/// Maximum number of tries to start the server if they fail for a temporary reason, such as another program that took
/// the port.
const MAX_STARTS: u32 = 3;

/// Time limit of a fast shutdown; an immediate shutdown follows.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Options of a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cluster's directory, created if it is missing. If this process is root and other users cannot enter a parent
    /// directory, the files are in `/var/lib/postrider/…`, and this directory has a link to them.
    pub dir: PathBuf,
    /// `false` only in tests: no fsync, so a crash of the machine loses the cluster. A crash of the process does not.
    pub durable: bool,
}

/// A running cluster. If it is dropped without [`stop`](Postgres::stop), it shuts down a moment later.
pub struct Postgres {
    process: Watched,
    port: u16,
    password: String,
    /// Held as long as the cluster runs.
    _lock: Lock,
}

impl Postgres {
    /// Starts the cluster, creating it first if it is missing, and returns once it accepts connections.
    pub async fn start(options: Options) -> Result<Self, PostgresError> {
        let home = Home::open(&options.dir)?;
        let lock = home.lock().await?;
        leftover::stop(&home).await?;
        let cluster = Cluster::open(&home, options.durable).await?;
        let mut starts = 0;
        loop {
            starts += 1;
            match start_once(&home, &cluster, options.durable).await {
                Ok((process, port)) => return Ok(Self { process, port, password: cluster.password, _lock: lock }),
                Err(error) if starts < MAX_STARTS && error.is_temporary() => {
                    tracing::warn!(event = "dev_postgres_start_failed", %error, "postgres did not start; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the URL of a database, for the cluster's superuser. The database `postgres` always exists.
    pub fn url(&self, database: &str) -> String {
        ready::url(self.port, &self.password, database)
    }

    /// Returns the port on 127.0.0.1 that the server listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Creates a database unless it exists, and returns its URL. The name must not need escaping in a URL.
    pub async fn ensure_database(&self, name: &str) -> Result<String, PostgresError> {
        db::pool::cluster::ensure_database(&self.url("postgres"), name).await?;
        Ok(self.url(name))
    }

    /// Requests a fast shutdown, which rolls back open transactions, and waits until the server has ended.
    pub async fn stop(self) -> Result<(), PostgresError> {
        self.process.stop(STOP_LIMIT).await
    }
}

async fn start_once(home: &Home, cluster: &Cluster, durable: bool) -> Result<(Watched, u16), PostgresError> {
    let port = free_port()?;
    let log = home.new_log()?;
    let mut process = Watched::spawn(home, cluster, port, durable, log)?;
    match ready::wait(&mut process, &ready::url(port, &cluster.password, "postgres"), home).await {
        Ok(()) => Ok((process, port)),
        Err(error) => {
            // A server that is still running would prevent the next start.
            let _ = process.stop(STOP_LIMIT).await;
            Err(error)
        }
    }
}

/// Returns a port that was free a moment ago.
fn free_port() -> Result<u16, PostgresError> {
    let probe = std::net::TcpListener::bind(("127.0.0.1", 0));
    probe.and_then(|listener| Ok(listener.local_addr()?.port())).map_err(|source| PostgresError::NoPort { source })
}
