//! The tables `sql_inbox` and `sql_settings`: messages that applications sent with `postrider.send` in transactions of
//! their own, until they are accepted.
//!
//! A process claims rows for a few seconds. The transaction that inserts their messages deletes the rows (`take`), so
//! that each row becomes exactly one message, even if two processes work on it.

pub mod rejected;
pub mod senders;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::id::{MessageId, TenantId};

/// Maximum number of rows in one claim. Until its messages are committed, the transaction locks the event counter, which
/// single messages need too.
pub const MAX_ROWS: i64 = 200;
/// Number of the oldest rows, and of the newest rows, among which a claim chooses, so that tenants and streams with many
/// rows leave room for others.
const CANDIDATES: i64 = 1_000;
/// Size of the payloads of one claim, in bytes. A single row may be larger.
const MAX_BYTES: i64 = 4 << 20;

/// A claimed row.
#[derive(Debug, Clone)]
pub struct EnqueuedRow {
    /// The tenant.
    pub tenant_id: Uuid,
    /// The id of the message.
    pub id: Uuid,
    /// The body of the message, as JSON.
    pub payload: String,
    /// When the application sent it.
    pub created_at: DateTime<Utc>,
    /// Maximum number of recipients of the tenant per day.
    pub recipients_per_day: Option<i32>,
    /// Whether the tenant is suspended.
    pub is_suspended: bool,
}

/// The rows that a batch of messages is created from. The batch is inserted only if all of them are still claimed until
/// `claimed_until`.
#[derive(Debug, Clone)]
pub struct EnqueuedPart {
    /// The tenant.
    pub tenant: TenantId,
    /// The ids of the messages.
    pub messages: Vec<Uuid>,
    /// The end of the claim.
    pub claimed_until: DateTime<Utc>,
}

/// What a claim looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimScope {
    /// Rows sent at this time or later, so that a poll does not read the versions of deleted rows that a long transaction keeps.
    Since(DateTime<Utc>),
    /// All rows, and those that wait for something which is there now.
    All,
}

/// Claims visible rows until `until`, the oldest first, with a fair share for each stream of each tenant. The newest rows
/// take part, too, so that a message does not wait for all those that were sent before it. Rows of transactions that have
/// not committed are not visible, and delay no others.
///
/// Of the rows that wait for a quota or for a suspended tenant, only the oldest ones of tenants that may send now are read,
/// and those take part that fit into the rest of the quota, and those that exceed a whole day's, which are to be refused.
pub async fn claim(
    db: &Db,
    scope: ClaimScope,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Vec<EnqueuedRow>, DbError> {
    let (from, is_all) = match scope {
        ClaimScope::Since(from) => (MessageId::first_at(from).0, false),
        ClaimScope::All => (Uuid::nil(), true),
    };
    let query = sqlx::query_as!(
        EnqueuedRow,
        r#"WITH RECURSIVE waiting (tenant_id) AS (
               (SELECT i.tenant_id FROM sql_inbox i WHERE $7 AND i.refused_at IS NULL AND i.waits_for IS NOT NULL
                ORDER BY i.tenant_id LIMIT 1)
               UNION ALL
               SELECT (SELECT i.tenant_id FROM sql_inbox i
                       WHERE i.refused_at IS NULL AND i.waits_for IS NOT NULL AND i.tenant_id > w.tenant_id
                       ORDER BY i.tenant_id LIMIT 1)
               FROM waiting w WHERE w.tenant_id IS NOT NULL),
           candidate AS MATERIALIZED (
               (SELECT i.id, i.tenant_id, i.stream, i.size FROM sql_inbox i
                JOIN tenants t ON t.id = i.tenant_id AND t.deleting_at IS NULL
                WHERE i.refused_at IS NULL AND i.waits_for IS NULL AND i.id >= $1 AND i.claimed_until <= $2
                ORDER BY i.id LIMIT $4)
               UNION
               (SELECT i.id, i.tenant_id, i.stream, i.size FROM sql_inbox i
                JOIN tenants t ON t.id = i.tenant_id AND t.deleting_at IS NULL
                WHERE i.refused_at IS NULL AND i.waits_for IS NULL AND i.id >= $1 AND i.claimed_until <= $2
                ORDER BY i.id DESC LIMIT $4)
               UNION
               SELECT i.id, i.tenant_id, i.stream, i.size
               FROM waiting w
               CROSS JOIN LATERAL (
                   SELECT t.recipients_per_day, coalesce(u.recipients, 0) AS used
                   FROM tenants t LEFT JOIN tenant_usage u ON u.tenant_id = t.id AND u.day = $8
                   WHERE t.id = w.tenant_id AND t.suspended_at IS NULL AND t.deleting_at IS NULL OFFSET 0) t
               CROSS JOIN LATERAL (
                   SELECT * FROM (
                       SELECT o.id, o.tenant_id, o.stream, o.size, o.recipients FROM sql_inbox o
                       WHERE o.tenant_id = w.tenant_id AND o.refused_at IS NULL AND o.waits_for IS NOT NULL
                         AND o.claimed_until <= $2
                       ORDER BY o.tenant_id, o.id LIMIT $4) oldest
                   WHERE t.recipients_per_day IS NULL
                      OR t.used + coalesce(oldest.recipients, 1) <= t.recipients_per_day
                      OR oldest.recipients > t.recipients_per_day
                   LIMIT $5) i
               WHERE t.recipients_per_day IS NULL OR t.used < t.recipients_per_day),
           turn AS (
               SELECT tenant_id, id, size, row_number() OVER (PARTITION BY tenant_id, stream ORDER BY id) AS turn
               FROM candidate),
           chosen AS MATERIALIZED (
               SELECT tenant_id, id
               FROM (SELECT tenant_id, id, turn, sum(size) OVER (ORDER BY turn, id) - size AS before FROM turn) sized
               WHERE before < $6 ORDER BY turn, id LIMIT $5),
           locked AS MATERIALIZED (
               SELECT l.tenant_id, l.id FROM chosen c CROSS JOIN LATERAL (
                   SELECT i.tenant_id, i.id FROM sql_inbox i
                   WHERE i.tenant_id = c.tenant_id AND i.id = c.id AND i.refused_at IS NULL AND i.claimed_until <= $2
                   FOR UPDATE SKIP LOCKED) l)
           UPDATE sql_inbox i SET claimed_until = $3, waits_for = NULL, recipients = NULL
           FROM locked l JOIN tenants t ON t.id = l.tenant_id
           WHERE i.tenant_id = l.tenant_id AND i.id = l.id
           RETURNING i.tenant_id, i.id, i.payload::text AS "payload!", i.created_at, t.recipients_per_day,
                     t.suspended_at IS NOT NULL AS "is_suspended!""#,
        from,
        now,
        until,
        CANDIDATES,
        MAX_ROWS,
        MAX_BYTES,
        is_all,
        now.date_naive()
    );
    db.timed("sql_inbox.claim", async {
        let mut tx = db.pool.begin().await?;
        // Rows come and go faster than statistics follow, and without them Postgres would read and sort all rows to find the
        // oldest ones.
        sqlx::query!(
            "SELECT set_config('enable_seqscan', 'off', true) AS seqscan, set_config('enable_bitmapscan', 'off', true) AS bitmap,
                    set_config('enable_sort', 'off', true) AS sort, set_config('enable_hashjoin', 'off', true) AS hashjoin,
                    set_config('enable_mergejoin', 'off', true) AS mergejoin"
        )
        .fetch_one(&mut *tx)
        .await?;
        let rows = query.fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(rows)
    })
    .await
}

/// Claims one row until `until`, also if it waits for a quota or for its tenant. Returns `None` if it is claimed, refused or gone.
pub async fn claim_one(
    db: &Db,
    (tenant, message): (TenantId, MessageId),
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Option<EnqueuedRow>, DbError> {
    let query = sqlx::query_as!(
        EnqueuedRow,
        r#"UPDATE sql_inbox i SET claimed_until = $4
           FROM tenants t
           WHERE i.tenant_id = $1 AND i.id = $2 AND i.refused_at IS NULL AND i.claimed_until <= $3
             AND t.id = i.tenant_id AND t.deleting_at IS NULL
           RETURNING i.tenant_id, i.id, i.payload::text AS "payload!", i.created_at, t.recipients_per_day,
                     t.suspended_at IS NOT NULL AS "is_suspended!""#,
        tenant.0,
        message.0,
        now,
        until
    );
    db.timed("sql_inbox.claim_one", query.fetch_optional(&db.pool)).await
}

/// Ends the claim of a row at `until`. Changes nothing if the row is no longer claimed until `claimed_until`.
pub async fn release(
    db: &Db,
    (tenant, message): (TenantId, MessageId),
    claimed_until: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE sql_inbox SET claimed_until = $4
         WHERE tenant_id = $1 AND id = $2 AND claimed_until = $3 AND refused_at IS NULL",
        tenant.0,
        message.0,
        claimed_until,
        until
    );
    db.timed("sql_inbox.release", query.execute(&db.pool)).await.map(drop)
}

/// Returns whether a claim would find a row that was sent at `from` or later and waits for nothing. One statement, because
/// processes ask often, and usually there is none.
pub async fn has_ready(db: &Db, from: DateTime<Utc>, now: DateTime<Utc>) -> Result<bool, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT (SELECT true FROM sql_inbox
                   WHERE refused_at IS NULL AND waits_for IS NULL AND id >= $1 AND claimed_until <= $2
                   ORDER BY id LIMIT 1) IS NOT NULL AS "has!""#,
        MessageId::first_at(from).0,
        now
    );
    db.timed("sql_inbox.has_ready", query.fetch_one(&db.pool)).await
}

/// Deletes rows, in the transaction that inserts their messages. Deletes nothing and returns `false` if another process
/// has claimed or deleted one of them.
pub(in crate::db) async fn take(connection: &mut PgConnection, part: &EnqueuedPart) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"WITH locked AS MATERIALIZED (
               SELECT id FROM sql_inbox
               WHERE tenant_id = $1 AND id = ANY ($2) AND claimed_until = $3 AND refused_at IS NULL
               ORDER BY id FOR UPDATE),
           enough AS (SELECT count(*) = cardinality($2) AS is_whole FROM locked),
           gone AS (
               DELETE FROM sql_inbox i USING enough WHERE i.tenant_id = $1 AND i.id = ANY ($2) AND enough.is_whole)
           SELECT is_whole AS "is_whole!" FROM enough"#,
        part.tenant.0,
        &part.messages,
        part.claimed_until
    )
    .fetch_one(connection)
    .await
}

/// Lets claimed rows wait for the quota of their tenant. `recipients` are the numbers of recipients of their messages.
pub async fn wait_for_quota(db: &Db, part: &EnqueuedPart, recipients: &[i32]) -> Result<(), DbError> {
    let query = sqlx::query!(
        "WITH locked AS MATERIALIZED (
             SELECT id FROM sql_inbox
             WHERE tenant_id = $1 AND id = ANY ($2) AND claimed_until = $3 AND refused_at IS NULL
             ORDER BY id FOR UPDATE)
         UPDATE sql_inbox i SET claimed_until = '-infinity', waits_for = 'quota', recipients = u.recipients
         FROM locked JOIN unnest($2::uuid[], $4::integer[]) AS u (id, recipients) ON u.id = locked.id
         WHERE i.tenant_id = $1 AND i.id = locked.id",
        part.tenant.0,
        &part.messages,
        part.claimed_until,
        recipients
    );
    db.timed("sql_inbox.wait_for_quota", query.execute(&db.pool)).await.map(drop)
}

/// Lets claimed rows wait until their tenant is resumed.
pub async fn wait_for_tenant(db: &Db, part: &EnqueuedPart) -> Result<(), DbError> {
    let query = sqlx::query!(
        "WITH locked AS MATERIALIZED (
             SELECT id FROM sql_inbox
             WHERE tenant_id = $1 AND id = ANY ($2) AND claimed_until = $3 AND refused_at IS NULL
             ORDER BY id FOR UPDATE)
         UPDATE sql_inbox i SET claimed_until = '-infinity', waits_for = 'tenant'
         FROM locked WHERE i.tenant_id = $1 AND i.id = locked.id",
        part.tenant.0,
        &part.messages,
        part.claimed_until
    );
    db.timed("sql_inbox.wait_for_tenant", query.execute(&db.pool)).await.map(drop)
}

/// Deletes rows of deleted tenants, which transactions committed that began before the deletion.
pub async fn remove_of_deleted_tenants(db: &Db) -> Result<u64, DbError> {
    let query = sqlx::query!(
        "DELETE FROM sql_inbox WHERE (tenant_id, id) IN (
             SELECT i.tenant_id, i.id FROM sql_inbox i JOIN tenants t ON t.id = i.tenant_id AND t.deleted_at IS NOT NULL
             FOR UPDATE OF i SKIP LOCKED)"
    );
    db.timed("sql_inbox.remove_of_deleted_tenants", query.execute(&db.pool)).await.map(|done| done.rows_affected())
}

/// The settings that `postrider.send` applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendSettings {
    /// Maximum number of recipients.
    pub recipients: i32,
    /// Maximum number of attachments.
    pub attachments: i32,
    /// Maximum number of custom headers.
    pub headers: i32,
    /// Maximum number of tags.
    pub tags: i32,
    /// Maximum number of bytes of all attachments.
    pub attachment_bytes: i64,
    /// Maximum number of seconds until `scheduled_at`.
    pub schedule_ahead: i64,
    /// Whether simulator addresses are accepted.
    pub simulator: bool,
    /// Whether messages from domains that are not verified are refused.
    pub verified_domains_only: bool,
}

/// Stores the settings of this process, unless they are stored already.
pub async fn store_settings(db: &Db, settings: &SendSettings) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE sql_settings SET (recipients, attachments, headers, tags, attachment_bytes, schedule_ahead, simulator,
                                  verified_domains_only) = ($1, $2, $3, $4, $5, $6, $7, $8)
         WHERE (recipients, attachments, headers, tags, attachment_bytes, schedule_ahead, simulator, verified_domains_only)
               IS DISTINCT FROM ($1, $2, $3, $4, $5, $6, $7, $8)",
        settings.recipients,
        settings.attachments,
        settings.headers,
        settings.tags,
        settings.attachment_bytes,
        settings.schedule_ahead,
        settings.simulator,
        settings.verified_domains_only
    );
    db.timed("sql_inbox.store_settings", query.execute(&db.pool)).await.map(drop)
}

/// The rows of the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Rows that wait.
    pub waiting: i64,
    /// Those of them that wait because a quota is used up.
    pub waiting_for_quota: i64,
    /// Refused rows.
    pub refused: i64,
    /// When the oldest waiting row was sent, without those of suspended tenants and of used up quotas.
    pub oldest: Option<DateTime<Utc>>,
}

/// Counts the rows of the inbox.
pub async fn counts(db: &Db) -> Result<Counts, DbError> {
    let query = sqlx::query_as!(
        Counts,
        r#"SELECT count(*) FILTER (WHERE i.refused_at IS NULL) AS "waiting!",
                  count(*) FILTER (WHERE i.refused_at IS NULL AND i.waits_for = 'quota') AS "waiting_for_quota!",
                  count(*) FILTER (WHERE i.refused_at IS NOT NULL) AS "refused!",
                  min(i.created_at) FILTER (WHERE i.refused_at IS NULL AND i.waits_for IS NULL AND t.suspended_at IS NULL)
                      AS oldest
           FROM sql_inbox i JOIN tenants t ON t.id = i.tenant_id"#
    );
    db.timed("sql_inbox.counts", query.fetch_one(&db.pool)).await
}
