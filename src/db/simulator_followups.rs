//! The table `simulator_followups`: what follows simulated deliveries, until it has taken effect.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Db, DbError};

/// What follows the delivery to a recipient.
#[derive(Debug, Clone)]
pub struct FollowUp {
    /// The tenant.
    pub tenant: Uuid,
    /// The message.
    pub message: Uuid,
    /// The recipient.
    pub recipient: Uuid,
    /// When the follow-up is due.
    pub due_at: DateTime<Utc>,
    /// What happens.
    pub content: Content,
}

/// What happens after a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A report comes back.
    Report {
        /// The envelope's recipient, if it is a return path.
        to: Option<String>,
        /// The report as MIME.
        mime: Vec<u8>,
    },
    /// The recipient uses the unsubscribe link with this token.
    Unsubscribe {
        /// The token.
        token: String,
    },
}

/// Stores a follow-up. Replaces that of an earlier delivery to the recipient, which was repeated because its outcome was
/// not recorded.
pub async fn insert(db: &Db, followup: &FollowUp) -> Result<(), DbError> {
    let (to, report, token) = match &followup.content {
        Content::Report { to, mime } => (to.as_deref(), Some(mime.as_slice()), None),
        Content::Unsubscribe { token } => (None, None, Some(token.as_str())),
    };
    let query = sqlx::query!(
        "INSERT INTO simulator_followups
             (tenant_id, message_id, recipient_id, due_at, envelope_to, report, unsubscribe_token)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (tenant_id, message_id, recipient_id) DO UPDATE SET
             due_at = excluded.due_at, leased_until = NULL, envelope_to = excluded.envelope_to,
             report = excluded.report, unsubscribe_token = excluded.unsubscribe_token",
        followup.tenant,
        followup.message,
        followup.recipient,
        followup.due_at,
        to,
        report,
        token
    );
    db.timed("simulator_followups.insert", query.execute(&db.pool)).await?;
    Ok(())
}

/// Leases due follow-ups until `until`, the earliest first, and returns them. Follow-ups that still exist at that time
/// are due again.
pub async fn claim(db: &Db, now: DateTime<Utc>, until: DateTime<Utc>, limit: i64) -> Result<Vec<FollowUp>, DbError> {
    let query = sqlx::query!(
        "WITH due AS MATERIALIZED (
             SELECT tenant_id, message_id, recipient_id FROM simulator_followups
             WHERE due_at <= $1 AND (leased_until IS NULL OR leased_until <= $1)
             ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED)
         UPDATE simulator_followups f SET leased_until = $2 FROM due
         WHERE f.tenant_id = due.tenant_id AND f.message_id = due.message_id AND f.recipient_id = due.recipient_id
         RETURNING f.tenant_id, f.message_id, f.recipient_id, f.due_at, f.envelope_to, f.report, f.unsubscribe_token",
        now,
        until,
        limit
    );
    let rows = db.timed("simulator_followups.claim", query.fetch_all(&db.pool)).await?;
    let mut claimed: Vec<FollowUp> = rows
        .into_iter()
        .filter_map(|row| {
            let content = match (row.report, row.unsubscribe_token) {
                (Some(mime), _) => Content::Report { to: row.envelope_to, mime },
                (None, token) => Content::Unsubscribe { token: token? },
            };
            Some(FollowUp {
                tenant: row.tenant_id,
                message: row.message_id,
                recipient: row.recipient_id,
                due_at: row.due_at,
                content,
            })
        })
        .collect();
    claimed.sort_by_key(|followup| followup.due_at);
    Ok(claimed)
}

/// Ends the lease of a follow-up, which is due again at once.
pub async fn release(db: &Db, followup: &FollowUp) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE simulator_followups SET leased_until = NULL
         WHERE tenant_id = $1 AND message_id = $2 AND recipient_id = $3 AND due_at = $4",
        followup.tenant,
        followup.message,
        followup.recipient,
        followup.due_at
    );
    db.timed("simulator_followups.release", query.execute(&db.pool)).await?;
    Ok(())
}

/// Ends the lease of a follow-up that failed, and makes it due at `at`.
pub async fn postpone(db: &Db, followup: &FollowUp, at: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE simulator_followups SET due_at = $5, leased_until = NULL
         WHERE tenant_id = $1 AND message_id = $2 AND recipient_id = $3 AND due_at = $4",
        followup.tenant,
        followup.message,
        followup.recipient,
        followup.due_at,
        at
    );
    db.timed("simulator_followups.postpone", query.execute(&db.pool)).await?;
    Ok(())
}

/// Deletes a follow-up that has taken effect.
pub async fn delete(db: &Db, followup: &FollowUp) -> Result<(), DbError> {
    let query = sqlx::query!(
        "DELETE FROM simulator_followups
         WHERE tenant_id = $1 AND message_id = $2 AND recipient_id = $3 AND due_at = $4",
        followup.tenant,
        followup.message,
        followup.recipient,
        followup.due_at
    );
    db.timed("simulator_followups.delete", query.execute(&db.pool)).await?;
    Ok(())
}
