//! The queries of `postrider bench`, and the transaction that it holds open. Nothing here runs in production.

use sqlx::PgConnection;

use super::{Db, DbError};
use crate::domain::id::{MessageId, TenantId};

/// The database server, and how much it has written.
#[derive(Debug, Clone)]
pub struct Server {
    /// The process id of the connection's backend, a child of the server.
    pub backend_pid: i32,
    /// Whether the server runs on this machine, as far as the connection shows.
    pub is_local: bool,
    /// Server version.
    pub version: String,
    /// Settings that the results depend on, `name = value`.
    pub settings: Vec<String>,
    /// Bytes of WAL written since the cluster was created.
    pub wal: i64,
    /// Bytes of this database on disk.
    pub size: i64,
}

/// Reads the server's version, settings and sizes.
pub async fn server(db: &Db) -> Result<Server, DbError> {
    let query = sqlx::query_as!(
        Server,
        r#"SELECT pg_backend_pid() AS "backend_pid!", version() AS "version!",
               coalesce(inet_server_addr() <<= '127.0.0.0/8' OR inet_server_addr() = '::1', true) AS "is_local!",
               ARRAY(SELECT name || ' = ' || current_setting(name) FROM pg_settings
                     WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'shared_buffers', 'max_wal_size')
                     ORDER BY name) AS "settings!",
               pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS "wal!",
               pg_database_size(current_database()) AS "size!""#
    );
    db.timed("bench.server", query.fetch_one(&db.pool)).await
}

/// The contents of a database before a run.
#[derive(Debug, Clone)]
pub struct Holding {
    /// Whether there are messages.
    pub messages: bool,
    /// Queue rows in the benchmark's stream.
    pub backlog: i64,
    /// Whether other messages are queued.
    pub others: bool,
}

/// Reports the contents of the database. Reads the whole queue.
pub async fn holding(db: &Db, tenant: TenantId, backlog_stream: &str) -> Result<Holding, DbError> {
    let query = sqlx::query_as!(
        Holding,
        r#"SELECT EXISTS (SELECT 1 FROM messages) AS "messages!", count(*) FILTER (WHERE l.id IS NOT NULL) AS "backlog!",
               count(*) FILTER (WHERE l.id IS NULL) > 0 AS "others!"
           FROM queue q LEFT JOIN lanes l
               ON l.id = q.lane_id AND l.tenant_id = q.tenant_id AND l.stream = $2 AND l.tenant_id = $1"#,
        tenant.0,
        backlog_stream
    );
    db.timed("bench.holding", query.fetch_one(&db.pool)).await
}

/// Returns whether every recipient of this message and of later ones is in an end state.
pub async fn is_settled(db: &Db, since: MessageId) -> Result<bool, DbError> {
    let query =
        sqlx::query_scalar!(r#"SELECT NOT EXISTS (SELECT 1 FROM queue WHERE message_id >= $1) AS "settled!""#, since.0);
    db.timed("bench.is_settled", query.fetch_one(&db.pool)).await
}

/// Runs a checkpoint, so that a run does not pay for earlier writes. Returns whether the role is allowed to.
pub async fn checkpoint(db: &Db) -> Result<bool, DbError> {
    match db.timed("bench.checkpoint", sqlx::query("CHECKPOINT").execute(&db.pool)).await {
        Ok(_) => Ok(true),
        Err(DbError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A transaction that stays open until this is dropped.
#[derive(Debug)]
pub struct Held {
    _connection: PgConnection,
}

/// Opens a transaction with a snapshot and no writes, and keeps it open: as during a backup, vacuum cannot remove any
/// row version that the snapshot sees.
pub async fn hold(db: &Db) -> Result<Held, DbError> {
    db.timed("bench.hold", async {
        let mut connection = db.pool.connect().await?;
        // Our sessions are otherwise terminated when they idle in a transaction.
        sqlx::query!("SELECT set_config('idle_in_transaction_session_timeout', '0', false)")
            .fetch_one(&mut connection)
            .await?;
        sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ").execute(&mut connection).await?;
        // With a transaction id, it also holds back commands that check transaction ids rather than snapshots.
        sqlx::query!(r#"SELECT count(*) AS "count!", pg_current_xact_id()::text AS "id!" FROM event_counters"#)
            .fetch_one(&mut connection)
            .await?;
        Ok(Held { _connection: connection })
    })
    .await
}
