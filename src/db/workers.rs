//! The table `workers`: live workers, and the rescue of dead workers' leases.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::pool::scan::{SCAN_LIMIT, allow_scan};
use super::queue::ready_at::{DueRow, lower};
use super::queue::{self, Claimed, Finished};
use super::{Db, DbError};
use crate::domain::delivery::{Status, Transition};
use crate::domain::installation::fingerprint::Fingerprints;
use crate::domain::outcome::{Outcome, Peer, Reply, Stage, Verdict};

/// Registration of a worker.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Worker id, used as the lease.
    pub id: Uuid,
    /// Host name, for the operator.
    pub host: String,
    /// Process id.
    pub pid: i32,
    /// Lease time: how long the worker may be without a heartbeat before its leases are released.
    pub lease: Duration,
    /// Fingerprints of the settings that must be the same in all replicas.
    pub settings: Fingerprints,
}

/// Registers a worker. Heartbeats use the database's clock, so the replicas' clocks may differ.
pub async fn register(db: &Db, worker: &Registration) -> Result<(), DbError> {
    let query = sqlx::query!(
        "INSERT INTO workers (id, host, pid, started_at, heartbeat_at, lease_seconds, version, settings,
                              reads_sealed_secrets)
         VALUES ($1, $2, $3, clock_timestamp(), clock_timestamp(), $4, $5, $6, true)",
        worker.id,
        worker.host,
        worker.pid,
        worker.lease.as_secs_f64(),
        env!("CARGO_PKG_VERSION"),
        json!(worker.settings)
    );
    db.timed("workers.register", query.execute(&db.pool)).await.map(|_| ())
}

/// A worker with a heartbeat within its lease time.
#[derive(Debug, Clone)]
pub struct LiveWorker {
    /// Worker id, used as the lease.
    pub id: Uuid,
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: i32,
    /// Version; `None` for versions that did not record it.
    pub version: Option<String>,
    /// Fingerprints of its settings; empty for versions that had none.
    pub settings: Fingerprints,
}

/// Returns the live workers. `lease` is the lease time of workers of versions that do not record theirs.
pub async fn live(db: &Db, lease: Duration) -> Result<Vec<LiveWorker>, DbError> {
    let query = sqlx::query!(
        "SELECT id, host, pid, version, settings FROM workers
         WHERE heartbeat_at >= clock_timestamp() - make_interval(secs => coalesce(lease_seconds, $1)) ORDER BY id",
        lease.as_secs_f64()
    );
    let rows = db.timed("workers.live", query.fetch_all(&db.pool)).await?;
    let live = rows.into_iter().map(|row| LiveWorker {
        id: row.id,
        host: row.host,
        pid: row.pid,
        version: row.version,
        settings: serde_json::from_value(row.settings).unwrap_or_default(),
    });
    Ok(live.collect())
}

/// A registered worker, alive or dead.
#[derive(Debug, Clone)]
pub struct WorkerRow {
    /// Worker id, used as the lease.
    pub id: Uuid,
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: i32,
    /// Version; `None` for versions that did not record it.
    pub version: Option<String>,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// Its last heartbeat.
    pub heartbeat_at: DateTime<Utc>,
    /// When its lease ends without another heartbeat; `None` for versions that did not record their lease time.
    pub lease_until: Option<DateTime<Utc>>,
    /// Whether its lease has not ended.
    pub is_alive: bool,
    /// Fingerprints of its settings; empty for versions that had none.
    pub settings: serde_json::Value,
}

/// Returns at most `limit` workers after this one, by id, so in the order of their starts.
pub async fn page(db: &Db, after: Option<Uuid>, limit: i64) -> Result<Vec<WorkerRow>, DbError> {
    let query = sqlx::query_as!(
        WorkerRow,
        r#"SELECT id, host, pid, version, started_at, heartbeat_at, settings,
                  heartbeat_at + make_interval(secs => lease_seconds) AS lease_until,
                  coalesce(heartbeat_at + make_interval(secs => lease_seconds) >= clock_timestamp(), true) AS "is_alive!"
           FROM workers WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2"#,
        after,
        limit
    );
    db.timed("workers.page", query.fetch_all(&db.pool)).await
}

/// Maximum length of the queue in which leases are counted, because there is no index on them.
pub const MAX_COUNTED_QUEUE: i64 = 10_000;

/// Returns the number of recipients leased to each worker; `None` if the queue is too long to count them.
pub async fn leased(db: &Db) -> Result<Option<HashMap<Uuid, i64>>, DbError> {
    let query = sqlx::query!(
        r#"SELECT lease, count(*) AS "recipients!" FROM (SELECT lease FROM queue LIMIT $1::bigint + 1) q GROUP BY lease"#,
        MAX_COUNTED_QUEUE
    );
    let rows = db.timed("workers.leased", query.fetch_all(&db.pool)).await?;
    let queued: i64 = rows.iter().map(|row| row.recipients).sum();
    let leased = rows.into_iter().filter_map(|row| Some((row.lease?, row.recipients))).collect();
    Ok((queued <= MAX_COUNTED_QUEUE).then_some(leased))
}

/// Records a heartbeat, over a connection that no long table scan can occupy. Returns `false` if the worker was
/// declared dead and has lost its leases.
pub async fn heartbeat(db: &Db, id: Uuid) -> Result<bool, DbError> {
    let query = sqlx::query!("UPDATE workers SET heartbeat_at = clock_timestamp() WHERE id = $1", id);
    db.timed("workers.heartbeat", query.execute(&db.pool.hot())).await.map(|done| done.rows_affected() == 1)
}

/// The result of rescuing leases.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct RescuedLeases {
    /// Workers declared dead.
    pub workers: usize,
    /// Recipients released to be claimed again.
    pub released: usize,
    /// Recipients held because workers crashed repeatedly with them in flight.
    pub held: usize,
    /// Recipients that became uncertain: their message body was being sent, and `on_uncertain` is `hold` or `fail`.
    pub uncertain: usize,
}

/// Number of worker crashes after which a recipient is held for an operator.
pub const CRASHES_TO_HOLD: i16 = 3;

/// Declares workers dead whose lease time has passed without a heartbeat, and releases their recipients, due at `now`.
/// `lease` is the lease time of workers of versions that do not record theirs.
///
/// The first crash counts against every recipient that the worker had leased; later crashes only against those whose
/// attempt it had started (`queue.begun`).
pub async fn rescue_leases(db: &Db, lease: Duration, now: DateTime<Utc>) -> Result<RescuedLeases, DbError> {
    db.timed_for(SCAN_LIMIT, "workers.rescue_leases", async {
        let mut tx = db.pool.begin().await?;
        allow_scan(&mut tx).await?;
        let dead = sqlx::query_scalar!(
            "DELETE FROM workers WHERE id IN
                 (SELECT id FROM workers WHERE heartbeat_at < clock_timestamp() - make_interval(secs => coalesce(lease_seconds, $1))
                  ORDER BY id FOR UPDATE SKIP LOCKED)
             RETURNING id",
            lease.as_secs_f64()
        )
        .fetch_all(&mut *tx)
        .await?;
        if dead.is_empty() {
            return Ok(RescuedLeases::default());
        }
        let rescued = release_all(&mut tx, &dead, now).await?;
        tx.commit().await?;
        Ok(rescued)
    })
    .await
}

/// Releases leases of workers that are not registered, for example after rows were edited or restored;
/// [`rescue_leases`] never finds them. A claim locks its worker's row until it commits, so no running claim is
/// affected. Scans the whole queue.
pub async fn release_orphans(db: &Db, now: DateTime<Utc>) -> Result<RescuedLeases, DbError> {
    db.timed_for(SCAN_LIMIT, "workers.release_orphans", async {
        let mut tx = db.pool.begin().await?;
        allow_scan(&mut tx).await?;
        let unregistered = sqlx::query_scalar!(
            r#"SELECT DISTINCT lease AS "lease!" FROM queue
               WHERE lease IS NOT NULL AND NOT EXISTS (SELECT FROM workers WHERE workers.id = queue.lease)"#
        )
        .fetch_all(&mut *tx)
        .await?;
        if unregistered.is_empty() {
            return Ok(RescuedLeases::default());
        }
        let rescued = release_all(&mut tx, &unregistered, now).await?;
        tx.commit().await?;
        Ok(rescued)
    })
    .await
}

/// Releases the recipients leased to these dead workers.
async fn release_all(tx: &mut PgConnection, dead: &[Uuid], now: DateTime<Utc>) -> Result<RescuedLeases, sqlx::Error> {
    let uncertain = interrupted(&mut *tx, dead, now).await?;
    // There is no index on `lease`, because it would make every claim more expensive. This scan runs only after a
    // worker died.
    let released = sqlx::query!(
            r#"UPDATE queue SET lease = NULL, begun = false, crashes = blamed.crashes,
                   held = CASE WHEN blamed.crashes >= $3::smallint
                          THEN 'held: ' || blamed.crashes || ' workers crashed while they were sending this message, which may be '
                               || 'the cause. Read the end of their logs, then retry or cancel the message' END,
                   due_at = CASE WHEN blamed.crashes >= $3::smallint THEN timestamptz 'infinity' ELSE $2::timestamptz END
               FROM (SELECT message_id, recipient_id, crashes + (crashes = 0 OR begun)::integer AS crashes
                     FROM queue WHERE lease = ANY ($1) AND NOT data_started
                     ORDER BY message_id, recipient_id FOR UPDATE) AS blamed
               WHERE queue.message_id = blamed.message_id AND queue.recipient_id = blamed.recipient_id
               RETURNING lane_id, held IS NOT NULL AS "held!""#,
            dead,
            now,
            CRASHES_TO_HOLD
        )
        .fetch_all(&mut *tx)
        .await?;
    let due_rows = released.iter().filter(|row| !row.held).map(|row| DueRow { lane: row.lane_id, due_at: now });
    lower(&mut *tx, due_rows).await?;
    queue::conclude(&mut *tx, &uncertain, now).await?;
    let held = released.iter().filter(|row| row.held).count();
    Ok(RescuedLeases { workers: dead.len(), released: released.len() - held, held, uncertain: uncertain.len() })
}

/// Deregisters a worker and releases the recipients that it still has leased, without counting a crash.
pub async fn deregister(db: &Db, id: Uuid, now: DateTime<Utc>) -> Result<(), DbError> {
    db.timed_for(SCAN_LIMIT, "workers.deregister", async {
        let mut tx = db.pool.begin().await?;
        allow_scan(&mut tx).await?;
        // Deletes the worker first, so that it cannot claim any more.
        sqlx::query!("DELETE FROM workers WHERE id = $1", id).execute(&mut *tx).await?;
        let uncertain = interrupted(&mut tx, &[id], now).await?;
        let released = sqlx::query_as!(
            DueRow,
            "WITH locked AS MATERIALIZED (
                 SELECT message_id, recipient_id FROM queue WHERE lease = $1 AND NOT data_started
                 ORDER BY message_id, recipient_id FOR UPDATE)
             UPDATE queue q SET lease = NULL, begun = false FROM locked l
             WHERE q.message_id = l.message_id AND q.recipient_id = l.recipient_id
             RETURNING q.lane_id AS lane, q.due_at",
            id
        )
        .fetch_all(&mut *tx)
        .await?;
        lower(&mut tx, released).await?;
        queue::conclude(&mut tx, &uncertain, now).await?;
        tx.commit().await
    })
    .await
}

/// Returns the attempts of these workers that were interrupted after sending of the message body had started
/// ([`super::queue::attempt_markers`]), with an uncertain outcome. The marker is set only if `on_uncertain` is `hold`
/// or `fail`.
async fn interrupted(
    connection: &mut PgConnection,
    workers: &[Uuid],
    now: DateTime<Utc>,
) -> Result<Vec<Finished>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Claimed,
        r#"SELECT message_id, recipient_id, tenant_id, lane_id, attempts, crashes, first_due_at, lease AS "lease!", claims
           FROM queue WHERE lease = ANY ($1) AND data_started ORDER BY message_id, recipient_id FOR UPDATE"#,
        workers
    )
    .fetch_all(connection)
    .await?;
    let outcome = Outcome {
        verdict: Verdict::Uncertain,
        reply: Reply::local_error_with(
            4,
            4,
            2,
            "the sending process ended between the message body and the server's reply; the server may have the message",
        ),
        peer: Peer::default(),
        duration: Duration::ZERO,
        stage: Stage::FinalDot,
    };
    let ended = rows.into_iter().map(|claimed| Finished {
        claimed,
        outcome: Some(outcome.clone()),
        transition: Transition::End(Status::Uncertain),
        started_at: now,
        is_alone: false,
        may_be_relayed: true,
        conversation: None,
    });
    Ok(ended.collect())
}
