//! Connections that can all be exchanged for fresh ones, while the service runs.
//!
//! sqlx waits for ever for a connection whose peer has gone silent: after a call was given up it asks the connection
//! whether it still works, and until the kernel gives up too (a quarter of an hour) its place is taken. So a pool that
//! may hold such connections is left behind, with whatever still runs in it, and a new one takes its place.

pub(super) mod circuit_breaker;
pub mod cluster;
pub mod durability;
pub(super) mod error;
pub(super) mod outage;
pub mod pg_notify;
pub(super) mod scan;
pub mod server;
pub mod session;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{
    ConnectOptions as _, Describe, Either, Error, Execute, Executor, PgConnection, Postgres, SqlStr, Transaction,
};

use session::HOT as HOT_SETTINGS;

/// A server that stays read-only must not see us reconnect for every call.
const SETTLES: Duration = Duration::from_secs(1);
/// How long what still runs in a pool that was left behind may take: longer than any call.
const LAST_CALLS: Duration = Duration::from_mins(3);

/// The pool of the moment; statements run on it as they do on sqlx's own.
#[derive(Debug, Clone)]
pub(super) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ways: Ways,
    current: RwLock<Current>,
}

/// How connections are made.
#[derive(Debug)]
struct Ways {
    /// Each has a session of its own.
    direct: PgConnectOptions,
    /// These may lead through a connection pooler in transaction mode.
    pooled: Option<PgConnectOptions>,
    options: PgPoolOptions,
    /// How many there may be at present.
    size: AtomicU32,
}

impl Ways {
    /// Those that need no session of their own.
    fn ordinary(&self) -> &PgConnectOptions {
        self.pooled.as_ref().unwrap_or(&self.direct)
    }

    /// Those whose plans are kept.
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

/// Connections for the hot path, of all that there may be: the two writers of the group commit and what is tried beside them, or a claim
/// with its look-ups. Lanes that are looked up and small attachments come in between: they hold one for a statement.
const HOT: u32 = 4;

impl Current {
    /// Opens nothing yet.
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

/// Begins every transaction but those of the group commit. What it commits may be acknowledged to somebody, so it says itself that
/// a commit waits for the disk: a connection pooler may have dropped the session's setting.
const BEGIN: &str = "BEGIN; SET LOCAL synchronous_commit = on";

impl Pool {
    /// Opens nothing yet. `pooled` may lead through a connection pooler in transaction mode.
    pub(super) fn new(direct: PgConnectOptions, pooled: Option<PgConnectOptions>, options: PgPoolOptions) -> Self {
        let size = AtomicU32::new(options.get_max_connections());
        let ways = Ways { direct, pooled, options, size };
        let current = RwLock::new(Current::new(&ways));
        Self(Arc::new(Inner { ways, current }))
    }

    /// How connections are made that have a session of their own.
    pub(super) fn direct(&self) -> &PgConnectOptions {
        &self.0.ways.direct
    }

    /// How the others are made, where that is another way.
    pub(super) fn pooled(&self) -> Option<&PgConnectOptions> {
        self.0.ways.pooled.as_ref()
    }

    /// How hot connections are made.
    pub(super) fn hot_options(&self) -> PgConnectOptions {
        self.0.ways.hot()
    }

    fn current(&self) -> PgPool {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).pool.clone()
    }

    /// Connections for the hot path: with each mail the same few statements. Their plans are kept, since planning took a
    /// third of their time. A kept plan knows nothing of how much there is, and each week's partitions begin without
    /// statistics: so every row is to be found by its key (Postgres would rather read the whole week than look up a hundred of
    /// them, 25 ms a batch after three minutes' mail).
    ///
    /// A join of a list with a table is to say `key = ANY (ARRAY[list.key])` of the first column of the table's key. With `=` the
    /// index could be read from end to end in that column's order, which looks cheap while the table is empty, and the plan is
    /// kept.
    pub(super) fn hot(&self) -> PgPool {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).hot.clone()
    }

    /// Begins a transaction.
    pub(super) fn begin(&self) -> BoxFuture<'static, Result<Transaction<'static, Postgres>, Error>> {
        begin(self.current(), BEGIN)
    }

    /// Begins a transaction on a hot connection with this statement.
    pub(super) fn begin_hot(
        &self,
        statement: &'static str,
    ) -> BoxFuture<'static, Result<Transaction<'static, Postgres>, Error>> {
        begin(self.hot(), statement)
    }

    /// A connection, to be given back by dropping it.
    pub(super) fn acquire(&self) -> BoxFuture<'static, Result<PoolConnection<Postgres>, Error>> {
        Box::pin(self.current().acquire())
    }

    /// A hot connection, to be given back by dropping it.
    pub(super) fn acquire_hot(&self) -> BoxFuture<'static, Result<PoolConnection<Postgres>, Error>> {
        Box::pin(self.hot().acquire())
    }

    /// A connection outside of the pool. Has no time limit of its own.
    pub(super) async fn connect(&self) -> Result<PgConnection, Error> {
        self.0.ways.ordinary().connect().await
    }

    /// The same with a session of its own.
    pub(super) async fn connect_directly(&self) -> Result<PgConnection, Error> {
        self.0.ways.direct.connect().await
    }

    /// From now on at most so many connections.
    pub(super) fn resize(&self, all: u32) {
        if self.0.ways.size.swap(all, Ordering::Relaxed) != all {
            self.renew();
        }
    }

    /// A pool of one, for a connection that is kept for as long as the service runs.
    pub(super) fn single(&self) -> PgPool {
        self.0.ways.options.clone().max_connections(1).max_lifetime(None).connect_lazy_with(self.0.ways.direct.clone())
    }

    /// From now on calls get fresh connections. What runs on the old ones is not disturbed.
    pub(super) fn renew(&self) {
        self.renew_if(|_| true);
    }

    /// The same, unless that was just done.
    pub(super) fn renew_unless_fresh(&self) {
        self.renew_if(|since| since.elapsed() >= SETTLES);
    }

    /// The same, unless the connections are fresher than a call that began then: it says nothing of them.
    pub(super) fn renew_those_of(&self, begun: Instant) {
        self.renew_if(|since| since <= begun);
    }

    fn renew_if(&self, is_due: impl FnOnce(Instant) -> bool) {
        let old = {
            let mut current = self.0.current.write().unwrap_or_else(PoisonError::into_inner);
            if !is_due(current.since) || current.pool.is_closed() {
                return;
            }
            std::mem::replace(&mut *current, Current::new(&self.0.ways))
        };
        let left_behind = old.pool.size() + old.hot.size();
        tracing::info!(event = "connections_renewed", left_behind, "opening fresh connections to the database");
        tokio::spawn(async move { tokio::time::timeout(LAST_CALLS, old.close()).await });
    }

    /// Closes every connection once it is idle.
    pub(super) async fn close(&self) {
        let (pool, hot) = (self.current(), self.hot());
        tokio::join!(pool.close(), hot.close());
    }
}

/// Boxed, as is a connection: sqlx's future of one, which may have to be opened, has 30 KB, and so would each that awaits it.
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
    async fn a_call_from_before_says_nothing_of_fresh_connections() {
        let pool = Pool::new(PgConnectOptions::new(), None, PgPoolOptions::new());
        let since = || pool.0.current.read().unwrap().since;
        let (begun, made) = (Instant::now(), since());
        pool.renew_those_of(begun);
        let renewed = since();
        assert!(renewed > made);
        pool.renew_those_of(begun);
        assert_eq!(since(), renewed);
    }
}
