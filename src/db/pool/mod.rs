//! A connection pool whose connections can all be replaced while the service runs.
//!
//! sqlx waits without limit for a connection whose peer no longer responds: after a call was aborted, it pings the
//! connection, and the connection occupies its slot until the kernel closes it (after a quarter of an hour). A pool
//! that may contain such connections is therefore abandoned, with the calls that still run in it, and replaced by a new
//! one.

pub(super) mod circuit_breaker;
pub mod cluster;
pub mod durability;
pub(super) mod error;
pub(super) mod outage;
pub mod pg_notify;
pub mod restore_gate;
pub(super) mod scan;
pub mod server;
pub mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use parking_lot::RwLock;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{
    ConnectOptions as _, Describe, Either, Error, Execute, Executor, PgConnection, Postgres, SqlStr, Transaction,
};

use crate::metrics::METRICS;
use crate::metrics::labels::PoolName;
use restore_gate::RestoreGate;
use session::HOT_SETTINGS;

/// Minimum interval between replacements of the pool, so that a server that stays read-only does not cause one per
/// call.
const MIN_RENEW_INTERVAL: Duration = Duration::from_secs(1);
/// How long calls may still run in an abandoned pool; longer than any call's time limit.
const DRAIN_TIMEOUT: Duration = Duration::from_mins(3);

/// A replaceable pool, on which statements run as on a sqlx pool.
#[derive(Debug, Clone)]
pub(super) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: ConnectionOptions,
    current: RwLock<Current>,
}

/// The options of each kind of connection.
#[derive(Debug)]
struct ConnectionOptions {
    /// Options of connections to the server itself, each with a session.
    direct: PgConnectOptions,
    /// Options of connections that may go through a connection pooler in transaction mode.
    pooled: Option<PgConnectOptions>,
    pool: PgPoolOptions,
    /// The gate that checks each new connection to the server itself. A pooler may use another server for each transaction.
    gate: Option<Arc<RestoreGate>>,
    /// Current maximum number of connections.
    size: AtomicU32,
}

impl ConnectionOptions {
    /// Returns the options of connections that need no session.
    fn sessionless(&self) -> &PgConnectOptions {
        self.pooled.as_ref().unwrap_or(&self.direct)
    }

    /// Returns the options of a pool of connections to the server itself.
    fn direct_pool(&self) -> PgPoolOptions {
        match &self.gate {
            Some(gate) => restore_gate::guarded(self.pool.clone(), gate.clone()),
            None => self.pool.clone(),
        }
    }

    /// Returns the options of connections with cached plans.
    fn hot(&self) -> PgConnectOptions {
        self.direct.clone().options(HOT_SETTINGS)
    }
}

#[derive(Debug)]
struct Current {
    pool: PgPool,
    hot: PgPool,
    opened_at: Instant,
}

/// Number of connections of the hot path, part of the maximum. In the API, the two writers of the group commit, the
/// one-by-one fallback and the writer of batches use them; in the worker, a claim with its lookups. Lane lookups and
/// small attachments use one for a single statement.
const HOT_CONNECTIONS: u32 = 5;

/// Returns how many of a pool's connections are those of the hot path, which always lead to the server itself.
pub fn hot_connections(all: u32) -> u32 {
    HOT_CONNECTIONS.min(all / 2).max(1)
}

impl Current {
    /// Creates the pools without connecting yet.
    fn new(options: &ConnectionOptions) -> Self {
        let all = options.size.load(Ordering::Relaxed);
        let hot = hot_connections(all);
        let main = if options.pooled.is_some() { options.pool.clone() } else { options.direct_pool() };
        let main = main.max_connections(all.saturating_sub(hot).max(1));
        Self {
            pool: main.connect_lazy_with(options.sessionless().clone()),
            hot: options.direct_pool().max_connections(hot).connect_lazy_with(options.hot()),
            opened_at: Instant::now(),
        }
    }

    async fn close(&self) {
        tokio::join!(self.pool.close(), self.hot.close());
    }
}

/// The number of connections of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConnections {
    /// The pool.
    pub name: PoolName,
    /// Connections in use.
    pub used: u32,
    /// Open connections that are free.
    pub idle: u32,
    /// Connections that may still be opened.
    pub unopened: u32,
}

impl PoolConnections {
    fn new(name: PoolName, pool: &PgPool) -> Self {
        let (open, max) = (pool.size(), pool.options().get_max_connections());
        let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX).min(open);
        Self { name, used: open - idle, idle, unopened: max.saturating_sub(open) }
    }
}

/// Begins every transaction except those of the group commit. The API responds with 202 after a commit, so commits must
/// be synchronous. This is set here because a connection pooler may have dropped the session's setting.
const BEGIN: &str = "BEGIN; SET LOCAL synchronous_commit = on";

impl Pool {
    /// Creates the pool without connecting yet. `pooled` may go through a connection pooler in transaction mode.
    pub(super) fn new(
        direct: PgConnectOptions,
        pooled: Option<PgConnectOptions>,
        pool: PgPoolOptions,
        gate: Option<Arc<RestoreGate>>,
    ) -> Self {
        let size = AtomicU32::new(pool.get_max_connections());
        let options = ConnectionOptions { direct, pooled, pool, gate, size };
        let current = RwLock::new(Current::new(&options));
        Self(Arc::new(Inner { options, current }))
    }

    /// Returns the options of connections with a session.
    pub(super) fn direct(&self) -> &PgConnectOptions {
        &self.0.options.direct
    }

    /// Returns the options of connections through a pooler, if configured.
    pub(super) fn pooled(&self) -> Option<&PgConnectOptions> {
        self.0.options.pooled.as_ref()
    }

    /// Returns the options of hot connections.
    pub(super) fn hot_options(&self) -> PgConnectOptions {
        self.0.options.hot()
    }

    fn current(&self) -> PgPool {
        self.0.current.read().pool.clone()
    }

    /// Returns the pool for the hot path: the few statements that run for each message. Their plans are cached, because
    /// planning took a third of their time. A cached plan does not depend on table sizes, and each week's partitions
    /// start without statistics. Every row must therefore be looked up by its key: otherwise Postgres may scan the
    /// partition of the week to find a hundred rows, which took 25 ms per batch after three minutes of traffic.
    ///
    /// A join of a list with a table must use `key = ANY (ARRAY[list.key])` on the first column of the table's key.
    /// With `=`, the plan could scan the whole index in that column's order, which looks cheap while the table is
    /// empty, and the plan is cached.
    pub(super) fn hot(&self) -> PgPool {
        self.0.current.read().hot.clone()
    }

    /// Returns the number of connections of each pool.
    pub(super) fn connections(&self) -> [PoolConnections; 2] {
        let current = self.0.current.read();
        [PoolConnections::new(PoolName::Main, &current.pool), PoolConnections::new(PoolName::Hot, &current.hot)]
    }

    /// Begins a transaction.
    pub(super) fn begin(&self) -> BoxFuture<'static, Result<Transaction<'static, Postgres>, Error>> {
        begin(self.current(), PoolName::Main, BEGIN)
    }

    /// Begins a transaction on a hot connection with `statement`.
    pub(super) fn begin_hot(
        &self,
        statement: &'static str,
    ) -> BoxFuture<'static, Result<Transaction<'static, Postgres>, Error>> {
        begin(self.hot(), PoolName::Hot, statement)
    }

    /// Acquires a connection; dropping it returns it to the pool.
    pub(super) fn acquire(&self) -> BoxFuture<'static, Result<PoolConnection<Postgres>, Error>> {
        Box::pin(timed(PoolName::Main, self.current().acquire()))
    }

    /// Acquires a hot connection; dropping it returns it to the pool.
    pub(super) fn acquire_hot(&self) -> BoxFuture<'static, Result<PoolConnection<Postgres>, Error>> {
        Box::pin(timed(PoolName::Hot, self.hot().acquire()))
    }

    /// Opens a connection outside of the pool. Has no time limit.
    pub(super) async fn connect(&self) -> Result<PgConnection, Error> {
        self.0.options.sessionless().connect().await
    }

    /// Opens a connection with a session outside of the pool. Has no time limit.
    pub(super) async fn connect_directly(&self) -> Result<PgConnection, Error> {
        self.0.options.direct.connect().await
    }

    /// Changes the maximum number of connections.
    pub(super) fn resize(&self, all: u32) {
        if self.0.options.size.swap(all, Ordering::Relaxed) != all {
            self.renew();
        }
    }

    /// Creates a pool with one connection, which stays open while the service runs.
    pub(super) fn single(&self) -> PgPool {
        self.0
            .options
            .pool
            .clone()
            .max_connections(1)
            .max_lifetime(None)
            .connect_lazy_with(self.0.options.direct.clone())
    }

    /// Replaces the pool, so that new calls use new connections. Running calls continue on the old ones.
    pub(super) fn renew(&self) {
        self.renew_if(|_| true);
    }

    /// Replaces the pool, unless it was replaced within [`MIN_RENEW_INTERVAL`].
    pub(super) fn renew_unless_recent(&self) {
        self.renew_if(|opened_at| opened_at.elapsed() >= MIN_RENEW_INTERVAL);
    }

    /// Replaces the pool, unless it was created after a call that started at `started`.
    pub(super) fn renew_older_than(&self, started: Instant) {
        self.renew_if(|opened_at| opened_at <= started);
    }

    fn renew_if(&self, is_due: impl FnOnce(Instant) -> bool) {
        let old = {
            let mut current = self.0.current.write();
            if !is_due(current.opened_at) || current.pool.is_closed() {
                return;
            }
            std::mem::replace(&mut *current, Current::new(&self.0.options))
        };
        let abandoned = old.pool.size() + old.hot.size();
        tracing::info!(event = "connections_renewed", abandoned, "opening fresh connections to the database");
        tokio::spawn(async move { tokio::time::timeout(DRAIN_TIMEOUT, old.close()).await });
    }

    /// Closes every connection once it is idle.
    pub(super) async fn close(&self) {
        let (pool, hot) = (self.current(), self.hot());
        tokio::join!(pool.close(), hot.close());
    }
}

/// Begins a transaction. Boxed, because sqlx's future for opening a connection has 30 KB, and futures that await it
/// would contain it.
fn begin(
    pool: PgPool,
    name: PoolName,
    statement: &'static str,
) -> BoxFuture<'static, Result<Transaction<'static, Postgres>, Error>> {
    Box::pin(timed(name, async move { pool.begin_with(statement).await }))
}

/// Records how long it takes until a connection is available.
async fn timed<T>(pool: PoolName, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let available = work.await;
    METRICS.db_acquire.get((pool,)).record(started.elapsed());
    available
}

impl<'p> Executor<'p> for &'_ Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        (&self.current()).fetch_many(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        (&self.current()).fetch_optional(query)
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'p: 'e,
    {
        (&self.current()).prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'p: 'e,
    {
        (&self.current()).describe(sql)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failure_of_an_older_call_keeps_new_connections() {
        let pool = Pool::new(PgConnectOptions::new(), None, PgPoolOptions::new(), None);
        let opened_at = || pool.0.current.read().opened_at;
        let (started, created) = (Instant::now(), opened_at());
        pool.renew_older_than(started);
        let renewed = opened_at();
        assert!(renewed > created);
        pool.renew_older_than(started);
        assert_eq!(opened_at(), renewed);
    }
}
