//! A private Postgres for `postrider dev` and for the tests, made of the binaries that the machine has.
//!
//! What it promises:
//!
//! - one directory is one cluster; a second start finds its data, a half-made cluster is made again;
//! - it listens on 127.0.0.1 only, on a port free at the time, with a generated password;
//! - it never outlives the process that started it, however that one ends: its `process` is watched over a pipe;
//! - two processes never share a directory: the second gets [`PostgresError::InUse`];
//! - as root it runs as another user, since Postgres refuses to run as root.

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

/// Starts in a row where one fails for a passing reason: another program took the port in between, for example.
const TRIES: u32 = 3;

/// How long a fast shutdown may take before Postgres is told to drop everything.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Where the cluster lives and how safe it is.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cluster's directory, made if need be. Started as root where some directory above it is closed to other
    /// users, the files are kept in `/var/lib/postrider/…`, and this directory holds a link to them.
    pub dir: PathBuf,
    /// `false` only in tests: no fsync, so a crash of the machine loses the cluster. A crash of the process does not.
    pub durable: bool,
}

/// A running cluster. Dropped without [`stop`](Postgres::stop), it shuts down on its own, a moment later.
pub struct Postgres {
    process: Watched,
    port: u16,
    password: String,
    /// Held as long as the cluster runs.
    _lock: Lock,
}

impl Postgres {
    /// Starts the cluster, making it first if need be, and answers once it takes connections.
    pub async fn start(options: Options) -> Result<Self, PostgresError> {
        let home = Home::open(&options.dir)?;
        let lock = home.lock().await?;
        leftover::stop(&home).await?;
        let cluster = Cluster::open(&home, options.durable).await?;
        let mut tries = 0;
        loop {
            tries += 1;
            match start_once(&home, &cluster, options.durable).await {
                Ok((process, port)) => return Ok(Self { process, port, password: cluster.password, _lock: lock }),
                Err(error) if tries < TRIES && error.is_passing() => {
                    tracing::warn!(%error, "Postgres did not start; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The URL of a database, for the cluster's superuser. The database `postgres` is always there.
    pub fn url(&self, database: &str) -> String {
        ready::url(self.port, &self.password, database)
    }

    /// The port on 127.0.0.1 that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes a database unless it is there, and answers its URL. For names that need no escaping in a URL.
    pub async fn ensure_database(&self, name: &str) -> Result<String, PostgresError> {
        db::pool::cluster::ensure_database(&self.url("postgres"), name).await?;
        Ok(self.url(name))
    }

    /// Shuts down fast: open transactions are rolled back, everything committed is on disk. Answers once it has ended.
    pub async fn stop(self) -> Result<(), PostgresError> {
        self.process.stop(STOP_LIMIT).await
    }
}

async fn start_once(home: &Home, cluster: &Cluster, durable: bool) -> Result<(Watched, u16), PostgresError> {
    let port = free_port()?;
    let log = home.fresh_log()?;
    let mut process = Watched::spawn(home, cluster, port, durable, log)?;
    match ready::wait(&mut process, &ready::url(port, &cluster.password, "postgres"), home).await {
        Ok(()) => Ok((process, port)),
        Err(error) => {
            // Whatever is left of it must not be in the way of the next try.
            let _ = process.stop(STOP_LIMIT).await;
            Err(error)
        }
    }
}

/// A port that nobody listened on a moment ago.
fn free_port() -> Result<u16, PostgresError> {
    let probe = std::net::TcpListener::bind(("127.0.0.1", 0));
    probe.and_then(|listener| Ok(listener.local_addr()?.port())).map_err(|source| PostgresError::NoPort { source })
}
