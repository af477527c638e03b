//! The tables `bulks`, `bulk_recipients` (recipients that have not become messages yet) and `bulk_messages`.

pub mod control;
pub mod expand;
pub mod insert;

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::id::{BulkId, TenantId};

/// A bulk.
#[derive(Debug, Clone)]
pub struct BulkRow {
    /// `bulks.id`.
    pub id: Uuid,
    /// The tenant.
    pub tenant_id: Uuid,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// `active`, `paused` or `canceled`.
    pub state: String,
    /// When the state last changed.
    pub state_changed_at: DateTime<Utc>,
    /// `contents.id` of its messages.
    pub content_id: Uuid,
    /// The stream.
    pub stream: String,
    /// The domain of the sender.
    pub from_domain: String,
    /// No attempt is made before this time.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// The template that its messages are rendered from.
    pub template_id: Option<Uuid>,
    /// The version of the template.
    pub template_version: Option<i32>,
    /// The fields that all of its messages share (`domain::message::bulk::SharedMessage`).
    pub message: Value,
    /// Number of recipients that become messages.
    pub accepted: i32,
    /// Number of recipients whose idempotency key was used by an earlier message.
    pub replayed: i32,
    /// Number of refused recipients.
    pub rejected: i32,
    /// The start of the last pause, if the recipients that it held have not all been released yet.
    pub resumed_from: Option<DateTime<Utc>>,
    /// The API key that it was sent with.
    pub key_id: Option<Uuid>,
}

/// Maximum difference between the clocks of two replicas.
const MAX_CLOCK_DIFFERENCE: TimeDelta = TimeDelta::hours(1);

/// Returns a bulk.
pub async fn get(db: &Db, tenant: TenantId, id: BulkId) -> Result<Option<BulkRow>, DbError> {
    let query = sqlx::query_as!(
        BulkRow,
        "SELECT id, tenant_id, created_at, state, state_changed_at, content_id, stream, from_domain, scheduled_at, template_id,
                template_version, message, accepted, replayed, rejected, resumed_from, key_id
         FROM bulks WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0
    );
    db.timed("bulks.get", query.fetch_optional(&db.pool)).await
}

/// Returns a page of bulks, newest first, starting after `after`. With `sender_domains`, returns only bulks from
/// senders in these domains.
pub async fn page(
    db: &Db,
    tenant: TenantId,
    sender_domains: Option<&[String]>,
    after: Option<BulkId>,
    limit: i64,
) -> Result<Vec<BulkRow>, DbError> {
    let query = sqlx::query_as!(
        BulkRow,
        "SELECT id, tenant_id, created_at, state, state_changed_at, content_id, stream, from_domain, scheduled_at, template_id,
                template_version, message, accepted, replayed, rejected, resumed_from, key_id
         FROM bulks
         WHERE tenant_id = $1 AND ($2::text[] IS NULL OR from_domain = ANY ($2)) AND ($3::uuid IS NULL OR id < $3)
         ORDER BY id DESC LIMIT $4",
        tenant.0,
        sender_domains,
        after.map(|id| id.0),
        limit
    );
    db.timed("bulks.page", query.fetch_all(&db.pool)).await
}

/// The number of a bulk's recipients with a status.
#[derive(Debug, Clone)]
pub struct StatusCountRow {
    /// The status as the API shows it.
    pub status: String,
    /// The number of recipients.
    pub recipients: i64,
}

/// Returns the number of recipients with each status, among those that have become messages, and the number of
/// recipients that have not.
pub async fn counts(db: &Db, bulk: &BulkRow, now: DateTime<Utc>) -> Result<(Vec<StatusCountRow>, i64), DbError> {
    db.timed("bulks.counts", async {
        // The order of the two queries matters: a recipient that becomes a message between them is counted twice rather
        // than not at all.
        let waiting =
            sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM bulk_recipients WHERE bulk_id = $1"#, bulk.id)
                .fetch_one(&db.pool)
                .await?;
        // The lower bound excludes the weekly partitions from before the bulk.
        let counts = sqlx::query_as!(
            StatusCountRow,
            r#"SELECT recipient_status(r.status, q.lease, q.first_due_at, $3) AS "status!", count(*) AS "recipients!"
               FROM bulk_messages m
               JOIN recipients r ON r.message_id = m.message_id AND r.tenant_id = m.tenant_id
               LEFT JOIN queue q ON q.message_id = r.message_id AND q.recipient_id = r.id AND q.tenant_id = r.tenant_id
               WHERE m.bulk_id = $2 AND m.tenant_id = $1 AND r.message_id >= uuid_floor($4)
               GROUP BY 1"#,
            bulk.tenant_id,
            bulk.id,
            now,
            bulk.created_at - MAX_CLOCK_DIFFERENCE
        )
        .fetch_all(&db.pool)
        .await?;
        Ok((counts, waiting))
    })
    .await
}

/// Returns the refused recipients of a bulk, `[{"index", "errors"}]`.
pub async fn refused(db: &Db, bulk: &BulkRow) -> Result<Value, DbError> {
    let query =
        sqlx::query_scalar!("SELECT refused FROM bulks WHERE tenant_id = $1 AND id = $2", bulk.tenant_id, bulk.id);
    db.timed("bulks.refused", query.fetch_one(&db.pool)).await
}

/// Returns the ids of the bulks in which some recipients have not reached an end state. All bulks must be of one
/// tenant.
pub async fn unended(db: &Db, rows: &[BulkRow]) -> Result<HashSet<Uuid>, DbError> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let query = sqlx::query_scalar!(
        r#"SELECT b.id AS "id!" FROM unnest($1::uuid[]) AS b (id)
           WHERE EXISTS (SELECT FROM bulk_recipients r WHERE r.bulk_id = b.id)
              OR EXISTS (SELECT FROM bulk_messages m JOIN queue q ON q.message_id = m.message_id AND q.tenant_id = m.tenant_id
                         WHERE m.bulk_id = b.id)"#,
        &ids
    );
    Ok(db.timed("bulks.unended", query.fetch_all(&db.pool)).await?.into_iter().collect())
}
