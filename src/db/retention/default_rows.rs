//! Deletes old rows of the default partitions, row by row: rows whose week had no partition when they were inserted, because the
//! service was off and could not create one in time, or because a clock was far off.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Class, Periods, Week};
use crate::db::{Db, DbError};
use crate::domain::id::MessageId;

/// Maximum number of rows that one step deletes.
const DELETED: i64 = 500;

/// Deletes some rows of the default partitions that are older than the class's period and not protected. Content has been handled
/// before. Returns how many rows; 0 at the end.
pub async fn delete_step(db: &Db, class: Class, periods: &Periods, now: DateTime<Utc>) -> Result<u64, DbError> {
    let Some(cutoff) = periods.get(class).cutoff(now).map(|cutoff| Week::containing(cutoff).start()) else {
        return Ok(0);
    };
    match class {
        Class::Content => Ok(0),
        Class::Messages => messages(db, cutoff, periods, now).await,
        Class::Events => events(db, cutoff).await,
        Class::WebhookLog => webhook_log(db, MessageId::first_at(cutoff).0).await,
    }
}

/// Returns the week of the next content in the default partition after an id.
pub async fn next_content_week(db: &Db, after: Uuid) -> Result<Option<Week>, DbError> {
    let query = sqlx::query_scalar!("SELECT id FROM contents_default WHERE id > $1 ORDER BY id LIMIT 1", after);
    let id = db.timed("retention.default_rows.next_content", query.fetch_optional(&db.pool)).await?;
    Ok(id.map(|id| Week::containing(MessageId(id).accepted_at())))
}

/// Deletes messages with what belongs to them, which may be in the partition of their week: partitions are created one by one. Then
/// deletes recipients and ids whose message was deleted with its week.
async fn messages(db: &Db, cutoff: DateTime<Utc>, periods: &Periods, now: DateTime<Utc>) -> Result<u64, DbError> {
    let return_path = TimeDelta::from_std(periods.return_path).unwrap_or(TimeDelta::MAX);
    let since = now.checked_sub_signed(return_path).unwrap_or(DateTime::<Utc>::MIN_UTC);
    let end = MessageId::first_at(cutoff).0;
    // OFFSET 0 keeps these conditions look-ups by key.
    let query = sqlx::query_scalar!(
        r#"WITH ended AS MATERIALIZED (
               SELECT m.id, m.tenant_id, m.internet_message_id FROM messages_default m
               WHERE m.id < $1
                 AND NOT EXISTS (SELECT FROM queue q WHERE q.message_id = m.id AND q.tenant_id = m.tenant_id)
                 AND NOT EXISTS (SELECT FROM recipients r WHERE r.message_id = m.id AND r.tenant_id = m.tenant_id
                                    AND (r.status = 'uncertain' AND m.on_uncertain = 'hold' OR r.last_attempt_at > $3) OFFSET 0)
                 AND NOT EXISTS (SELECT FROM contents c WHERE c.id = m.content_id AND c.tenant_id = m.tenant_id)
               ORDER BY m.id LIMIT $2),
           recipients AS (
               DELETE FROM recipients r USING ended e
               WHERE r.message_id = e.id AND r.tenant_id = e.tenant_id AND r.message_id < $1 RETURNING 1),
           ids AS (
               DELETE FROM custom_message_ids i USING ended e WHERE i.id = e.id AND i.tenant_id = e.tenant_id
                  AND i.message_id = e.internet_message_id AND i.id < $1 RETURNING 1),
           gone AS (
               DELETE FROM messages_default m USING ended e WHERE m.id = e.id AND m.tenant_id = e.tenant_id RETURNING 1)
           SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM recipients) + (SELECT count(*) FROM ids) AS "rows!""#,
        end,
        DELETED,
        since
    );
    let rows = db.timed("retention.default_rows.messages", query.fetch_one(&db.pool)).await?;
    Ok(rows.unsigned_abs() + without_message(db, end).await?)
}

async fn without_message(db: &Db, end: Uuid) -> Result<u64, DbError> {
    db.timed("retention.default_rows.without_message", async {
        let recipients = sqlx::query!(
            "DELETE FROM recipients_default WHERE ctid = ANY (ARRAY(
                 SELECT r.ctid FROM recipients_default r
                 WHERE r.message_id < $1
                   AND NOT EXISTS (SELECT FROM messages m WHERE m.id = r.message_id AND m.tenant_id = r.tenant_id OFFSET 0)
                   AND NOT EXISTS (SELECT FROM queue q WHERE q.message_id = r.message_id AND q.tenant_id = r.tenant_id)
                 LIMIT $2 FOR UPDATE OF r SKIP LOCKED))",
            end,
            DELETED
        );
        let recipients = recipients.execute(&db.pool).await?.rows_affected();
        let ids = sqlx::query!(
            "DELETE FROM custom_message_ids_default WHERE ctid = ANY (ARRAY(
                 SELECT i.ctid FROM custom_message_ids_default i
                 WHERE i.id < $1
                   AND NOT EXISTS (SELECT FROM messages m WHERE m.id = i.id AND m.tenant_id = i.tenant_id OFFSET 0)
                 LIMIT $2 FOR UPDATE OF i SKIP LOCKED))",
            end,
            DELETED
        );
        Ok(recipients + ids.execute(&db.pool).await?.rows_affected())
    })
    .await
}

/// Deletes the oldest events of the default partition up to the first that a reader still needs. Weeks that are not dropped come first:
/// while one is older, nothing is deleted, so that the feed has no gap.
async fn events(db: &Db, cutoff: DateTime<Utc>) -> Result<u64, DbError> {
    let query = sqlx::query_scalar!(
        r#"WITH old AS MATERIALIZED (
               SELECT d.tenant_id, d.seq, d.recorded_at FROM events_default d
               LEFT JOIN statistics_cursors s ON s.tenant_id = d.tenant_id
               WHERE d.recorded_at < $1 AND d.seq <= coalesce(s.seq, 0) AND s.clear_from IS NULL
                 AND NOT EXISTS (SELECT FROM webhook_endpoints e
                                 WHERE e.tenant_id = d.tenant_id AND e.disabled_at IS NULL
                                   AND (e.cursor < d.seq OR EXISTS (SELECT FROM webhook_retries r
                                                                    WHERE r.endpoint_id = e.id AND r.seq <= d.seq)))
                 AND NOT EXISTS (SELECT FROM events o WHERE o.tenant_id = d.tenant_id AND o.seq < d.seq
                                    AND o.tableoid <> 'events_default'::regclass)
               ORDER BY d.tenant_id, d.seq LIMIT $2),
           noted AS (
               INSERT INTO deleted_events (tenant_id, up_to) SELECT tenant_id, max(seq) FROM old GROUP BY tenant_id
               ON CONFLICT (tenant_id) DO UPDATE SET up_to = greatest(deleted_events.up_to, excluded.up_to)),
           gone AS (
               DELETE FROM events_default d USING old
               WHERE d.tenant_id = old.tenant_id AND d.seq = old.seq AND d.recorded_at = old.recorded_at RETURNING 1)
           SELECT count(*) AS "rows!" FROM gone"#,
        cutoff,
        DELETED
    );
    let rows = db.timed("retention.default_rows.events", query.fetch_one(&db.pool)).await?;
    Ok(rows.unsigned_abs())
}

async fn webhook_log(db: &Db, end: Uuid) -> Result<u64, DbError> {
    let query = sqlx::query!(
        "DELETE FROM webhook_attempts_default WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM webhook_attempts_default WHERE id < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
        end,
        DELETED
    );
    db.timed("retention.default_rows.webhook_log", query.execute(&db.pool)).await.map(|done| done.rows_affected())
}
