//! The transactions that mail goes through: what was accepted becomes ours, and what came of attempts becomes known, both with
//! their events. Together where both are there: a transaction waits for the disk once, however much is in it, and all of
//! them line up for their event numbers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::messages::insert::{self, Committed, MessageInsert};
use super::queue::{self, Finished};
use super::{Db, DbError, events};

/// What was committed.
#[derive(Debug)]
pub struct Done {
    /// What became of each message.
    pub accepted: Vec<Committed>,
    /// How many of the outcomes counted: those whose lease another has taken change nothing.
    pub counted: usize,
    /// How long it waited in line for its event numbers.
    pub waited: Duration,
}

/// A transaction that failed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct CommitError {
    /// Why.
    pub error: DbError,
    /// Whether it may have been committed, or may yet be, and only the answer is missing. Before COMMIT is sent it cannot be.
    pub may_be_done: bool,
}

impl From<CommitError> for DbError {
    fn from(failed: CommitError) -> Self {
        failed.error
    }
}

/// How long a transaction waits for what somebody else has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A second: others wait behind it, and what it is about is tried again by itself.
    Short,
    /// As long as a call may take.
    Long,
}

/// Commits messages and outcomes, all or nothing. No two messages may share an idempotency key.
pub async fn commit(
    db: &Db,
    accepted: &[MessageInsert],
    over: &[Finished],
    now: DateTime<Utc>,
    patience: Patience,
) -> Result<Done, CommitError> {
    let name = match (accepted, over) {
        ([], _) => "queue.finish",
        (_, []) => "intake.commit",
        _ => "journal.commit",
    };
    // One way to the server and back. A commit waits for the disk whatever the session has kept of its settings.
    let begin = match patience {
        Patience::Short => "BEGIN; SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '1s'",
        Patience::Long => "BEGIN; SET LOCAL synchronous_commit = on",
    };
    let is_committing = AtomicBool::new(false);
    db.timed(name, async {
        let mut tx = db.pool.begin_hot(begin).await?;
        let stored = insert::store(&mut tx, accepted, now).await?;
        let ended = queue::end(&mut tx, over, now).await?;
        queue::ready_at::lower(&mut tx, stored.waiting.iter().copied().chain(ended.retries())).await?;
        let ready = Instant::now();
        events::append(&mut tx, now, stored.events().chain(ended.events()).collect()).await?;
        let waited = ready.elapsed();
        is_committing.store(true, Ordering::Relaxed);
        tx.commit().await?;
        Ok(Done { accepted: stored.results, counted: ended.counted.len(), waited })
    })
    .await
    .map_err(|error| CommitError { may_be_done: is_committing.load(Ordering::Relaxed) && error.may_be_done(), error })
}
