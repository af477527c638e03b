//! The transaction of a group commit: stores accepted messages and outcomes of attempts, with their events. Both go
//! into one transaction where possible: it costs one `fsync` regardless of its size, and event numbering serialises
//! commits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::messages::insert::batch::{self, BatchCommitted, BatchInsert};
use super::messages::insert::{self, Committed, MessageInsert};
use super::pool::restore_gate::Witness;
use super::queue::{self, Finished};
use super::{Db, DbError, events};

/// The result of a group commit.
#[derive(Debug)]
pub struct Done {
    /// The result for each message.
    pub accepted: Vec<Committed>,
    /// Whether each outcome was recorded. Outcomes with a stale lease are not.
    pub recorded: Vec<bool>,
    /// How long it took to append the events, mostly waiting for the lock of the event counter.
    pub waited: Duration,
}

/// A failed transaction.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct CommitError {
    /// The cause.
    pub error: DbError,
    /// Whether the transaction may have been committed, or may still be: COMMIT was sent, and the reply is missing.
    pub may_be_done: bool,
}

impl From<CommitError> for DbError {
    fn from(failed: CommitError) -> Self {
        failed.error
    }
}

/// How long a transaction waits for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockTimeout {
    /// One second, because other work waits for the transaction. The caller retries it.
    Short,
    /// The time limit of a database call.
    Long,
}

impl LockTimeout {
    /// Returns the statements that begin the transaction, in one round trip. The commit is synchronous regardless of
    /// the session's settings.
    fn begin(self) -> &'static str {
        match self {
            Self::Short => "BEGIN; SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '1s'",
            Self::Long => "BEGIN; SET LOCAL synchronous_commit = on",
        }
    }
}

/// Commits messages and outcomes, all or nothing. No two of the messages may have the same idempotency key.
pub async fn commit(
    db: &Db,
    accepted: &[MessageInsert],
    outcomes: &[Finished],
    now: DateTime<Utc>,
    lock_timeout: LockTimeout,
) -> Result<Done, CommitError> {
    let name = match (accepted, outcomes) {
        ([], _) => "queue.finish",
        (_, []) => "group_commit.messages",
        _ => "group_commit.both",
    };
    let is_committing = AtomicBool::new(false);
    db.timed(name, async {
        let mut tx = db.pool.begin_hot(lock_timeout.begin()).await?;
        let stored = insert::store(&mut tx, accepted, now).await?;
        let ended = queue::end(&mut tx, outcomes, now).await?;
        queue::ready_at::lower(&mut tx, stored.waiting.iter().copied().chain(ended.retries())).await?;
        let started = Instant::now();
        events::append(&mut tx, now, stored.events().chain(ended.events()).collect()).await?;
        let waited = started.elapsed();
        is_committing.store(true, Ordering::Relaxed);
        tx.commit().await?;
        Ok(Done { accepted: stored.results, recorded: ended.is_recorded, waited })
    })
    .await
    .inspect(|done| {
        if let (Some(gate), Some(witness)) = (&db.restore_gate, witness(accepted, outcomes, done)) {
            gate.note_commit(witness);
        }
    })
    .map_err(|error| CommitError { may_be_done: is_committing.load(Ordering::Relaxed) && error.may_be_done(), error })
}

/// Returns an event by which the restore guard recognises the transaction.
fn witness(accepted: &[MessageInsert], outcomes: &[Finished], done: &Done) -> Option<Witness> {
    let recorded = outcomes.iter().zip(&done.recorded).rev().filter(|(_, is_recorded)| **is_recorded);
    let attempt = recorded.map(|(finished, _)| finished).find_map(|finished| {
        let claimed = &finished.claimed;
        Some(Witness {
            tenant: claimed.tenant_id,
            message: claimed.message_id,
            recipient: Some(claimed.recipient_id),
            attempt: Some(finished.attempt_number()?),
        })
    });
    attempt.or_else(|| {
        let inserted = accepted.iter().zip(&done.accepted).rev();
        let mut inserted = inserted.filter(|(_, result)| matches!(result, Committed::New { .. }));
        let (insert, _) = inserted.next()?;
        Some(Witness { tenant: insert.tenant.0, message: insert.message.id.0, recipient: None, attempt: None })
    })
}

/// Commits the batches whose idempotency keys are free, each as a whole. If this fails, none of them is committed.
pub async fn commit_batches(
    db: &Db,
    batches: &[BatchInsert],
    now: DateTime<Utc>,
    lock_timeout: LockTimeout,
) -> Result<Vec<BatchCommitted>, CommitError> {
    let is_committing = AtomicBool::new(false);
    db.timed("group_commit.batches", async {
        let mut tx = db.pool.begin_hot(lock_timeout.begin()).await?;
        let (stored, is_free) = batch::store_batches(&mut tx, batches, now).await?;
        queue::ready_at::lower(&mut tx, stored.waiting.iter().copied()).await?;
        events::append(&mut tx, now, stored.events().collect()).await?;
        is_committing.store(true, Ordering::Relaxed);
        tx.commit().await?;
        Ok(batch::results_by_batch(batches, is_free, stored.results))
    })
    .await
    .map_err(|error| CommitError { may_be_done: is_committing.load(Ordering::Relaxed) && error.may_be_done(), error })
}
