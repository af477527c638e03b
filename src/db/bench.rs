//! What `postrider bench` asks a database, and the transaction that it holds open there. Nothing here runs in production.

use sqlx::PgConnection;

use super::{Db, DbError};
use crate::domain::id::{MessageId, TenantId};

/// The server, and how much it has written.
#[derive(Debug, Clone)]
pub struct Server {
    /// The number of the process that answered: a child of the server.
    pub backend_pid: i32,
    /// Whether it runs on this machine, as far as the connection tells.
    pub is_local: bool,
    /// Its version.
    pub version: String,
    /// Settings that the figures depend on, `name = value`.
    pub settings: Vec<String>,
    /// Octets of WAL written since it was made.
    pub wal: i64,
    /// Octets of this database on disk.
    pub size: i64,
}

/// Asks it about itself.
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

/// What a database holds before a run.
#[derive(Debug, Clone)]
pub struct Holding {
    /// Whether there are messages.
    pub messages: bool,
    /// Rows of the queue in the bench's own stream.
    pub backlog: i64,
    /// Whether other mail waits.
    pub others: bool,
}

/// Looks what is there. Reads the whole queue.
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

/// Whether each recipient of the messages from this one on has come to its end.
pub async fn is_settled(db: &Db, since: MessageId) -> Result<bool, DbError> {
    let query =
        sqlx::query_scalar!(r#"SELECT NOT EXISTS (SELECT 1 FROM queue WHERE message_id >= $1) AS "settled!""#, since.0);
    db.timed("bench.is_settled", query.fetch_one(&db.pool)).await
}

/// Has everything written that waits for it, so that a run does not pay for what came before. Answers whether we may.
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

/// Opens a transaction that has seen the database and written nothing, and keeps it: no version of a row that was there
/// can be cleared away meanwhile, as beside a backup.
pub async fn hold(db: &Db) -> Result<Held, DbError> {
    db.timed("bench.hold", async {
        let mut connection = db.pool.connect().await?;
        // Ours are ended when they idle.
        sqlx::query!("SELECT set_config('idle_in_transaction_session_timeout', '0', false)")
            .fetch_one(&mut connection)
            .await?;
        sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ").execute(&mut connection).await?;
        // With a number of its own: it holds what a snapshot alone would, also against commands that look for numbers.
        sqlx::query!(r#"SELECT count(*) AS "count!", pg_current_xact_id()::text AS "id!" FROM event_counters"#)
            .fetch_one(&mut connection)
            .await?;
        Ok(Held { _connection: connection })
    })
    .await
}
