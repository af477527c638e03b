//! Turns the recipients of a bulk into messages. The transaction that inserts the messages also deletes the rows of
//! their recipients (`take`), so that each recipient becomes exactly one message, even if two processes work on the
//! bulk.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::BulkRow;
use crate::db::{Db, DbError};
use crate::domain::id::{BulkId, TenantId};
use crate::domain::message::bulk::BulkState;

/// A recipient that has not become a message yet.
#[derive(Debug, Clone)]
pub struct WaitingRow {
    /// The recipient's position in the request.
    pub position: i32,
    /// The address.
    pub address: String,
    /// The display name.
    pub name: Option<String>,
    /// Its own template variables, an object.
    pub variables: Option<Value>,
    /// The size of its rendered bodies, in bytes; 0 without a template.
    pub size: i32,
    /// Its own metadata, an object of strings.
    pub metadata: Option<Value>,
}

/// The recipients that a batch of messages is created from. The batch is inserted only if none of these recipients has
/// become a message meanwhile, and if the bulk is in `state`.
#[derive(Debug, Clone)]
pub struct BulkPart {
    /// The tenant.
    pub tenant: TenantId,
    /// The bulk.
    pub bulk: BulkId,
    /// The state that the bulk must be in.
    pub state: BulkState,
    /// The positions of the recipients.
    pub positions: Vec<i32>,
    /// The id of each recipient's message.
    pub messages: Vec<Uuid>,
}

/// Leases an unfinished bulk until `until`: of the tenant whose bulks have all been without a lease for longest, the bulk
/// that has been for longest. So tenants take turns, however many bulks each has. Returns `None` if there is none. Bulks of
/// suspended tenants wait.
pub async fn lease(db: &Db, now: DateTime<Utc>, until: DateTime<Utc>) -> Result<Option<BulkRow>, DbError> {
    let query = sqlx::query_as!(
        BulkRow,
        "WITH unsettled AS MATERIALIZED (
             SELECT tenant_id, id, leased_until, max(leased_until) OVER (PARTITION BY tenant_id) AS last_turn
             FROM bulks WHERE settled_at IS NULL)
         UPDATE bulks SET leased_until = $2
         WHERE (tenant_id, id) = (
             SELECT b.tenant_id, b.id
             FROM unsettled u
             JOIN tenants t ON t.id = u.tenant_id
             JOIN bulks b ON b.tenant_id = u.tenant_id AND b.id = u.id
             WHERE u.leased_until <= $1 AND t.suspended_at IS NULL AND b.settled_at IS NULL AND b.leased_until <= $1
             ORDER BY u.last_turn, u.leased_until LIMIT 1 FOR UPDATE OF b SKIP LOCKED)
         RETURNING id, tenant_id, created_at, state, state_changed_at, content_id, stream, from_domain, scheduled_at,
                   template_id, template_version, message, accepted, replayed, rejected, resumed_from, key_id",
        now,
        until
    );
    db.timed("bulks.lease", query.fetch_optional(&db.pool)).await
}

/// Releases a bulk that was leased until `lease`. The next process may work on the bulk from `from` on. Changes nothing
/// if another process has leased the bulk meanwhile.
pub async fn release(db: &Db, bulk: &BulkRow, lease: DateTime<Utc>, from: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE bulks SET leased_until = $4 WHERE tenant_id = $1 AND id = $2 AND leased_until = $3",
        bulk.tenant_id,
        bulk.id,
        lease,
        from
    );
    db.timed("bulks.release", query.execute(&db.pool)).await.map(drop)
}

/// Returns the first recipients, in the order of the request, that have not become messages yet.
pub async fn waiting(db: &Db, bulk: &BulkRow, limit: i64) -> Result<Vec<WaitingRow>, DbError> {
    let query = sqlx::query_as!(
        WaitingRow,
        "SELECT position, address, name, variables, size, metadata FROM bulk_recipients
         WHERE bulk_id = $1 AND tenant_id = $2 ORDER BY position LIMIT $3",
        bulk.id,
        bulk.tenant_id,
        limit
    );
    db.timed("bulks.waiting", query.fetch_all(&db.pool)).await
}

/// Deletes the recipients of a part, in the transaction that inserts their messages. Deletes nothing and returns
/// `false` if the bulk is in another state, or if another process has already deleted one of the recipients.
pub(in crate::db) async fn take(connection: &mut PgConnection, part: &BulkPart) -> Result<bool, sqlx::Error> {
    // The lock makes a change of the state wait for this transaction. It does not conflict with the locks of other
    // parts.
    let has_state = sqlx::query_scalar!(
        r#"SELECT true AS "has_state!" FROM bulks WHERE tenant_id = $1 AND id = $2 AND state = $3 FOR SHARE"#,
        part.tenant.0,
        part.bulk.0,
        part.state.as_str()
    )
    .fetch_optional(&mut *connection)
    .await?;
    if has_state.is_none() {
        return Ok(false);
    }
    let taken = sqlx::query_scalar!(
        r#"WITH locked AS MATERIALIZED (
               SELECT position FROM bulk_recipients WHERE bulk_id = $1 AND tenant_id = $2 AND position = ANY ($3)
               ORDER BY position FOR UPDATE),
           enough AS (SELECT count(*) = cardinality($3) AS is_whole FROM locked),
           gone AS (
               DELETE FROM bulk_recipients r USING enough
               WHERE r.bulk_id = $1 AND r.tenant_id = $2 AND r.position = ANY ($3) AND enough.is_whole),
           members AS (
               INSERT INTO bulk_messages (bulk_id, tenant_id, message_id)
               SELECT $1, $2, m.id FROM unnest($4::uuid[]) AS m (id), enough WHERE enough.is_whole)
           SELECT is_whole AS "is_whole!" FROM enough"#,
        part.bulk.0,
        part.tenant.0,
        &part.positions,
        &part.messages
    )
    .fetch_one(connection)
    .await?;
    Ok(taken)
}

/// Records that nothing is left to do for a bulk, if its state has not changed since it was leased. Unless the bulk is
/// paused, all of its recipients must have become messages.
pub async fn settle(db: &Db, bulk: &BulkRow, now: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE bulks b SET settled_at = $4, resumed_from = NULL
         WHERE b.tenant_id = $1 AND b.id = $2 AND b.state = $3 AND b.state_changed_at = $5
           AND (b.state = 'paused' OR NOT EXISTS (SELECT FROM bulk_recipients r WHERE r.bulk_id = b.id))",
        bulk.tenant_id,
        bulk.id,
        bulk.state,
        now,
        bulk.state_changed_at
    );
    db.timed("bulks.settle", query.execute(&db.pool)).await.map(drop)
}
