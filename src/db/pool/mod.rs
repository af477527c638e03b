//! A connection pool whose connections can all be replaced while the service runs.
//!
//! sqlx waits without limit for a connection whose peer has gone silent: after a call was aborted, it pings the
//! connection, and the connection occupies its slot until the kernel gives up too (a quarter of an hour). A pool that
//! may contain such connections is therefore abandoned, with whatever still runs in it, and replaced by a new one.

pub(super) mod circuit_breaker;
pub mod cluster;
pub mod durability;
pub(super) mod error;
pub(super) mod outage;
pub mod pg_notify;
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

use session::HOT as HOT_SETTINGS;

/// Minimum interval between reconnects, so that a server that stays read-only does not get one for every call.
const SETTLES: Duration = Duration::from_secs(1);
/// How long calls may still run in an abandoned pool: longer than any call takes.
const LAST_CALLS: Duration = Duration::from_mins(3);

/// The current pool; statements run on it as on a sqlx pool.
#[derive(Debug, Clone)]
pub(super) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ways: Ways,
    current: RwLock<Current>,
}

/// Connection options.
#[derive(Debug)]
struct Ways {
    /// Options of connections to the server itself, each with a session.
    direct: PgConnectOptions,
    /// Options of connections that may go through a connection pooler in transaction mode.
    pooled: Option<PgConnectOptions>,
    options: PgPoolOptions,
    /// Current maximum number of connections.
    size: AtomicU32,
}

impl Ways {
    /// Returns the options of connections that need no session.
    fn ordinary(&self) -> &PgConnectOptions {
        self.pooled.as_ref().unwrap_or(&self.direct)
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
    since: Instant,
}

/// Number of connections for the hot path, out of the maximum: for the two writers of the group commit and the
/// one-by-one fallback, or a claim with its lookups. Lane lookups and small attachments use one for a single statement
/// in between.
const HOT: u32 = 4;

impl Current {
    /// Creates the pools without connecting yet.
    fn new(ways: &Ways) -> Self {
        let all = ways.size.load(Ordering::Relaxed);
        let hot = HOT.min(all / 2).max(1);
        let pool = |size: u32| ways.options.clone().max_connections(size.max(1));
        Self {
            pool: pool(all.saturating_sub(hot)).connect_lazy_with(ways.ordinary().clone()),
            hot: pool(hot).connect_lazy_with(ways.hot()),
            since: Instant::now(),
        }
    }

    async fn close(&self) {
        tokio::join!(self.pool.close(), self.hot.close());
    }
}

/// Begins every transaction except those of the group commit. A commit may be acknowledged to a caller, so it must be
/// synchronous; it is set here because a connection pooler may have dropped the session's setting.
const BEGIN: &str = "BEGIN; SET LOCAL synchronous_commit = on";

impl Pool {
    /// Creates the pool without connecting yet. `pooled` may go through a connection pooler in transaction mode.
    pub(super) fn new(direct: PgConnectOptions, pooled: Option<PgConnectOptions>, options: PgPoolOptions) -> Self {
        let size = AtomicU32::new(options.get_max_connections());
        let ways = Ways { direct, pooled, options, size };
        let current = RwLock::new(Current::new(&ways));
        Self(Arc::new(Inner { ways, current }))
    }

    /// Returns the options of connections with a session.
    pub(super) fn direct(&self) -> &PgConnectOptions {
        &self.0.ways.direct
    }

    /// Returns the options of connections through a pooler, if configured.
    pub(super) fn pooled(&self) -> Option<&PgConnectOptions> {
        self.0.ways.pooled.as_ref()
    }

    /// Returns the options of hot connections.
    pub(super) fn hot_options(&self) -> PgConnectOptions {
        self.0.ways.hot()
    }

    fn current(&self) -> PgPool {
        self.0.current.read().pool.clone()
    }

    /// Returns the pool for the hot path: the few statements that run for each message. Their plans are cached, because
    /// planning took a third of their time. A cached plan does not depend on table sizes, and each week's partitions
    /// start without statistics. So every row must be found by its key: Postgres would otherwise scan the whole week
    /// instead of looking up a hundred rows, which took 25 ms per batch after three minutes of traffic.
    ///
    /// A join of a list with a table must use `key = ANY (ARRAY[list.key])` on the first column of the table's key.
    /// With `=`, the plan could scan the whole index in that column's order, which looks cheap while the table is
    /// empty, and the plan is cached.
    pub(super) fn hot(&self) -> PgPool {
        self.0.current.read().hot.clone()
    }

    /// Begins a transaction.
    pub(super) fn begin(&self) -> BoxFuture<'static, Result<Transaction<'static, Postgres>, Error>> {
        begin(self.current(), BEGIN)
    }

    /// Begins a transaction on a hot connection with `statement`.
    pub(super) fn begin_hot(
        &self,
        statement: &'static str,
    ) -> BoxFuture<'static, Result<Transaction<'static, Postgres>, Error>> {
        begin(self.hot(), statement)
    }

    /// Acquires a connection; dropping it returns it to the pool.
    pub(super) fn acquire(&self) -> BoxFuture<'static, Result<PoolConnection<Postgres>, Error>> {
        Box::pin(self.current().acquire())
    }

    /// Acquires a hot connection; dropping it returns it to the pool.
    pub(super) fn acquire_hot(&self) -> BoxFuture<'static, Result<PoolConnection<Postgres>, Error>> {
        Box::pin(self.hot().acquire())
    }

    /// Opens a connection outside of the pool. Has no time limit.
    pub(super) async fn connect(&self) -> Result<PgConnection, Error> {
        self.0.ways.ordinary().connect().await
    }

    /// Opens a connection with a session outside of the pool. Has no time limit.
    pub(super) async fn connect_directly(&self) -> Result<PgConnection, Error> {
        self.0.ways.direct.connect().await
    }

    /// Changes the maximum number of connections.
    pub(super) fn resize(&self, all: u32) {
        if self.0.ways.size.swap(all, Ordering::Relaxed) != all {
            self.renew();
        }
    }

    /// Creates a pool of one, for a connection that is kept while the service runs.
    pub(super) fn single(&self) -> PgPool {
        self.0.ways.options.clone().max_connections(1).max_lifetime(None).connect_lazy_with(self.0.ways.direct.clone())
    }

    /// Replaces the pool, so that calls get fresh connections. Calls on the old ones continue.
    pub(super) fn renew(&self) {
        self.renew_if(|_| true);
    }

    /// Replaces the pool, unless that was just done.
    pub(super) fn renew_unless_fresh(&self) {
        self.renew_if(|since| since.elapsed() >= SETTLES);
    }

    /// Replaces the pool, unless its connections are newer than a call that began at `begun`.
    pub(super) fn renew_those_of(&self, begun: Instant) {
        self.renew_if(|since| since <= begun);
    }

    fn renew_if(&self, is_due: impl FnOnce(Instant) -> bool) {
        let old = {
            let mut current = self.0.current.write();
            if !is_due(current.since) || current.pool.is_closed() {
                return;
            }
            std::mem::replace(&mut *current, Current::new(&self.0.ways))
        };
        let abandoned = old.pool.size() + old.hot.size();
        tracing::info!(event = "connections_renewed", abandoned, "opening fresh connections to the database");
        tokio::spawn(async move { tokio::time::timeout(LAST_CALLS, old.close()).await });
    }

    /// Closes every connection once it is idle.
    pub(super) async fn close(&self) {
        let (pool, hot) = (self.current(), self.hot());
        tokio::join!(pool.close(), hot.close());
    }
}

/// Begins a transaction. Boxed, because sqlx's future for opening a connection has 30 KB, as would each that awaits it.
fn begin(pool: PgPool, statement: &'static str) -> BoxFuture<'static, Result<Transaction<'static, Postgres>, Error>> {
    Box::pin(async move { pool.begin_with(statement).await })
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
    async fn failure_of_an_older_call_does_not_renew_fresh_connections() {
        let pool = Pool::new(PgConnectOptions::new(), None, PgPoolOptions::new());
        let since = || pool.0.current.read().since;
        let (begun, made) = (Instant::now(), since());
        pool.renew_those_of(begun);
        let renewed = since();
        assert!(renewed > made);
        pool.renew_those_of(begun);
        assert_eq!(since(), renewed);
    }
}
