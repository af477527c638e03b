//! The queries of `postrider bench`, and the transaction that it keeps open. Only the benchmark uses them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::id::{KeyId, MessageId, TenantId};

/// The database server's configuration and sizes.
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

/// What a database contains before a benchmark run.
#[derive(Debug, Clone)]
pub struct DatabaseContents {
    /// Whether the database contains messages.
    pub messages: bool,
    /// Queue rows in the benchmark's stream.
    pub backlog: i64,
    /// Whether other messages are queued.
    pub others: bool,
}

/// Returns what the database contains. Reads the whole queue.
pub async fn contents(db: &Db, tenant: TenantId, backlog_stream: &str) -> Result<DatabaseContents, DbError> {
    let query = sqlx::query_as!(
        DatabaseContents,
        r#"SELECT EXISTS (SELECT 1 FROM messages) AS "messages!", count(*) FILTER (WHERE l.id IS NOT NULL) AS "backlog!",
               count(*) FILTER (WHERE l.id IS NULL) > 0 AS "others!"
           FROM queue q LEFT JOIN lanes l
               ON l.id = q.lane_id AND l.tenant_id = q.tenant_id AND l.stream = $2 AND l.tenant_id = $1"#,
        tenant.0,
        backlog_stream
    );
    db.timed("bench.contents", query.fetch_one(&db.pool)).await
}

/// Returns whether all recipients of the messages with ids from `since` on are in an end state.
pub async fn is_settled(db: &Db, since: MessageId) -> Result<bool, DbError> {
    let query =
        sqlx::query_scalar!(r#"SELECT NOT EXISTS (SELECT 1 FROM queue WHERE message_id >= $1) AS "settled!""#, since.0);
    db.timed("bench.is_settled", query.fetch_one(&db.pool)).await
}

/// Returns whether all recipients of the bulks with ids from `since` on have become messages.
pub async fn bulks_are_expanded(db: &Db, since: MessageId) -> Result<bool, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT NOT EXISTS (SELECT 1 FROM bulk_recipients WHERE bulk_id >= $1) AS "expanded!""#,
        since.0
    );
    db.timed("bench.bulks_are_expanded", query.fetch_one(&db.pool)).await
}

/// An API key to create, with the scope `send`.
#[derive(Debug, Clone)]
pub struct KeyRow {
    /// `keys.id`.
    pub id: KeyId,
    /// The tenant.
    pub tenant: TenantId,
    /// The hash of its secret.
    pub hash: [u8; 32],
}

/// Creates tenants, as [`super::tenants::create`] does, and API keys.
pub async fn insert_keys(db: &Db, tenants: &[TenantId], keys: &[KeyRow], now: DateTime<Utc>) -> Result<(), DbError> {
    let tenants: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
    let ids: Vec<Uuid> = keys.iter().map(|key| key.id.0).collect();
    let owners: Vec<Uuid> = keys.iter().map(|key| key.tenant.0).collect();
    let hashes: Vec<&[u8]> = keys.iter().map(|key| &key.hash[..]).collect();
    db.timed("bench.insert_keys", async {
        let mut tx = db.pool.begin().await?;
        sqlx::query!(
            "INSERT INTO tenants (id, name, created_at) SELECT id, 'bench ' || id, $2 FROM unnest($1::uuid[]) AS u (id)",
            &tenants,
            now
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!("INSERT INTO event_counters (tenant_id) SELECT unnest($1::uuid[])", &tenants)
            .execute(&mut *tx)
            .await?;
        sqlx::query!(
            "INSERT INTO streams (tenant_id, name, priority, created_at)
             SELECT id, name, priority, $2 FROM unnest($1::uuid[]) AS u (id),
                 (VALUES ('transactional', 10::smallint), ('bulk', 50::smallint)) AS v (name, priority)",
            &tenants,
            now
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "INSERT INTO keys (id, tenant_id, name, hash, scopes, created_at)
             SELECT id, tenant_id, 'bench', hash, ARRAY['send'], $4
             FROM unnest($1::uuid[], $2::uuid[], $3::bytea[]) AS u (id, tenant_id, hash)",
            &ids,
            &owners,
            &hashes as _,
            now
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    })
    .await
}

/// Runs a checkpoint, so that the cost of earlier writes is not part of the measurement. Returns `false` if the role is
/// not allowed to run one.
pub async fn checkpoint(db: &Db) -> Result<bool, DbError> {
    match db.timed("bench.checkpoint", sqlx::query("CHECKPOINT").execute(&db.pool)).await {
        Ok(_) => Ok(true),
        Err(DbError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A transaction that stays open until this value is dropped.
#[derive(Debug)]
pub struct OpenTransaction {
    _connection: PgConnection,
}

/// Opens a read-only transaction with a snapshot and keeps it open: as during a backup, vacuum cannot remove row
/// versions that the snapshot sees.
pub async fn open_transaction(db: &Db) -> Result<OpenTransaction, DbError> {
    db.timed("bench.open_transaction", async {
        let mut connection = db.pool.connect().await?;
        // Otherwise the server would terminate the session while it is idle in the transaction.
        sqlx::query!("SELECT set_config('idle_in_transaction_session_timeout', '0', false)")
            .fetch_one(&mut connection)
            .await?;
        sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ").execute(&mut connection).await?;
        // The transaction also gets a transaction id, as one that writes has: some operations wait for running
        // transaction ids, not for snapshots.
        sqlx::query!(r#"SELECT count(*) AS "count!", pg_current_xact_id()::text AS "id!" FROM event_counters"#)
            .fetch_one(&mut connection)
            .await?;
        Ok(OpenTransaction { _connection: connection })
    })
    .await
}
