//! Every SQL statement of the product: free functions, one file a table group.
//!
//! Each function is one statement or one transaction, bounded by [`Db`]'s own time limit (sqlx has none for a stuck
//! socket) and traced under its name. No transaction ever waits for SMTP or HTTP.

pub mod blobs;
pub mod cluster;
pub mod control;
pub mod drafts;
pub mod durability;
mod error;
pub mod events;
pub mod idempotency;
pub mod intake;
pub mod keys;
pub mod lanes;
pub mod messages;
pub mod partitions;
pub mod queue;
pub mod schema;
pub mod streams;
pub mod wake;
pub mod workers;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tracing::Instrument as _;

pub use error::DbError;

/// A pool of connections with the settings that the hot statements need.
#[derive(Debug, Clone)]
pub struct Db {
    pool: PgPool,
    timeout: Duration,
    stale: Stale,
}

/// Since when connections may lead to a server that has become read-only: after a failover the old primary still
/// answers, and every connection to it has to go.
#[derive(Debug, Clone, Default)]
struct Stale(Arc<Mutex<Option<Instant>>>);

impl Stale {
    fn mark(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection of this age was opened after the last sign of a read-only server.
    fn allows(&self, age: Duration) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|marked| age < marked.elapsed())
    }
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
                // A generic plan of the claim compiles for 12 ms; custom plans also prune partitions.
                ("jit", "off"),
                ("plan_cache_mode", "force_custom_plan"),
                ("statement_timeout", &limit),
                ("lock_timeout", &limit),
                ("idle_in_transaction_session_timeout", &limit),
                // Each statement must see what was committed before it: locks are taken first and the truth read after.
                ("default_transaction_isolation", "read committed"),
                ("TimeZone", "UTC"),
            ]);
        let stale = Stale::default();
        let pool = PgPoolOptions::new()
            .before_acquire({
                let stale = stale.clone();
                move |_, connection| {
                    let allowed = stale.allows(connection.age);
                    Box::pin(async move { Ok(allowed) })
                }
            })
            .max_connections(max_connections)
            .acquire_timeout(timeout)
            .idle_timeout(Duration::from_mins(5))
            .max_lifetime(Duration::from_hours(1))
            .connect_lazy_with(options);
        Ok(Self { pool, timeout, stale })
    }

    /// The pool, for this module's functions and for `LISTEN`.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), DbError> {
        let ping = sqlx::query_scalar!(r#"SELECT 1 AS "one!""#).fetch_one(&self.pool);
        self.timed("db.ping", ping).await.map(|_| ())
    }

    /// Closes every connection once it is idle.
    pub async fn close(&self) {
        self.pool.close().await;
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
        let Ok(result) = tokio::time::timeout(limit, work.instrument(span)).await else {
            return Err(DbError::Timeout { query: name, limit });
        };
        result.map_err(|source| {
            if error::is_read_only(&source) {
                self.stale.mark();
            }
            DbError::from_sqlx(name, source)
        })
    }
}
