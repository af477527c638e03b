//! The tables `erasures` and `erasure_keys`: erasing everything about one address. A process leases an erasure for a short time, runs
//! some steps, and releases it. Then any process can continue; if the first one dies, they continue when its lease has ended.
//!
//! Each step is one transaction: it locks the erasure, erases some rows, and moves the position. A process whose lease has ended
//! erases nothing. A step that is repeated finds nothing left to erase.

mod messages;
mod preview;
mod received;
mod records;
mod sql_inbox;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::pool::scan::avoid_scans;
use super::{Db, DbError};
use crate::domain::address::Address;
use crate::domain::id::{ErasureId, KeyId, TenantId};
use crate::domain::records::erasure::{ErasedAddress, ErasedCounts, ErasurePhase};
use crate::domain::suppression::AddressKey;

pub use preview::{Preview, preview};

/// An erasure also covers messages that were accepted up to this long after it, because the clocks of replicas differ.
const CLOCK_DIFFERENCE: TimeDelta = TimeDelta::milliseconds(100);
/// Number of consecutive failures after which an erasure ends as `failed`. Temporary failures do not count.
const MAX_FAILURES: i16 = 10;

/// An erasure.
#[derive(Debug, Clone)]
pub struct ErasureRow {
    /// `erasures.id`.
    pub id: Uuid,
    /// The tenant.
    pub tenant_id: Uuid,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// The API key of the request.
    pub key_id: Uuid,
    /// The address; `None` once the erasure has ended.
    pub address: Option<String>,
    /// What replaces the address.
    pub pseudonym: String,
    /// `running`, `done` or `failed`.
    pub status: String,
    /// Which rows are being examined ([`ErasurePhase`]).
    pub phase: String,
    /// The key of the last examined row in this phase.
    pub position: Option<String>,
    /// Whether all phases have been completed once, and the erasure has started again at the messages ([`repeat`]).
    pub is_repeated: bool,
    /// Number of messages and actions that cannot be erased yet.
    pub waiting: i64,
    /// How much was erased ([`ErasedCounts`]).
    pub counts: Value,
    /// The last error, if the last try failed.
    pub error: Option<String>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// An erasure to insert.
#[derive(Debug)]
pub struct NewErasure<'a> {
    /// Its id.
    pub id: ErasureId,
    /// The tenant.
    pub tenant: TenantId,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// The API key of the request.
    pub key: KeyId,
    /// The address.
    pub address: &'a Address,
}

/// Inserts an erasure, and the tenant's key for pseudonyms if it has none.
pub async fn insert(db: &Db, new: &NewErasure<'_>) -> Result<(), DbError> {
    let (address, key) = (new.address.to_string(), AddressKey::from(new.address));
    db.timed("erasures.insert", async {
        let mut tx = db.pool.begin().await?;
        sqlx::query!(
            "INSERT INTO erasure_keys (tenant_id, key)
             VALUES ($1, sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())))
             ON CONFLICT (tenant_id) DO NOTHING",
            new.tenant.0
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "INSERT INTO erasures (id, tenant_id, created_at, key_id, address, pseudonym)
             SELECT $1, $2, $3, $4, $5, erased_address(key, $6) FROM erasure_keys WHERE tenant_id = $2",
            new.id.0,
            new.tenant.0,
            new.created_at,
            new.key.0,
            address,
            key.as_str()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    })
    .await
}

/// Returns an erasure.
pub async fn get(db: &Db, tenant: TenantId, id: ErasureId) -> Result<Option<ErasureRow>, DbError> {
    let query = sqlx::query_as!(
        ErasureRow,
        "SELECT id, tenant_id, created_at, key_id, address, pseudonym, status, phase, position, is_repeated, waiting, counts,
                error, finished_at
         FROM erasures WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0
    );
    db.timed("erasures.get", query.fetch_optional(&db.pool)).await
}

/// Returns a page of erasures, newest first, starting after `after`.
pub async fn page(db: &Db, tenant: TenantId, after: Option<ErasureId>, limit: i64) -> Result<Vec<ErasureRow>, DbError> {
    let query = sqlx::query_as!(
        ErasureRow,
        "SELECT id, tenant_id, created_at, key_id, address, pseudonym, status, phase, position, is_repeated, waiting, counts,
                error, finished_at
         FROM erasures WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        tenant.0,
        after.map(|id| id.0),
        limit
    );
    db.timed("erasures.page", query.fetch_all(&db.pool)).await
}

/// Leases the running erasure that has been without a lease for longest, until `until`. Returns `None` if there is none. Skips the
/// erasures of tenants that are being deleted, because all data of these tenants is deleted anyway.
pub async fn lease(db: &Db, now: DateTime<Utc>, until: DateTime<Utc>) -> Result<Option<ErasureRow>, DbError> {
    let query = sqlx::query_as!(
        ErasureRow,
        "UPDATE erasures SET leased_until = $2
         WHERE (tenant_id, id) = (
             SELECT e.tenant_id, e.id FROM erasures e JOIN tenants t ON t.id = e.tenant_id
             WHERE e.status = 'running' AND e.leased_until <= $1 AND t.deleting_at IS NULL
             ORDER BY e.leased_until LIMIT 1 FOR UPDATE OF e SKIP LOCKED)
         RETURNING id, tenant_id, created_at, key_id, address, pseudonym, status, phase, position, is_repeated, waiting, counts,
                   error, finished_at",
        now,
        until
    );
    db.timed("erasures.lease", query.fetch_optional(&db.pool)).await
}

/// An erasure that this process has leased.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// The tenant.
    pub tenant: TenantId,
    /// The erasure.
    pub id: ErasureId,
    /// The end of the lease.
    pub until: DateTime<Utc>,
}

/// Releases an erasure. Any process can lease it again from `from` on.
pub async fn release(db: &Db, lease: Lease, from: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE erasures SET leased_until = $4, failures = 0, error = NULL
         WHERE tenant_id = $1 AND id = $2 AND leased_until = $3 AND status = 'running'",
        lease.tenant.0,
        lease.id.0,
        lease.until,
        from
    );
    db.timed("erasures.release", query.execute(&db.pool)).await.map(drop)
}

/// Releases an erasure after a failure, which does not count if it `is_temporary`. Returns whether the erasure has ended,
/// because it has failed too often.
pub async fn fail(
    db: &Db,
    lease: Lease,
    (error, is_temporary): (&str, bool),
    now: DateTime<Utc>,
    from: DateTime<Utc>,
) -> Result<bool, DbError> {
    let query = sqlx::query_scalar!(
        r#"UPDATE erasures e
           SET leased_until = $4, failures = f.count, error = $5,
               status = CASE WHEN f.count >= $6 THEN 'failed' ELSE status END,
               finished_at = CASE WHEN f.count >= $6 THEN $7::timestamptz END,
               address = CASE WHEN f.count < $6 THEN address END,
               position = CASE WHEN f.count < $6 THEN position END
           FROM (SELECT failures + $8::smallint AS count FROM erasures WHERE tenant_id = $1 AND id = $2) f
           WHERE e.tenant_id = $1 AND e.id = $2 AND e.leased_until = $3 AND e.status = 'running'
           RETURNING e.status = 'failed' AS "has_failed!""#,
        lease.tenant.0,
        lease.id.0,
        lease.until,
        from,
        error,
        MAX_FAILURES,
        now,
        i16::from(!is_temporary)
    );
    Ok(db.timed("erasures.fail", query.fetch_optional(&db.pool)).await?.unwrap_or(false))
}

/// Ends an erasure whose phases are all completed, and deletes its address.
pub async fn finish(db: &Db, lease: Lease, now: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE erasures SET status = 'done', finished_at = $4, address = NULL, position = NULL, failures = 0, error = NULL
         WHERE tenant_id = $1 AND id = $2 AND leased_until = $3 AND status = 'running'",
        lease.tenant.0,
        lease.id.0,
        lease.until,
        now
    );
    db.timed("erasures.finish", query.execute(&db.pool)).await.map(drop)
}

/// What a step works on.
#[derive(Debug)]
pub struct Job {
    /// The lease.
    pub lease: Lease,
    /// When the erasure was accepted.
    pub created_at: DateTime<Utc>,
    /// The address.
    pub address: ErasedAddress,
    /// What replaces it.
    pub pseudonym: String,
    /// Which rows are being examined.
    pub phase: ErasurePhase,
    /// The key of the last row that was examined in this phase.
    pub position: Option<String>,
    /// Whether all phases have been completed once, and the erasure has started again at the messages ([`repeat`]).
    pub is_repeated: bool,
    /// Number of messages and actions that cannot be erased yet.
    pub waiting: u64,
    /// How much was erased.
    pub counts: ErasedCounts,
}

/// What a step has examined.
#[derive(Debug, Default)]
struct Examined {
    /// The key of the last row; `None` at the end of the phase.
    position: Option<String>,
    /// How many of the examined messages and actions cannot be erased yet.
    waiting: u64,
}

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The phase continues.
    Continues,
    /// The phase has ended; the job is in the next one, if there is one.
    PhaseEnded,
    /// The erasure is not leased by this process any more.
    Lost,
}

/// Erases the next rows.
pub async fn step(db: &Db, job: &mut Job, now: DateTime<Utc>) -> Result<Step, DbError> {
    match job.phase {
        ErasurePhase::SqlInbox => return sql_inbox::step(db, job, now).await,
        ErasurePhase::Messages => return messages::step(db, job, now).await,
        _ => {}
    }
    db.timed("erasures.step", async {
        let mut tx = db.pool.begin().await?;
        if !lock(&mut tx, job.lease).await? {
            return Ok(Step::Lost);
        }
        let mut counts = job.counts;
        let examined = match job.phase {
            ErasurePhase::Suppressions => records::suppressions(&mut tx, job, &mut counts).await?,
            ErasurePhase::Bulks => records::bulks(&mut tx, job, &mut counts).await?,
            ErasurePhase::SqlInbox | ErasurePhase::Messages => Examined::default(),
            ErasurePhase::Received => received::step(&mut tx, job, &mut counts).await?,
            ErasurePhase::WebhookLog => records::webhook_log(&mut tx, job, &mut counts).await?,
            ErasurePhase::IdempotencyKeys => records::idempotency_keys(&mut tx, job, &mut counts).await?,
            ErasurePhase::AuditLog => records::audit_log(&mut tx, job, &mut counts).await?,
            ErasurePhase::Texts => records::texts(&mut tx, job, &mut counts).await?,
        };
        let moved = advance(&mut tx, job, &examined, counts).await?;
        tx.commit().await?;
        Ok(moved.apply(job))
    })
    .await
}

/// Releases an erasure until `from`, and sets it back to the phase of the messages. Messages that could not be erased yet are then
/// examined again, and so is what the later phases cover, because more may have been stored meanwhile.
pub async fn repeat(db: &Db, lease: Lease, from: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE erasures SET phase = 'messages', position = NULL, is_repeated = true, leased_until = $4, failures = 0, error = NULL
         WHERE tenant_id = $1 AND id = $2 AND leased_until = $3 AND status = 'running'",
        lease.tenant.0,
        lease.id.0,
        lease.until,
        from
    );
    db.timed("erasures.repeat", query.execute(&db.pool)).await.map(drop)
}

/// Locks the erasure; returns `false` if it is not leased by this process any more. From here on, the transaction
/// [avoids scans](avoid_scans).
async fn lock(connection: &mut PgConnection, lease: Lease) -> Result<bool, sqlx::Error> {
    avoid_scans(connection).await?;
    let locked = sqlx::query_scalar!(
        "SELECT id FROM erasures
         WHERE tenant_id = $1 AND id = $2 AND leased_until = $3 AND status = 'running' FOR UPDATE",
        lease.tenant.0,
        lease.id.0,
        lease.until
    );
    Ok(locked.fetch_optional(connection).await?.is_some())
}

/// How a job is changed once the transaction of a step is committed.
#[derive(Debug)]
struct Moved {
    phase: ErasurePhase,
    position: Option<String>,
    waiting: u64,
    counts: ErasedCounts,
    step: Step,
}

impl Job {
    /// Returns the id of the last row that was examined in this phase; nil if there is none.
    fn after(&self) -> Uuid {
        self.position.as_deref().and_then(|position| position.parse().ok()).unwrap_or_default()
    }

    /// Returns the end of the erasure's period: messages that were accepted later are kept.
    fn end(&self) -> DateTime<Utc> {
        self.created_at + CLOCK_DIFFERENCE
    }
}

impl Moved {
    fn apply(self, job: &mut Job) -> Step {
        (job.phase, job.position, job.waiting, job.counts) = (self.phase, self.position, self.waiting, self.counts);
        self.step
    }
}

/// Stores the position and the counts after a step, in its transaction.
async fn advance(
    connection: &mut PgConnection,
    job: &Job,
    examined: &Examined,
    counts: ErasedCounts,
) -> Result<Moved, sqlx::Error> {
    let has_ended = examined.position.is_none();
    // The count starts with the messages: no earlier phase has rows that must wait, and a repetition starts with them, too.
    let is_first = job.phase == ErasurePhase::Messages && job.position.is_none();
    let waiting = if is_first { 0 } else { job.waiting } + examined.waiting;
    let phase = if has_ended { job.phase.next().unwrap_or(job.phase) } else { job.phase };
    sqlx::query!(
        "UPDATE erasures SET phase = $4, position = $5, waiting = $6, counts = $7
         WHERE tenant_id = $1 AND id = $2 AND leased_until = $3",
        job.lease.tenant.0,
        job.lease.id.0,
        job.lease.until,
        phase.as_str(),
        examined.position,
        i64::try_from(waiting).unwrap_or(i64::MAX),
        sqlx::types::Json(counts) as _
    )
    .execute(connection)
    .await?;
    let step = if has_ended { Step::PhaseEnded } else { Step::Continues };
    Ok(Moved { phase, position: examined.position.clone(), waiting, counts, step })
}
