//! The table `message_actions`: actions on all messages that match a filter. A process leases an action for a moment, and
//! another process continues it afterwards, or after the lease if the first one died. Every statement that continues an
//! action has the lease and the status in its condition, so that a process whose lease has ended, or whose action was
//! canceled, changes nothing.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::select::Position;
use crate::db::{Db, DbError};
use crate::domain::id::{ActionId, KeyId, MessageId, TenantId};
use crate::domain::message::action::{ActionFilter, ActionKind};

/// Number of consecutive failures, except temporary ones, after which an action has failed.
const MAX_FAILURES: i16 = 10;

/// An action.
#[derive(Debug, Clone)]
pub struct ActionRow {
    /// `message_actions.id`.
    pub id: Uuid,
    /// The tenant.
    pub tenant_id: Uuid,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// The API key of the request.
    pub key_id: Uuid,
    /// `cancel`, `retry` or `release`.
    pub action: String,
    /// Which recipients ([`ActionFilter`]).
    pub filter: Value,
    /// Only messages from senders in these domains.
    pub sender_domains: Option<Vec<String>>,
    /// `running`, `done`, `canceled` or `failed`.
    pub status: String,
    /// `queue` or `uncertain`.
    pub phase: String,
    /// Message of the last examined recipient.
    pub last_message: Uuid,
    /// The last examined recipient.
    pub last_recipient: Uuid,
    /// Whether the examination of the queue is repeated at its end.
    pub is_repeated: bool,
    /// Number of recipients that matched.
    pub matched: i64,
    /// Number of recipients that were changed.
    pub changed: i64,
    /// Number of recipients that matched and were being sent.
    pub skipped: i64,
    /// Number of rows of the queue that were examined.
    pub examined: i64,
    /// Estimated number of rows of the queue when the action was created.
    pub queue_size: i64,
    /// The last error, if the last try failed.
    pub error: Option<String>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// An action to insert.
#[derive(Debug)]
pub struct NewAction<'a> {
    /// Its id.
    pub id: ActionId,
    /// The tenant.
    pub tenant: TenantId,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// The API key of the request.
    pub key: KeyId,
    /// What to do.
    pub kind: ActionKind,
    /// Which recipients.
    pub filter: &'a ActionFilter,
    /// Only messages from senders in these domains.
    pub sender_domains: Option<&'a [String]>,
}

/// Returns the position before the first recipient that can match a filter.
pub fn start(filter: &ActionFilter) -> Position {
    let message = filter.earliest().map_or(Uuid::nil(), |at| MessageId::first_at(at).0);
    Position { message, recipient: Uuid::nil() }
}

/// Inserts an action.
pub async fn insert(db: &Db, new: &NewAction<'_>) -> Result<(), DbError> {
    let start = start(new.filter);
    let query = sqlx::query!(
        "INSERT INTO message_actions (id, tenant_id, created_at, key_id, action, filter, sender_domains, last_message,
                                      last_recipient, queue_size)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, (SELECT reltuples::bigint FROM pg_class WHERE oid = 'queue'::regclass))",
        new.id.0,
        new.tenant.0,
        new.created_at,
        new.key.0,
        new.kind.as_str(),
        sqlx::types::Json(new.filter) as _,
        new.sender_domains,
        start.message,
        start.recipient
    );
    db.timed("actions.insert", query.execute(&db.pool)).await.map(drop)
}

/// Returns an action. With `sender_domains`, only one that is limited to some of these domains.
pub async fn get(
    db: &Db,
    tenant: TenantId,
    id: ActionId,
    sender_domains: Option<&[String]>,
) -> Result<Option<ActionRow>, DbError> {
    let query = sqlx::query_as!(
        ActionRow,
        "SELECT id, tenant_id, created_at, key_id, action, filter, sender_domains, status, phase, last_message, last_recipient,
                is_repeated, matched, changed, skipped, examined, queue_size, error, finished_at
         FROM message_actions
         WHERE tenant_id = $1 AND id = $2 AND ($3::text[] IS NULL OR sender_domains <@ $3)",
        tenant.0,
        id.0,
        sender_domains
    );
    db.timed("actions.get", query.fetch_optional(&db.pool)).await
}

/// Returns a page of actions, newest first, starting after `after`. With `sender_domains`, only those that are limited to
/// some of these domains.
pub async fn page(
    db: &Db,
    tenant: TenantId,
    sender_domains: Option<&[String]>,
    after: Option<ActionId>,
    limit: i64,
) -> Result<Vec<ActionRow>, DbError> {
    let query = sqlx::query_as!(
        ActionRow,
        "SELECT id, tenant_id, created_at, key_id, action, filter, sender_domains, status, phase, last_message, last_recipient,
                is_repeated, matched, changed, skipped, examined, queue_size, error, finished_at
         FROM message_actions
         WHERE tenant_id = $1 AND ($2::text[] IS NULL OR sender_domains <@ $2) AND ($3::uuid IS NULL OR id < $3)
         ORDER BY id DESC LIMIT $4",
        tenant.0,
        sender_domains,
        after.map(|id| id.0),
        limit
    );
    db.timed("actions.page", query.fetch_all(&db.pool)).await
}

/// Cancels an action that is running. What it has changed stays changed.
pub async fn cancel(db: &Db, tenant: TenantId, id: ActionId, now: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE message_actions SET status = 'canceled', finished_at = $3
         WHERE tenant_id = $1 AND id = $2 AND status = 'running'",
        tenant.0,
        id.0,
        now
    );
    db.timed("actions.cancel", query.execute(&db.pool)).await.map(drop)
}

/// Leases a running action until `until`: of the tenant whose actions have all been without a lease for longest, the action
/// that has been for longest. So tenants take turns, however many actions each has. Returns `None` if there is none. Actions
/// of suspended tenants wait, and with `is_held` those that make recipients due.
pub async fn lease(
    db: &Db,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
    is_held: bool,
) -> Result<Option<ActionRow>, DbError> {
    let query = sqlx::query_as!(
        ActionRow,
        "WITH running AS MATERIALIZED (
             SELECT tenant_id, id, leased_until, max(leased_until) OVER (PARTITION BY tenant_id) AS last_turn
             FROM message_actions WHERE status = 'running')
         UPDATE message_actions SET leased_until = $2
         WHERE (tenant_id, id) = (
             SELECT a.tenant_id, a.id
             FROM running r
             JOIN tenants t ON t.id = r.tenant_id
             JOIN message_actions a ON a.tenant_id = r.tenant_id AND a.id = r.id
             WHERE r.leased_until <= $1 AND t.suspended_at IS NULL AND a.status = 'running' AND a.leased_until <= $1
               AND (a.action = 'cancel' OR NOT $3)
             ORDER BY r.last_turn, r.leased_until LIMIT 1 FOR UPDATE OF a SKIP LOCKED)
         RETURNING id, tenant_id, created_at, key_id, action, filter, sender_domains, status, phase, last_message,
                   last_recipient, is_repeated, matched, changed, skipped, examined, queue_size, error, finished_at",
        now,
        until,
        is_held
    );
    db.timed("actions.lease", query.fetch_optional(&db.pool)).await
}

/// An action that this process has leased.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// The tenant.
    pub tenant: TenantId,
    /// The action.
    pub id: ActionId,
    /// The end of the lease.
    pub until: DateTime<Utc>,
}

/// Releases an action. The next process may work on it from `from` on.
pub async fn release(db: &Db, lease: Lease, from: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE message_actions SET leased_until = $4, failures = 0, error = NULL
         WHERE tenant_id = $1 AND id = $2 AND leased_until = $3 AND status = 'running'",
        lease.tenant.0,
        lease.id.0,
        lease.until,
        from
    );
    db.timed("actions.release", query.execute(&db.pool)).await.map(drop)
}

/// Why a turn has failed.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// The error.
    pub error: &'a str,
    /// Whether the action is tried again regardless of the number of failures.
    pub is_temporary: bool,
}

/// Releases an action after a failure. Returns whether it has failed too often, and has ended.
pub async fn fail(
    db: &Db,
    lease: Lease,
    failure: Failure<'_>,
    now: DateTime<Utc>,
    from: DateTime<Utc>,
) -> Result<bool, DbError> {
    let query = sqlx::query_scalar!(
        r#"UPDATE message_actions
           SET leased_until = $4, failures = failures + $8, error = $5,
               status = CASE WHEN failures + $8 >= $6 THEN 'failed' ELSE status END,
               finished_at = CASE WHEN failures + $8 >= $6 THEN $7::timestamptz END
           WHERE tenant_id = $1 AND id = $2 AND leased_until = $3 AND status = 'running'
           RETURNING status = 'failed' AS "has_failed!""#,
        lease.tenant.0,
        lease.id.0,
        lease.until,
        from,
        failure.error,
        MAX_FAILURES,
        now,
        i16::from(!failure.is_temporary)
    );
    Ok(db.timed("actions.fail", query.fetch_optional(&db.pool)).await?.unwrap_or(false))
}

/// Ends an action that has examined everything.
pub async fn finish(db: &Db, lease: Lease, now: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE message_actions SET status = 'done', finished_at = $4, failures = 0, error = NULL
         WHERE tenant_id = $1 AND id = $2 AND leased_until = $3 AND status = 'running'",
        lease.tenant.0,
        lease.id.0,
        lease.until,
        now
    );
    db.timed("actions.finish", query.execute(&db.pool)).await.map(drop)
}

/// Starts a phase at a position. The first phase forgets what an earlier examination has counted and not changed.
pub async fn begin_phase(
    db: &Db,
    lease: Lease,
    phase: &str,
    start: Position,
    is_repeated: bool,
) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE message_actions
         SET phase = $4, last_message = $5, last_recipient = $6, is_repeated = $7,
             matched = CASE WHEN $4 = 'queue' THEN changed ELSE matched END,
             skipped = CASE WHEN $4 = 'queue' THEN 0 ELSE skipped END,
             examined = CASE WHEN $4 = 'queue' THEN 0 ELSE examined END
         WHERE tenant_id = $1 AND id = $2 AND leased_until = $3 AND status = 'running'",
        lease.tenant.0,
        lease.id.0,
        lease.until,
        phase,
        start.message,
        start.recipient,
        is_repeated
    );
    db.timed("actions.begin_phase", query.execute(&db.pool)).await.map(drop)
}

/// Returns whether a suspension of the tenant, or a pause of one of its streams, has ended since then.
pub async fn was_resumed(db: &Db, tenant: TenantId, since: DateTime<Utc>) -> Result<bool, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM pauses WHERE tenant_id = $1 AND lane_id IS NULL AND resumed_at > $2) AS "was_resumed!""#,
        tenant.0,
        since
    );
    db.timed("actions.was_resumed", query.fetch_one(&db.pool)).await
}

/// Returns whether recipients of bulks that were accepted before `before` are still to become messages. Those of paused
/// bulks do not count.
pub async fn has_waiting_bulks(db: &Db, tenant: TenantId, before: DateTime<Utc>) -> Result<bool, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM bulks b
               WHERE b.tenant_id = $1 AND b.settled_at IS NULL AND b.state <> 'paused' AND b.id < uuid_floor($2)
                 AND EXISTS (SELECT FROM bulk_recipients r WHERE r.bulk_id = b.id)) AS "has!""#,
        tenant.0,
        before
    );
    db.timed("actions.has_waiting_bulks", query.fetch_one(&db.pool)).await
}
