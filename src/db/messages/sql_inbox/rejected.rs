//! Rows of `sql_inbox` that were refused, and what becomes of a row. A refused row has the event `message.rejected`, and is kept
//! for an operator.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::db::events::{self, NewEvent};
use crate::db::{Db, DbError};
use crate::domain::api::fault::Fault;
use crate::domain::id::{MessageId, TenantId};
use crate::domain::outcome::{Outcome, Peer, Reply, Stage, Verdict};

/// Rows that one transaction refuses.
const PAGE: i64 = 1_000;
/// Faults in the text of an event.
const MAX_FAULTS: usize = 5;

/// A message that is refused, and why.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The message.
    pub message: MessageId,
    /// Its faults.
    pub faults: Vec<Fault>,
}

/// Marks rows of a tenant as refused, and appends their events. Returns the messages whose rows it has marked: not those that are no longer
/// claimed until `claimed_until`, because another process has claimed them, or an erasure has changed them.
pub async fn refuse(
    db: &Db,
    tenant: TenantId,
    claimed_until: DateTime<Utc>,
    refusals: &[Refusal],
    now: DateTime<Utc>,
) -> Result<HashSet<MessageId>, DbError> {
    if refusals.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<Uuid> = refusals.iter().map(|refusal| refusal.message.0).collect();
    let errors: Vec<Value> = refusals.iter().map(|refusal| serde_json::json!(refusal.faults)).collect();
    db.timed("sql_inbox.refuse", async {
        let mut tx = db.pool.begin().await?;
        let refused = sqlx::query_scalar!(
            "WITH locked AS MATERIALIZED (
                 SELECT id FROM sql_inbox
                 WHERE tenant_id = $1 AND id = ANY ($2) AND claimed_until = $5 AND refused_at IS NULL
                 ORDER BY id FOR UPDATE)
             UPDATE sql_inbox i SET refused_at = $3, errors = u.errors
             FROM locked JOIN unnest($2::uuid[], $4::jsonb[]) AS u (id, errors) ON u.id = locked.id
             WHERE i.tenant_id = $1 AND i.id = locked.id
             RETURNING i.id",
            tenant.0,
            &ids,
            now,
            &errors,
            claimed_until
        )
        .fetch_all(&mut *tx)
        .await?;
        let refused: HashSet<MessageId> = refused.into_iter().map(MessageId).collect();
        let marked = refusals.iter().filter(|refusal| refused.contains(&refusal.message));
        let outcomes: Vec<(MessageId, Outcome)> =
            marked.map(|refusal| (refusal.message, outcome(&refusal.faults))).collect();
        let events = outcomes.iter().map(|(message, outcome)| NewEvent::rejected(tenant, *message, outcome));
        events::append(&mut tx, now, events.collect()).await?;
        tx.commit().await?;
        Ok(refused)
    })
    .await
}

/// Marks rows as refused that were sent before `sent_before`, due before `due_before` if it is given, and in one of the
/// streams if some are given: after a restore, they may have been sent already. Returns their number.
pub async fn refuse_before(
    db: &Db,
    sent_before: DateTime<Utc>,
    due_before: Option<DateTime<Utc>>,
    streams: Option<&[String]>,
    faults: &[Fault],
    now: DateTime<Utc>,
) -> Result<u64, DbError> {
    let mut count = 0;
    loop {
        let page = db.timed("sql_inbox.refuse_before", async {
            let mut tx = db.pool.begin().await?;
            let refused = sqlx::query!(
                "WITH locked AS MATERIALIZED (
                     SELECT i.tenant_id, i.id FROM sql_inbox i JOIN tenants t ON t.id = i.tenant_id AND t.deleting_at IS NULL
                     WHERE i.refused_at IS NULL AND i.created_at < $1
                       AND ($2::timestamptz IS NULL
                            OR coalesce((i.payload ->> 'scheduled_at')::timestamptz, i.created_at) < $2)
                       AND ($3::text[] IS NULL OR coalesce(i.payload ->> 'stream', 'transactional') = ANY ($3))
                     ORDER BY i.tenant_id, i.id LIMIT $6 FOR UPDATE OF i)
                 UPDATE sql_inbox i SET refused_at = $5, errors = $4 FROM locked l
                 WHERE i.tenant_id = l.tenant_id AND i.id = l.id
                 RETURNING i.tenant_id, i.id",
                sent_before,
                due_before,
                streams,
                serde_json::json!(faults),
                now,
                PAGE
            )
            .fetch_all(&mut *tx)
            .await?;
            let mut refused: Vec<(Uuid, Uuid)> = refused.into_iter().map(|row| (row.tenant_id, row.id)).collect();
            refused.sort_unstable();
            let outcome = outcome(faults);
            let event = |&(tenant, message): &(Uuid, Uuid)| NewEvent::rejected(TenantId(tenant), MessageId(message), &outcome);
            events::append(&mut tx, now, refused.iter().map(event).collect()).await?;
            tx.commit().await?;
            Ok(refused.len())
        });
        let page = page.await?;
        count += page as u64;
        if i64::try_from(page).is_ok_and(|page| page < PAGE) {
            return Ok(count);
        }
    }
}

/// Returns the outcome that has the reason of a refusal, for its event.
fn outcome(faults: &[Fault]) -> Outcome {
    Outcome {
        verdict: Verdict::Permanent,
        reply: Reply::local_error(reason(faults)),
        peer: Peer::default(),
        duration: Duration::ZERO,
        stage: Stage::Connect,
    }
}

/// Returns faults as one text.
fn reason(faults: &[Fault]) -> String {
    let text = |fault: &Fault| match fault.pointer.as_str() {
        "" => fault.message.clone(),
        pointer => format!("{pointer}: {}", fault.message),
    };
    faults.iter().take(MAX_FAULTS).map(text).collect::<Vec<_>>().join("; ")
}

/// The state of a row.
#[derive(Debug, Clone)]
pub struct StateRow {
    /// The sender's address; `None` if the template has the sender.
    pub from_address: Option<String>,
    /// `quota`, `tenant`, or `None`.
    pub waits_for: Option<String>,
    /// Number of recipients, if it waits for a quota.
    pub recipients: Option<i32>,
    /// Maximum number of recipients of the tenant per day.
    pub recipients_per_day: Option<i32>,
    /// Whether the tenant is suspended.
    pub is_suspended: bool,
    /// When it was refused.
    pub refused_at: Option<DateTime<Utc>>,
    /// Why it was refused, `[{"pointer", "code", "message"}]`.
    pub errors: Option<Value>,
}

/// Returns the state of a row.
pub async fn state(db: &Db, tenant: TenantId, message: MessageId) -> Result<Option<StateRow>, DbError> {
    let query = sqlx::query_as!(
        StateRow,
        r#"SELECT sql_send_email(i.payload -> 'from') AS from_address, i.waits_for, i.recipients, t.recipients_per_day,
                  t.suspended_at IS NOT NULL AS "is_suspended!", i.refused_at, i.errors
           FROM sql_inbox i JOIN tenants t ON t.id = i.tenant_id
           WHERE i.tenant_id = $1 AND i.id = $2"#,
        tenant.0,
        message.0
    );
    db.timed("sql_inbox.state", query.fetch_optional(&db.pool)).await
}

/// A refused row.
#[derive(Debug, Clone)]
pub struct RejectedRow {
    /// The id of the message.
    pub id: Uuid,
    /// When the application called the function.
    pub created_at: DateTime<Utc>,
    /// When it was refused.
    pub refused_at: DateTime<Utc>,
    /// The role of the database server that sent it.
    pub role: String,
    /// The stream.
    pub stream: String,
    /// The sender's address; `None` if the template has the sender.
    pub from_address: Option<String>,
    /// The subject; `None` if the template has it.
    pub subject: Option<String>,
    /// The metadata.
    pub metadata: Value,
    /// Why it was refused, `[{"pointer", "code", "message"}]`.
    pub errors: Value,
}

/// Returns a page of refused rows, newest first, starting after `after`. With `sender_domains`, only messages from senders in
/// these domains.
pub async fn page(
    db: &Db,
    tenant: TenantId,
    sender_domains: Option<&[String]>,
    after: Option<MessageId>,
    limit: i64,
) -> Result<Vec<RejectedRow>, DbError> {
    let query = sqlx::query_as!(
        RejectedRow,
        r#"SELECT id, created_at, refused_at AS "refused_at!", role::text AS "role!", stream,
                  sql_send_email(payload -> 'from') AS from_address, payload ->> 'subject' AS subject,
                  coalesce(payload -> 'metadata', '{}') AS "metadata!", errors AS "errors!"
           FROM sql_inbox
           WHERE tenant_id = $1 AND refused_at IS NOT NULL AND ($2::uuid IS NULL OR id < $2)
             AND ($3::text[] IS NULL OR lower(split_part(sql_send_email(payload -> 'from'), '@', -1)) = ANY ($3))
           ORDER BY id DESC LIMIT $4"#,
        tenant.0,
        after.map(|id| id.0),
        sender_domains,
        limit
    );
    db.timed("sql_inbox.rejected", query.fetch_all(&db.pool)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_names_the_fields() {
        let fault = |pointer: &str| Fault { pointer: pointer.into(), code: "required", message: "is required".into() };
        assert_eq!(reason(&[fault(""), fault("/to/0")]), "is required; /to/0: is required");
    }
}
