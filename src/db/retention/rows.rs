//! Deletes old rows of tables without partitions, some hundred per transaction. Rows that another transaction has locked are left for the
//! next run: two transactions that lock the same rows in different orders would wait for each other.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Week;
use crate::db::{Db, DbError};
use crate::domain::id::MessageId;

/// Maximum number of rows that one step deletes.
const DELETED: i64 = 1_000;
/// Maximum number of received messages that one step deletes; each may have tens of megabytes.
const RECEIVED: i64 = 100;
/// Maximum number of bulks that one step deletes.
const BULKS: i64 = 20;

/// Deletes the SMTP conversations of a week's messages, which are about to be dropped. Returns how many; 0 at the end.
pub async fn delete_conversations(db: &Db, week: Week) -> Result<u64, DbError> {
    let (first, end) = week.ids();
    let query = sqlx::query!(
        "DELETE FROM smtp_conversations WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM smtp_conversations WHERE message_id >= $1 AND message_id < $2 LIMIT $3
             FOR UPDATE SKIP LOCKED))",
        first,
        end,
        DELETED
    );
    db.timed("retention.rows.conversations", query.execute(&db.pool)).await.map(|done| done.rows_affected())
}

/// Deletes old entries of the audit log. Returns how many; 0 at the end.
pub async fn delete_audit(db: &Db, before: DateTime<Utc>) -> Result<u64, DbError> {
    let query = sqlx::query!(
        "DELETE FROM audit_log a USING (
             SELECT t.id AS tenant_id, old.id FROM tenants t
             CROSS JOIN LATERAL (SELECT id FROM audit_log WHERE tenant_id = t.id AND id < $1 ORDER BY id LIMIT $2
                                 FOR UPDATE SKIP LOCKED) old
             LIMIT $2) old
         WHERE a.tenant_id = old.tenant_id AND a.id = old.id",
        MessageId::first_at(before).0,
        DELETED
    );
    db.timed("retention.rows.audit", query.execute(&db.pool)).await.map(|done| done.rows_affected())
}

/// Deletes old received messages, except those that are still to be passed on, or whose sender may still have to be told of a failure:
/// the report needs their header and the verdict of SPF. Returns how many; 0 at the end.
pub async fn delete_received(db: &Db, before: DateTime<Utc>) -> Result<u64, DbError> {
    let query = sqlx::query!(
        "DELETE FROM received_messages m USING (
             SELECT t.id AS tenant_id, old.id FROM tenants t
             CROSS JOIN LATERAL (
                 SELECT id FROM received_messages r WHERE tenant_id = t.id AND id < $1
                   AND NOT EXISTS (
                       SELECT FROM relays l
                       WHERE l.tenant_id = r.tenant_id AND l.received_id = r.id
                         AND (l.message_id IS NULL OR l.failed_at IS NOT NULL
                              -- With LIMIT, so that the queue is not read as a whole.
                              OR (SELECT true FROM queue q WHERE q.message_id = l.message_id LIMIT 1)))
                 ORDER BY id LIMIT $2 FOR UPDATE OF r SKIP LOCKED) old
             LIMIT $2) old
         WHERE m.tenant_id = old.tenant_id AND m.id = old.id",
        MessageId::first_at(before).0,
        RECEIVED
    );
    db.timed("retention.rows.received", query.execute(&db.pool)).await.map(|done| done.rows_affected())
}

/// Deletes what is known of old received messages that were passed on, except those whose message has not ended, or whose sender is
/// still to be told of a failure. Returns how many; 0 at the end.
pub async fn delete_relays(db: &Db, before: DateTime<Utc>) -> Result<u64, DbError> {
    let query = sqlx::query!(
        "DELETE FROM relays l USING (
             SELECT t.id AS tenant_id, old.received_id, old.position FROM tenants t
             CROSS JOIN LATERAL (
                 SELECT received_id, position FROM relays r
                 WHERE tenant_id = t.id AND received_id < $1 AND message_id IS NOT NULL AND failed_at IS NULL
                   AND NOT EXISTS (SELECT FROM queue q WHERE q.message_id = r.message_id)
                 ORDER BY received_id LIMIT $2 FOR UPDATE OF r SKIP LOCKED) old
             LIMIT $2) old
         WHERE l.tenant_id = old.tenant_id AND l.received_id = old.received_id AND l.position = old.position",
        MessageId::first_at(before).0,
        DELETED
    );
    db.timed("retention.rows.relays", query.execute(&db.pool)).await.map(|done| done.rows_affected())
}

/// Deletes actions on many messages that ended before this time. Returns how many; 0 at the end.
pub async fn delete_actions(db: &Db, before: DateTime<Utc>) -> Result<u64, DbError> {
    let query = sqlx::query!(
        "DELETE FROM message_actions WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM message_actions WHERE finished_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
        before,
        DELETED
    );
    db.timed("retention.rows.actions", query.execute(&db.pool)).await.map(|done| done.rows_affected())
}

/// Forgets messages of bulks that were accepted before this time, and whose ids are in a range without a partition: they are deleted,
/// except some in the default partition. Returns the number of rows; 0 at the end.
pub async fn delete_bulk_members(db: &Db, before: DateTime<Utc>, (first, end): (Uuid, Uuid)) -> Result<u64, DbError> {
    let query = sqlx::query!(
        "DELETE FROM bulk_messages WHERE ctid = ANY (ARRAY(
             SELECT m.ctid FROM bulks b
             JOIN bulk_messages m ON m.bulk_id = b.id AND m.tenant_id = b.tenant_id AND m.message_id >= $3 AND m.message_id < $4
             WHERE b.created_at < $1 AND NOT EXISTS (
                 SELECT FROM messages s
                 WHERE s.id = m.message_id AND s.tenant_id = m.tenant_id AND s.id >= $3 AND s.id < $4) LIMIT $2
             FOR UPDATE OF m SKIP LOCKED))",
        before,
        DELETED,
        first,
        end
    );
    db.timed("retention.rows.bulk_members", query.execute(&db.pool)).await.map(|done| done.rows_affected())
}

/// Deletes finished bulks that were accepted before this time, once all of their messages are deleted. Returns how many; 0 at the end.
pub async fn delete_bulks(db: &Db, before: DateTime<Utc>) -> Result<u64, DbError> {
    // A content that a week still has, for example because retention.content was longer before, goes with its bulk.
    let query = sqlx::query!(
            "WITH gone AS (
                 DELETE FROM bulks WHERE ctid = ANY (ARRAY(
                     SELECT b.ctid FROM bulks b
                     WHERE b.created_at < $1 AND b.settled_at IS NOT NULL
                       AND NOT EXISTS (SELECT FROM bulk_recipients r WHERE r.bulk_id = b.id)
                       AND NOT EXISTS (SELECT FROM bulk_messages m WHERE m.bulk_id = b.id) LIMIT $2
                     FOR UPDATE OF b SKIP LOCKED))
                 RETURNING content_id, tenant_id)
             , contents_gone AS (DELETE FROM contents c USING gone WHERE c.id = gone.content_id AND c.tenant_id = gone.tenant_id)
             SELECT content_id FROM gone",
            before,
            BULKS
        );
    let bulks = db.timed("retention.rows.bulks", query.fetch_all(&db.pool)).await?;
    Ok(bulks.len() as u64)
}
