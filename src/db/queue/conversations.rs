//! SMTP conversations of attempts: stored with their outcomes, read with their events, deleted after a while.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::Finished;
use crate::db::{Db, DbError};
use crate::domain::id::{MessageId, TenantId};

/// Rows deleted per statement.
const REMOVE_BATCH: i64 = 1_000;

/// Stores the conversations of attempts whose outcomes were recorded, in the same transaction. Most attempts have none.
pub(super) async fn insert(
    connection: &mut PgConnection,
    recorded: &[&Finished],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let rows: Vec<(&Finished, Value)> =
        recorded.iter().filter_map(|finished| Some((*finished, json!(finished.conversation.as_deref()?)))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let tenants: Vec<Uuid> = rows.iter().map(|(finished, _)| finished.claimed.tenant_id).collect();
    let messages: Vec<Uuid> = rows.iter().map(|(finished, _)| finished.claimed.message_id).collect();
    let recipients: Vec<Uuid> = rows.iter().map(|(finished, _)| finished.claimed.recipient_id).collect();
    let attempts: Vec<i16> = rows.iter().map(|(finished, _)| finished.attempts()).collect();
    let conversations: Vec<Value> = rows.into_iter().map(|(_, conversation)| conversation).collect();
    sqlx::query!(
        "INSERT INTO smtp_conversations (tenant_id, message_id, recipient_id, attempt, recorded_at, conversation)
         SELECT u.tenant_id, u.message_id, u.recipient_id, u.attempt, $6, u.conversation
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::smallint[], $5::jsonb[])
                  AS u (tenant_id, message_id, recipient_id, attempt, conversation)
         ON CONFLICT DO NOTHING",
        &tenants,
        &messages,
        &recipients,
        &attempts,
        &conversations,
        now
    )
    .execute(connection)
    .await
    .map(|_| ())
}

/// An attempt, from its event, with its conversation.
#[derive(Debug, Clone)]
pub struct AttemptRow {
    /// Sequence number of the event.
    pub seq: i64,
    /// When its outcome was recorded.
    pub recorded_at: DateTime<Utc>,
    /// Type of the event.
    pub kind: String,
    /// The recipient.
    pub recipient_id: Uuid,
    /// The recipient's address.
    pub address: Option<String>,
    /// Attempt number, from 1.
    pub attempt: i16,
    /// SMTP reply code.
    pub response_code: Option<i16>,
    /// Enhanced status code.
    pub response_enhanced: Option<String>,
    /// Reply text.
    pub response_text: Option<String>,
    /// Host name of the server.
    pub mx: Option<String>,
    /// IP address of the server.
    pub ip: Option<String>,
    /// TLS version and cipher.
    pub tls: Option<String>,
    /// Duration of the attempt, in milliseconds.
    pub duration_ms: Option<i32>,
    /// When the next attempt is due.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// The conversation, if it was kept.
    pub conversation: Option<Value>,
}

/// Returns a message's attempts with a `seq` above `after`, oldest first. `since` is a lower bound of their
/// `recorded_at`.
pub async fn attempts(
    db: &Db,
    tenant: TenantId,
    message: MessageId,
    since: DateTime<Utc>,
    (after, limit): (i64, i64),
) -> Result<Vec<AttemptRow>, DbError> {
    // The tenant is compared outside of the subquery: otherwise Postgres might read all events of the tenant from a
    // partition without statistics, instead of those of the message.
    let query = sqlx::query_as!(
        AttemptRow,
        r#"SELECT e.seq, e.recorded_at, e.type AS kind, e.recipient_id AS "recipient_id!", r.address AS "address?",
                  e.attempt AS "attempt!", e.response_code, e.response_enhanced, e.response_text, e.mx, e.ip, e.tls,
                  e.duration_ms, e.next_attempt_at, c.conversation AS "conversation?"
           FROM (SELECT * FROM events WHERE message_id = $2 AND seq > $3 AND recorded_at >= $5 OFFSET 0) e
           LEFT JOIN recipients r ON r.message_id = e.message_id AND r.id = e.recipient_id AND r.tenant_id = $1
           LEFT JOIN smtp_conversations c ON c.message_id = e.message_id AND c.recipient_id = e.recipient_id
                AND c.attempt = e.attempt AND c.tenant_id = $1
           WHERE e.tenant_id = $1 AND e.attempt IS NOT NULL AND e.recipient_id IS NOT NULL
           ORDER BY e.seq LIMIT $4"#,
        tenant.0,
        message.0,
        after,
        limit,
        since
    );
    db.timed("queue.conversations.attempts", query.fetch_all(&db.pool)).await
}

/// Deletes conversations that are older than `age`, in small transactions. Returns their number.
pub async fn remove_old(db: &Db, now: DateTime<Utc>, age: TimeDelta) -> Result<u64, DbError> {
    let Some(before) = now.checked_sub_signed(age) else { return Ok(0) };
    let mut removed = 0;
    loop {
        let query = sqlx::query!(
            "DELETE FROM smtp_conversations WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM smtp_conversations WHERE recorded_at < $1
                 ORDER BY recorded_at LIMIT $2 FOR UPDATE SKIP LOCKED))",
            before,
            REMOVE_BATCH
        );
        let rows = db.timed("queue.conversations.remove_old", query.execute(&db.pool)).await?.rows_affected();
        removed += rows;
        if rows == 0 {
            return Ok(removed);
        }
    }
}
