//! All SQL statements of the service, as free functions, one folder per subject.
//!
//! The modules in order, each importing only from those before it: `pool` (connections, errors, time limits), `schema`,
//! `events`, `suppressions`, `queue`, `lanes`, `messages`, and `group_commit`, which commits messages and outcomes
//! together. The other modules are not part of this order.
//!
//! Each function is one statement or one transaction, with [`Db`]'s time limit (sqlx has none for a connection that no
//! longer responds) and a tracing span with its name. No transaction waits for SMTP or HTTP.

pub mod audit;
pub mod background_work;
pub mod bench;
pub mod changes;
pub mod delivery_reports;
pub mod domains;
pub mod erasures;
pub mod events;
pub mod group_commit;
pub mod installation;
pub mod keys;
pub mod lanes;
pub mod ledger;
pub mod messages;
pub mod overview;
pub mod pool;
pub mod queue;
pub mod receiving;
pub mod retention;
pub mod schema;
pub mod service_metrics;
pub mod simulator_followups;
pub mod statistics;
pub mod streams;
pub mod suppressions;
pub mod templates;
pub mod tenants;
pub mod test_clock;
pub mod webhooks;
pub mod workers;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tracing::Instrument as _;

pub use pool::PoolConnections;
pub use pool::error::DbError;
pub use pool::outage::{Outage, Trouble};
pub use pool::restore_gate::{RestoreGate, ServerRun};

use crate::metrics;
use crate::object_storage::{ObjectStorage, Objects};
use pool::Pool;
use pool::circuit_breaker::{CallAborted, CircuitBreaker};

/// A connection pool with the session settings that the service needs, behind a circuit breaker.
#[derive(Debug, Clone)]
pub struct Db {
    pool: Pool,
    timeout: Duration,
    breaker: Arc<CircuitBreaker>,
    /// The gate of a service.
    restore_gate: Option<Arc<RestoreGate>>,
    /// Whether the process only reads, so that the server may be a hot standby.
    is_read_only: bool,
    /// Where the bytes of large attachments are, if it is not the database.
    objects: Objects,
}

/// Options for opening a database.
#[derive(Debug, Clone, Copy)]
pub struct DbOptions<'a> {
    /// A `postgres://` URL; may lead to a connection pooler in transaction mode if `direct_url` is set.
    pub url: &'a str,
    /// The URL of the server itself, used for everything that needs a session (LISTEN, migrations, cached plans).
    pub direct_url: Option<&'a str>,
    /// Maximum number of connections.
    pub max_connections: u32,
    /// Time limit of one call.
    pub timeout: Duration,
    /// Whether this process is a service and not a command. Services count each other by their application names, to
    /// divide the server's connections.
    pub is_service: bool,
    /// Notices connections to another server. `None` for commands.
    pub restore_gate: Option<&'a Arc<RestoreGate>>,
}

impl Db {
    /// Creates a pool without connecting yet. `url` is a `postgres://` URL.
    pub fn new(url: &str, max_connections: u32, timeout: Duration) -> Result<Self, DbError> {
        Self::open(&DbOptions {
            url,
            direct_url: None,
            max_connections,
            timeout,
            is_service: false,
            restore_gate: None,
        })
    }

    /// Creates a pool without connecting yet.
    pub fn open(opening: &DbOptions<'_>) -> Result<Self, DbError> {
        let &DbOptions { url, direct_url, max_connections, timeout, is_service, restore_gate } = opening;
        let name = if is_service { service() } else { PROGRAM };
        let direct = with_session_settings(options(direct_url.unwrap_or(url), name)?, timeout);
        // A pooler refuses or drops session settings, so they are set on the role instead. The pooler's connections to
        // the server outlive this process, so they do not have its application name.
        let pooled =
            direct_url.map(|_| options(url, PROGRAM)).transpose()?.map(|options| options.extra_float_digits(None));
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(timeout.mul_f64(CircuitBreaker::ACQUIRE_TIMEOUT))
            .idle_timeout(Duration::from_mins(5))
            .max_lifetime(Duration::from_hours(1));
        let restore_gate = restore_gate.cloned();
        let pool = Pool::new(direct, pooled, pool, restore_gate.clone());
        let breaker = CircuitBreaker::new(pool.clone(), timeout);
        Ok(Self { breaker, pool, timeout, restore_gate, is_read_only: false, objects: None })
    }

    /// Returns the pool of a process that only reads: a server that refuses writes is available.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { is_read_only: true, ..self }
    }

    /// Returns the pool of a process that stores large attachments in this object store.
    #[must_use]
    pub fn with_objects(self, objects: Objects) -> Self {
        Self { objects, ..self }
    }

    /// Returns the object store for large attachments, if one is configured.
    pub fn objects(&self) -> Option<&ObjectStorage> {
        self.objects.as_deref()
    }

    /// Returns whether the process only reads. It must not write, and nothing that it does in the background may.
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Changes the maximum number of connections. Running calls are not interrupted.
    pub fn resize(&self, max_connections: u32) {
        self.pool.resize(max_connections);
    }

    /// Returns the number of connections of each pool.
    pub fn connections(&self) -> [PoolConnections; 2] {
        self.pool.connections()
    }

    /// Returns the time limit of one call; scans have a longer one.
    pub fn limit(&self) -> Duration {
        self.timeout
    }

    /// Checks whether the database responds and accepts writes; of a process that only reads, whether it responds.
    pub async fn ping(&self) -> Result<(), DbError> {
        let query = "db.ping";
        let ping = sqlx::query_scalar!(r#"SELECT current_setting('transaction_read_only') = 'on' AS "read_only!""#)
            .fetch_one(&self.pool);
        if self.timed(query, ping).await? && !self.is_read_only {
            self.pool.renew_unless_recent();
            let outage = Outage::new(Trouble::ReadOnly, "it is read-only");
            return Err(DbError::KnownOutage { query, outage, may_be_sent: false });
        }
        if self.breaker.is_disk_full() {
            let outage =
                Outage::new(Trouble::DiskFull, "a statement failed within the last 30 s because the disk is full");
            return Err(DbError::KnownOutage { query, outage, may_be_sent: false });
        }
        Ok(())
    }

    /// Closes every connection once it is idle. Returns after the time limit even if some are still open.
    pub async fn close(&self) {
        let _ = tokio::time::timeout(self.timeout, self.pool.close()).await;
    }

    /// Runs one statement or transaction under a name, with the time limit.
    fn timed<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> impl Future<Output = Result<T, DbError>> {
        self.timed_for(self.timeout, name, work)
    }

    /// Like [`Db::timed`], with another time limit.
    fn timed_for<T>(
        &self,
        limit: Duration,
        name: &'static str,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> impl Future<Output = Result<T, DbError>> {
        // Boxed before the async block: otherwise the block's future, and the futures of all callers, would contain the
        // large future of the query.
        let work = Box::pin(work.instrument(tracing::debug_span!("db", query = name)));
        async move {
            let started = Instant::now();
            let ended = self.breaker.run(limit, work).await;
            metrics::statements::record(name, started.elapsed());
            match ended {
                Ok(result) => result.map_err(|source| self.failed(name, source)),
                Err(CallAborted::TimedOut) => Err(DbError::Timeout { query: name, limit }),
                Err(CallAborted::NotAttempted(outage)) => {
                    Err(DbError::KnownOutage { query: name, outage, may_be_sent: false })
                }
                Err(CallAborted::Unavailable(outage)) => {
                    Err(DbError::KnownOutage { query: name, outage, may_be_sent: true })
                }
            }
        }
    }

    fn failed(&self, query: &'static str, source: sqlx::Error) -> DbError {
        if pool::error::is_read_only(&source) && !self.is_read_only {
            // After a failover, the old primary still responds; new connections may reach the new primary.
            self.pool.renew_unless_recent();
        }
        if pool::error::is_disk_full(&source) {
            self.breaker.note_disk_full();
        }
        match self.breaker.refusal() {
            Some(outage) if matches!(source, sqlx::Error::PoolTimedOut) => {
                DbError::KnownOutage { query, outage, may_be_sent: false }
            }
            _ => DbError::from_sqlx(query, source),
        }
    }
}

fn options(url: &str, name: &str) -> Result<PgConnectOptions, DbError> {
    let options: PgConnectOptions = url.parse().map_err(DbError::Address)?;
    Ok(options
        .application_name(name)
        .log_statements(tracing::log::LevelFilter::Trace)
        .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(2)))
}

/// Adds the settings that only connections to the server itself can have, because a pooler drops them.
fn with_session_settings(options: PgConnectOptions, timeout: Duration) -> PgConnectOptions {
    options.options(pool::session::settings(timeout)).options(pool::session::NETWORK_SETTINGS)
}

/// Application name of connections in `pg_stat_activity`, except a service's direct connections to the server.
const PROGRAM: &str = "postrider";

/// Returns the application name of this service's direct connections, which is unique to this process.
fn service() -> &'static str {
    static NAME: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let id = uuid::Uuid::new_v4().simple().to_string();
        format!("{PROGRAM}-{}", &id[..8])
    });
    &NAME
}
