//! Every SQL statement of the product: free functions, one file a table group.
//!
//! Each function is one statement or one transaction, bounded by [`Db`]'s own time limit (sqlx has none for a stuck
//! socket) and traced under its name. No transaction ever waits for SMTP or HTTP.

pub mod bench;
pub mod blobs;
pub mod bounces;
pub mod cluster;
mod columns;
pub mod conditions;
pub mod control;
pub mod domains;
pub mod drafts;
pub mod durability;
mod error;
pub mod events;
pub mod explain;
pub mod feed;
pub mod feedback;
pub mod idempotency;
pub mod intake;
pub mod journal;
pub mod keys;
pub mod lanes;
pub mod ledger;
pub mod limits;
pub mod marks;
pub mod messages;
pub mod notify;
mod outage;
pub mod overdue;
pub mod partitions;
pub mod pauses;
mod pool;
pub mod queue;
pub mod retry_policies;
pub mod schema;
pub mod senders;
pub mod splits;
pub mod steer;
pub mod streams;
pub mod suppression_list;
pub mod suppressions;
pub mod traffic;
pub mod unsubscribe;
pub mod wake;
pub mod webhook_log;
pub mod webhooks;
pub mod workers;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tracing::Instrument as _;

pub use error::DbError;
pub use outage::{Outage, Trouble};

use outage::{GivenUp, Watch};
use pool::Pool;

/// Connections with the settings that the hot statements need, and an eye on whether anybody answers them.
#[derive(Debug, Clone)]
pub struct Db {
    pool: Pool,
    timeout: Duration,
    watch: Arc<Watch>,
}

impl Db {
    /// Opens a pool without connecting yet. `url` is a `postgres://` URL.
    pub fn new(url: &str, max_connections: u32, timeout: Duration) -> Result<Self, DbError> {
        let options: PgConnectOptions = url.parse().map_err(DbError::Address)?;
        let limit = format!("{}ms", timeout.as_millis());
        let options = options
            .application_name("postrider")
            .log_statements(tracing::log::LevelFilter::Trace)
            .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(2))
            .options([
                // 202 means committed, whatever the server's default is.
                ("synchronous_commit", "on"),
                // A generic plan of the claim would compile for 12 ms. Plans are made for each call, but on hot connections.
                ("jit", "off"),
                ("plan_cache_mode", "force_custom_plan"),
                ("statement_timeout", &limit),
                ("lock_timeout", &limit),
                ("idle_in_transaction_session_timeout", &limit),
                // When we vanish without a word (SIGKILL, a dead link), what our connections hold is free soon.
                ("client_connection_check_interval", "2s"),
                ("tcp_keepalives_idle", "10"),
                ("tcp_keepalives_interval", "5"),
                ("tcp_keepalives_count", "3"),
                ("tcp_user_timeout", "20s"),
                // Each statement must see what was committed before it: locks are taken first and the truth read after.
                ("default_transaction_isolation", "read committed"),
                ("TimeZone", "UTC"),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(timeout.mul_f64(Watch::PATIENCE))
            .idle_timeout(Duration::from_mins(5))
            .max_lifetime(Duration::from_hours(1));
        let pool = Pool::new(options, pool);
        Ok(Self { watch: Watch::new(pool.clone(), timeout), pool, timeout })
    }

    /// The longest that one call may take, scans apart.
    pub fn limit(&self) -> Duration {
        self.timeout
    }

    /// Whether the database answers and takes writes.
    pub async fn ping(&self) -> Result<(), DbError> {
        let query = "db.ping";
        let ping = sqlx::query_scalar!(r#"SELECT current_setting('transaction_read_only') = 'on' AS "read_only!""#)
            .fetch_one(&self.pool);
        if self.timed(query, ping).await? {
            self.pool.renew_unless_fresh();
            let outage = Outage::new(Trouble::ReadOnly, "it is read-only");
            return Err(DbError::Away { query, outage, begun: false });
        }
        Ok(())
    }

    /// Closes every connection once it is idle; what does not end within the time limit is left.
    pub async fn close(&self) {
        let _ = tokio::time::timeout(self.timeout, self.pool.close()).await;
    }

    /// Runs one statement or transaction under its name and the time limit.
    async fn timed<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, DbError> {
        self.timed_for(self.timeout, name, work).await
    }

    /// As [`Db::timed`] with a limit of its own.
    async fn timed_for<T>(
        &self,
        limit: Duration,
        name: &'static str,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, DbError> {
        let span = tracing::debug_span!("db", query = name);
        // Boxed once: it would be moved, and held, several times over.
        match self.watch.over(limit, Box::pin(work.instrument(span))).await {
            Ok(result) => result.map_err(|source| self.failed(name, source)),
            Err(GivenUp::TimedOut) => Err(DbError::Timeout { query: name, limit }),
            Err(GivenUp::NotBegun(outage)) => Err(DbError::Away { query: name, outage, begun: false }),
            Err(GivenUp::Away(outage)) => Err(DbError::Away { query: name, outage, begun: true }),
        }
    }

    fn failed(&self, query: &'static str, source: sqlx::Error) -> DbError {
        if error::is_read_only(&source) {
            // After a failover the old primary still answers: new connections may lead to the new one.
            self.pool.renew_unless_fresh();
        }
        match self.watch.refusal() {
            Some(outage) if matches!(source, sqlx::Error::PoolTimedOut) => {
                DbError::Away { query, outage, begun: false }
            }
            _ => DbError::from_sqlx(query, source),
        }
    }
}
