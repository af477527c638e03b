//! The table `queue`: claims due recipients and records the result of attempts. Only `end` finishes an attempt: it
//! writes the recipient's state (`record`) and, in the same transaction, its event, fenced by the lease.

pub mod attempt_markers;
mod claim;
pub mod conversations;
mod fence;
pub(super) mod ready_at;
mod record;
mod relayed;

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::events::{self, NewEvent};
use super::pool::scan::{SCAN_LIMIT, allow_scan};
use super::suppressions;
use super::{Db, DbError};
use crate::domain::bounce::{self, Bounce, Source};
use crate::domain::delivery::conversation::Conversation;
use crate::domain::delivery::{Status, Transition};
use crate::domain::id::{MessageId, RecipientId, RecipientKey, TenantId};
use crate::domain::outcome::{Outcome, Stage};
use crate::domain::suppression::Reason;

pub use claim::claim;
pub(super) use claim::{lease_due, lease_rest_of_messages};
pub(super) use fence::Fence;
use ready_at::DueRow;
use record::record_attempts;

/// Number of recipients that a claim may lease from a lane.
#[derive(Debug, Clone, Copy)]
pub struct ClaimQuota {
    /// `lanes.id`.
    pub lane: i64,
    /// Maximum number of recipients.
    pub rows: i32,
    /// Lower bound of due times in the lane, so that the claim skips dead index entries.
    pub from: DateTime<Utc>,
}

/// A recipient leased to a worker.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The message.
    pub message_id: Uuid,
    /// The recipient.
    pub recipient_id: Uuid,
    /// The tenant.
    pub tenant_id: Uuid,
    /// The lane.
    pub lane_id: i64,
    /// Number of earlier attempts.
    pub attempts: i16,
    /// Number of worker crashes that the recipient may have caused.
    pub crashes: i16,
    /// When the first attempt was due.
    pub first_due_at: DateTime<Utc>,
    /// The worker that has leased it.
    pub lease: Uuid,
    /// Number of the claim. `lease` and `claims` together are the fence: an outcome is recorded only while the row
    /// still has both values.
    pub claims: i32,
}

impl Claimed {
    /// Returns the recipient's key.
    pub(super) fn recipient(&self) -> RecipientKey {
        let (tenant, message) = (TenantId(self.tenant_id), MessageId(self.message_id));
        RecipientKey { tenant, message, recipient: RecipientId(self.recipient_id) }
    }

    /// Returns the primary key of the row.
    pub fn key(&self) -> (Uuid, Uuid) {
        (self.message_id, self.recipient_id)
    }
}

/// A finished attempt.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The claimed recipient.
    pub claimed: Claimed,
    /// The outcome; `None` if the recipient expired without an attempt. For a recipient that was suppressed without an
    /// attempt, it names the suppression.
    pub outcome: Option<Outcome>,
    /// The state change that follows.
    pub transition: Transition,
    /// Start of the attempt.
    pub started_at: DateTime<Utc>,
    /// Whether it was the only recipient of its envelope, so that a reply about the message is about this recipient.
    pub is_alone: bool,
    /// Whether its message passes a received message on, or may do so: then the sender gets a report of a failure, and a missing
    /// mailbox is not suppressed.
    pub may_be_relayed: bool,
    /// The SMTP conversation of the attempt, if it is kept.
    pub conversation: Option<Arc<Conversation>>,
}

impl Finished {
    /// Returns the outcome of the attempt, if one was made.
    fn attempt(&self) -> Option<&Outcome> {
        self.outcome.as_ref().filter(|_| self.transition != Transition::End(Status::Suppressed))
    }

    fn attempts(&self) -> i16 {
        if self.attempt().is_some() { self.claimed.attempts.saturating_add(1) } else { self.claimed.attempts }
    }

    /// Returns the recipient to suppress, if the reply reports that the mailbox does not exist. A reply to RCPT is
    /// about one recipient. A reply to the message body may be about any accepted recipient, and a reply to MAIL is
    /// about none.
    fn missing_mailbox(&self) -> Option<RecipientKey> {
        let is_about_recipient = match self.outcome.as_ref()?.stage {
            Stage::Rcpt => true,
            Stage::Data | Stage::FinalDot => self.is_alone,
            Stage::Connect | Stage::Session | Stage::Mail => false,
        };
        let is_own = is_about_recipient && !self.may_be_relayed;
        (is_own && self.bounce()?.judgement.suppresses()).then(|| self.claimed.recipient())
    }

    /// Returns the number of the attempt, if one was made.
    pub(super) fn attempt_number(&self) -> Option<i16> {
        self.attempt().map(|_| self.attempts())
    }

    fn event(&self) -> NewEvent<'_> {
        let attempt = self.attempt_number();
        let outcome = self.outcome.as_ref();
        NewEvent::transition(self.claimed.recipient(), self.transition, attempt, outcome, self.bounce())
    }

    /// Returns the classification of the bounce, if the recipient bounced.
    fn bounce(&self) -> Option<Bounce> {
        let is_bounce = self.transition.status() == Status::Bounced;
        let reply = &self.outcome.as_ref().filter(|_| is_bounce)?.reply;
        Some(Bounce { judgement: bounce::judge(reply), source: Source::Smtp })
    }
}

/// Attempts finished by a transaction that has not yet updated `ready_at` and appended the events.
#[derive(Debug)]
pub(super) struct Ended<'a> {
    /// The attempts that were recorded, without those whose lease was stale.
    recorded: Vec<&'a Finished>,
    /// Whether each attempt was recorded.
    pub is_recorded: Vec<bool>,
}

impl Ended<'_> {
    /// Returns the recipients that wait for another attempt.
    pub fn retries(&self) -> impl Iterator<Item = DueRow> {
        self.recorded
            .iter()
            .filter_map(|f| f.transition.next_attempt_at().map(|due_at| DueRow { lane: f.claimed.lane_id, due_at }))
    }

    /// Returns the events.
    pub fn events(&self) -> impl Iterator<Item = NewEvent<'_>> {
        self.recorded.iter().map(|finished| finished.event())
    }
}

/// Finishes these attempts, updates `ready_at` and appends the events, at the end of a transaction. Returns how many
/// attempts were recorded.
pub(super) async fn conclude(
    connection: &mut PgConnection,
    batch: &[Finished],
    now: DateTime<Utc>,
) -> Result<usize, sqlx::Error> {
    let ended = end(connection, batch, now).await?;
    ready_at::lower(connection, ended.retries()).await?;
    events::append(connection, now, ended.events().collect()).await?;
    Ok(ended.recorded.len())
}

/// Finishes these attempts. The caller must then lower the lanes' `ready_at` and append the events, in this order.
pub(super) async fn end<'a>(
    connection: &mut PgConnection,
    batch: &'a [Finished],
    now: DateTime<Utc>,
) -> Result<Ended<'a>, sqlx::Error> {
    if batch.is_empty() {
        return Ok(Ended { recorded: Vec::new(), is_recorded: Vec::new() });
    }
    let still_leased = record_attempts(connection, batch, now).await?;
    let is_recorded =
        |f: &Finished| still_leased.contains(&(f.claimed.message_id, f.claimed.recipient_id, f.claimed.claims));
    let is_recorded: Vec<bool> = batch.iter().map(is_recorded).collect();
    let recorded = batch.iter().zip(&is_recorded).filter(|(_, is_recorded)| **is_recorded);
    let recorded: Vec<&Finished> = recorded.map(|(finished, _)| finished).collect();
    conversations::insert(connection, &recorded, now).await?;
    relayed::mark_failed(connection, &recorded, now).await?;
    let missing: Vec<RecipientKey> = recorded.iter().filter_map(|finished| finished.missing_mailbox()).collect();
    suppressions::add_recipients(connection, Reason::HardBounce, &missing, now).await?;
    Ok(Ended { recorded, is_recorded })
}

/// A new due time for claimed recipients that were not attempted, and the reason.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rescheduled<'a> {
    /// The new due time; `None` leaves the current one.
    pub until: Option<DateTime<Utc>>,
    /// Why the message could not be prepared, and the current time. The time is recorded unless that of an earlier
    /// failure is; `None` leaves the recorded error.
    pub problem: Option<(&'a str, DateTime<Utc>)>,
}

/// Releases claims without an attempt, with a new due time.
pub async fn reschedule(db: &Db, claimed: &[Claimed], to: Rescheduled<'_>) -> Result<(), DbError> {
    let claim = Fence::new(claimed.iter());
    db.timed("queue.reschedule", async {
        let mut tx = db.pool.begin().await?;
        let released = sqlx::query_as!(
            DueRow,
            "UPDATE queue SET lease = NULL, begun = false, data_started = false, due_at = coalesce($5, queue.due_at),
                 preparation_error = coalesce($6, preparation_error),
                 preparation_failed_at = coalesce(preparation_failed_at, $7)
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[]) AS u (message_id, recipient_id, lease, claims)
             WHERE queue.message_id = u.message_id AND queue.recipient_id = u.recipient_id
               AND queue.lease = u.lease AND queue.claims = u.claims
             RETURNING queue.lane_id AS lane, queue.due_at",
            &claim.message_id,
            &claim.recipient_id,
            &claim.lease,
            &claim.claims,
            to.until,
            to.problem.map(|(error, _)| error),
            to.problem.map(|(_, at)| at)
        )
        .fetch_all(&mut *tx)
        .await?;
        ready_at::lower(&mut tx, released).await?;
        tx.commit().await
    })
    .await
}

/// Returns all recipients leased to a worker. Scans the whole queue, so call it rarely.
pub async fn leased(db: &Db, worker: Uuid) -> Result<Vec<Claimed>, DbError> {
    db.timed_for(SCAN_LIMIT, "queue.leased", async {
        let mut tx = db.pool.begin().await?;
        allow_scan(&mut tx).await?;
        let rows = sqlx::query_as!(
            Claimed,
            r#"SELECT message_id, recipient_id, tenant_id, lane_id, attempts, crashes, first_due_at, lease AS "lease!", claims
               FROM queue WHERE lease = $1"#,
            worker
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(rows)
    })
    .await
}

/// Returns the recipients whose claims are still valid.
pub async fn still_leased(db: &Db, claimed: &[Claimed]) -> Result<HashSet<Uuid>, DbError> {
    let claim = Fence::new(claimed.iter());
    let query = sqlx::query_scalar!(
        r#"SELECT queue.recipient_id
           FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[]) AS u (message_id, recipient_id, lease, claims)
           JOIN queue ON queue.message_id = u.message_id AND queue.recipient_id = u.recipient_id
                AND queue.lease = u.lease AND queue.claims = u.claims"#,
        &claim.message_id,
        &claim.recipient_id,
        &claim.lease,
        &claim.claims
    );
    db.timed("queue.still_leased", query.fetch_all(&db.pool)).await.map(|ids| ids.into_iter().collect())
}

/// Holds claimed recipients for an operator, with a reason.
pub async fn hold(db: &Db, claimed: &[Claimed], reason: &str) -> Result<(), DbError> {
    let claim = Fence::new(claimed.iter());
    let query = sqlx::query!(
        "UPDATE queue SET lease = NULL, due_at = 'infinity', held = $5, begun = false, data_started = false
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[]) AS u (message_id, recipient_id, lease, claims)
         WHERE queue.message_id = u.message_id AND queue.recipient_id = u.recipient_id
           AND queue.lease = u.lease AND queue.claims = u.claims",
        &claim.message_id,
        &claim.recipient_id,
        &claim.lease,
        &claim.claims,
        reason
    );
    db.timed("queue.hold", query.execute(&db.pool)).await.map(|_| ())
}

/// Returns whether the queue has more than 10,000 rows. With such a backlog, most of the newest messages are in it.
pub(in crate::db) async fn has_backlog(db: &Db) -> Result<bool, DbError> {
    let query =
        sqlx::query_scalar!(r#"SELECT count(*) > 10000 AS "has!" FROM (SELECT 1 FROM queue LIMIT 10001) AS waiting"#);
    db.timed("queue.has_backlog", query.fetch_one(&db.pool)).await
}
