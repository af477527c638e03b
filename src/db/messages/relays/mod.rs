//! The table `relays`: received messages that are to be passed on, and those of them of whose failure the sender is to be told.
//!
//! A process claims rows for some seconds. The transaction that inserts a message, or a report, marks its row (`take`), so
//! that each row becomes exactly one message and at most one report, even if two processes work on it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::id::{MessageId, TenantId};

/// The stream of messages that pass received messages on, and of reports.
pub const STREAM: &str = "transactional";

/// A claimed row.
#[derive(Debug, Clone)]
pub struct RelayRow {
    /// The tenant.
    pub tenant_id: Uuid,
    /// `received_messages.id`.
    pub received_id: Uuid,
    /// Position of the recipient.
    pub position: i16,
    /// `inbound_routes.id`; `None` for a bounce to a rewritten sender.
    pub route_id: Option<Uuid>,
    /// The reverse path; empty for the null sender.
    pub reverse_path: String,
    /// The recipient.
    pub recipient: String,
    /// The message that passes it on; `None` if it is to be created.
    pub message_id: Option<Uuid>,
}

/// What the message that is inserted is for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayStep {
    /// It passes the received message on.
    Message,
    /// It tells the sender of a failure.
    Report,
}

/// The row that a batch of one message is created from. The batch is inserted only if the row is still claimed until
/// `claimed_until`.
#[derive(Debug, Clone)]
pub struct RelayPart {
    /// The tenant.
    pub tenant: TenantId,
    /// `relays.received_id`.
    pub received: Uuid,
    /// `relays.position`.
    pub position: i16,
    /// The message that is inserted.
    pub message: MessageId,
    /// What the message is.
    pub step: RelayStep,
    /// The end of the claim.
    pub claimed_until: DateTime<Utc>,
}

/// Claims up to `limit` rows with something to do until `until`, the oldest first. Not of tenants that are being deleted.
pub async fn claim(db: &Db, limit: i64, now: DateTime<Utc>, until: DateTime<Utc>) -> Result<Vec<RelayRow>, DbError> {
    let query = sqlx::query_as!(
        RelayRow,
        "WITH due AS MATERIALIZED (
             SELECT tenant_id, received_id, position FROM relays
             WHERE (message_id IS NULL OR failed_at IS NOT NULL) AND claimed_until <= $2
               AND NOT EXISTS (SELECT FROM tenants t WHERE t.id = relays.tenant_id AND t.deleting_at IS NOT NULL)
             ORDER BY received_id LIMIT $1 FOR UPDATE SKIP LOCKED)
         UPDATE relays r SET claimed_until = $3 FROM due
         WHERE r.tenant_id = due.tenant_id AND r.received_id = due.received_id AND r.position = due.position
         RETURNING r.tenant_id, r.received_id, r.position, r.route_id, r.reverse_path, r.recipient, r.message_id",
        limit,
        now,
        until
    );
    db.timed("relays.claim", query.fetch_all(&db.pool)).await
}

/// Marks a row, in the transaction that inserts its message. Marks nothing and returns `false` if another process has claimed or
/// marked it, or if it was deleted.
pub(in crate::db) async fn take(connection: &mut PgConnection, part: &RelayPart) -> Result<bool, sqlx::Error> {
    let is_report = part.step == RelayStep::Report;
    let marked = sqlx::query!(
        "UPDATE relays
         SET message_id = CASE WHEN $5 THEN message_id ELSE $6 END, report_id = CASE WHEN $5 THEN $6 END,
             failed_at = NULL, claimed_until = '-infinity'
         WHERE tenant_id = $1 AND received_id = $2 AND position = $3 AND claimed_until = $4
           AND (message_id IS NOT NULL) = $5 AND (failed_at IS NOT NULL) = $5",
        part.tenant.0,
        part.received,
        part.position,
        part.claimed_until,
        is_report,
        part.message.0
    )
    .execute(connection)
    .await?;
    Ok(marked.rows_affected() == 1)
}

/// Ends the work on a claimed row of a failed message without a report. Changes nothing if the message has failed again since the claim.
pub async fn close(db: &Db, row: &RelayRow, claimed_until: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE relays SET failed_at = NULL, claimed_until = '-infinity'
         WHERE tenant_id = $1 AND received_id = $2 AND position = $3 AND claimed_until = $4 AND message_id IS NOT NULL",
        row.tenant_id,
        row.received_id,
        row.position,
        claimed_until
    );
    db.timed("relays.close", query.execute(&db.pool)).await.map(drop)
}

/// Deletes a row whose received message is gone before it was passed on.
pub async fn remove(db: &Db, row: &RelayRow) -> Result<(), DbError> {
    let query = sqlx::query!(
        "DELETE FROM relays WHERE tenant_id = $1 AND received_id = $2 AND position = $3 AND message_id IS NULL",
        row.tenant_id,
        row.received_id,
        row.position
    );
    db.timed("relays.remove", query.execute(&db.pool)).await.map(drop)
}

/// A received message that is to be passed on.
#[derive(Debug, Clone)]
pub struct SourceRow {
    /// When it was received.
    pub received_at: DateTime<Utc>,
    /// The client's name in EHLO or HELO.
    pub helo: String,
    /// The client's IP address.
    pub remote_address: String,
    /// The first address in `From`.
    pub from_address: Option<String>,
    /// Its name.
    pub from_name: Option<String>,
    /// The decoded subject.
    pub subject: String,
    /// The Message-ID, without angle brackets.
    pub internet_message_id: Option<String>,
    /// The verdict of SPF.
    pub spf: Option<String>,
    /// The message.
    pub raw: Vec<u8>,
}

/// Returns a received message. With `max_bytes`, only the first bytes of the message, up to this number.
pub async fn source(
    db: &Db,
    tenant: TenantId,
    received: Uuid,
    max_bytes: Option<i32>,
) -> Result<Option<SourceRow>, DbError> {
    let query = sqlx::query_as!(
        SourceRow,
        r#"SELECT received_at, helo, remote_address, from_address, from_name, subject, internet_message_id,
                  authentication #>> '{spf,result}' AS spf, substr(raw, 1, coalesce($3, size)) AS "raw!"
           FROM received_messages WHERE tenant_id = $1 AND id = $2"#,
        tenant.0,
        received,
        max_bytes
    );
    db.timed("relays.source", query.fetch_optional(&db.pool)).await
}

/// How a message ended.
#[derive(Debug, Clone)]
pub struct EndRow {
    /// The status.
    pub status: String,
    /// SMTP code of the last reply.
    pub response_code: Option<i16>,
    /// Enhanced status code of the last reply.
    pub response_enhanced: Option<String>,
    /// Text of the last reply.
    pub response_text: Option<String>,
    /// Host of the last attempt.
    pub mx: Option<String>,
    /// Start of the last attempt.
    pub last_attempt_at: Option<DateTime<Utc>>,
}

/// Returns how a message to one recipient ended.
pub async fn end_of(db: &Db, tenant: TenantId, message: Uuid) -> Result<Option<EndRow>, DbError> {
    let query = sqlx::query_as!(
        EndRow,
        "SELECT status, response_code, response_enhanced, response_text, mx, last_attempt_at
         FROM recipients WHERE tenant_id = $1 AND message_id = $2 LIMIT 1",
        tenant.0,
        message
    );
    db.timed("relays.end_of", query.fetch_optional(&db.pool)).await
}
