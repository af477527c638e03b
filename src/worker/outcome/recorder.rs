//! Records outcomes through group commit, retrying while the database is unreachable, because a message with a lost
//! outcome would be sent again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::adaptive_limits::AdaptiveLimits;
use super::{RecordContext, attempt_metrics};
use crate::db::DbError;
use crate::db::group_commit::{self, LockTimeout};
use crate::db::queue::Finished;
use crate::domain::id::MessageId;
use crate::domain::outcome::Peer;
use crate::group_commit::{Outcomes, Recorded};
use crate::metrics::METRICS;
use crate::telemetry::RateLimitedLog;

/// Number of tasks that process recorded outcomes: one continues while the other adapts limits.
const OUTCOME_RECORDERS: usize = 2;
/// Pause between two tries of an outcome that the database refuses even without the server's reply.
const REFUSED_PAUSE: Duration = Duration::from_mins(1);
/// Pause between two tries while the database is unreachable.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Passes outcomes to group commit.
#[derive(Debug)]
pub(crate) struct OutcomeRecorder {
    outcomes: Arc<Outcomes>,
}

impl OutcomeRecorder {
    /// Starts the tasks that process recorded outcomes; they end with group commit.
    pub(crate) fn start(cx: Arc<RecordContext>, outcomes: Arc<Outcomes>, tasks: &TaskTracker) -> Self {
        let task = RecordTask {
            limits: Arc::new(AdaptiveLimits::new(cx.clone())),
            cx,
            outcomes: Arc::downgrade(&outcomes),
            tasks: tasks.clone(),
            retry_permit: Arc::new(Semaphore::new(1)),
            failed: Arc::new(RateLimitedLog::default()),
        };
        for _ in 0..OUTCOME_RECORDERS {
            tasks.spawn(task.clone().run(outcomes.recorded()));
        }
        Self { outcomes }
    }

    /// Records the outcomes of one message.
    pub(crate) fn record(&self, finished: Vec<Finished>) {
        self.outcomes.finish(finished);
    }
}

#[derive(Clone)]
struct RecordTask {
    cx: Arc<RecordContext>,
    limits: Arc<AdaptiveLimits>,
    outcomes: Weak<Outcomes>,
    tasks: TaskTracker,
    /// Has one permit: outcomes that were refused are retried one at a time, so that they never need more than one
    /// connection.
    retry_permit: Arc<Semaphore>,
    /// Limits the log: while the database is unreachable every batch fails twice a second.
    failed: Arc<RateLimitedLog>,
}

impl RecordTask {
    async fn run(self, committed: async_channel::Receiver<Recorded>) {
        while let Ok(Recorded { batch, recorded }) = committed.recv().await {
            match recorded {
                Ok(recorded) => self.process(&batch, &recorded).await,
                Err(error) if is_outage(&error) => {
                    self.note_failure(&error, batch.len());
                    tokio::time::sleep(RETRY_PAUSE).await;
                    // The `Outcomes` exist as long as anything is in flight.
                    if let Some(outcomes) = self.outcomes.upgrade() {
                        outcomes.finish(batch);
                    }
                }
                // One outcome that Postgres refuses, or whose row is locked, must not keep the others from being
                // recorded.
                Err(_) => {
                    for one in batch {
                        self.record_one([one]).await;
                    }
                }
            }
        }
    }

    /// Adapts limits to outcomes, counts those that were recorded, and releases their recipients.
    async fn process(&self, batch: &[Finished], recorded: &[bool]) {
        let stale = recorded.iter().filter(|is_recorded| !**is_recorded).count();
        if stale > 0 {
            METRICS.stale_completions.increment(stale as u64);
            tracing::warn!(
                event = "stale_outcomes",
                stale,
                "outcomes arrived after their leases had moved to another worker; ignoring them"
            );
        }
        attempt_metrics::count(&self.cx, batch, recorded);
        // Before the release, so that the next claim uses the new limits.
        self.limits.adapt(batch).await;
        self.release(batch).await;
    }

    async fn release(&self, batch: &[Finished]) {
        let leases = &self.cx.leases;
        let newer = leases.in_flight.release(batch.iter().map(|finished| &finished.claimed));
        leases.release(newer).await;
    }

    /// Records one outcome. If it is refused, a separate task retries it, so that no other outcome waits.
    async fn record_one(&self, mut one: [Finished; 1]) {
        match self.commit(&mut one).await {
            Ok(recorded) => self.process(&one, &recorded).await,
            Err(error) => drop(self.tasks.spawn(self.clone().retry(one, error))),
        }
    }

    /// Retries one outcome until it is recorded; if Postgres refuses it, without the server's reply. Its recipient must
    /// not be released before, because the message would be sent again.
    async fn retry(self, mut one: [Finished; 1], mut error: DbError) {
        let message = MessageId(one[0].claimed.message_id);
        let mut is_reduced = false;
        let recorded = loop {
            if error.is_temporary() {
                tracing::warn!(
                    event = "record_failed",
                    %error,
                    message_id = %message,
                    "failed to record an outcome; trying again"
                );
                tokio::time::sleep(RETRY_PAUSE).await;
            } else if is_reduced {
                tracing::error!(
                    event = "outcome_refused",
                    %error,
                    message_id = %message,
                    "the database refuses an outcome; trying again in a minute"
                );
                tokio::time::sleep(REFUSED_PAUSE).await;
            } else {
                tracing::error!(
                    event = "outcome_reduced",
                    %error,
                    message_id = %message,
                    "the database refuses an outcome; recording it without the server's reply"
                );
                is_reduced = true;
                one[0].conversation = None;
                if let Some(outcome) = &mut one[0].outcome {
                    outcome.reply.text = "the reply could not be recorded".into();
                    outcome.peer = Peer { is_final: outcome.peer.is_final, ..Peer::default() };
                }
            }
            // The semaphore is never closed.
            let _permit = self.retry_permit.acquire().await;
            match self.commit(&mut one).await {
                Ok(recorded) => break recorded,
                Err(again) => error = again,
            }
        };
        attempt_metrics::count(&self.cx, &one, &recorded);
        self.release(&one).await;
    }

    /// Tries until the database accepts or refuses the batch. A batch that is too slow counts as refused, because its
    /// parts may be faster, and so does a batch with a locked row, which must not delay other outcomes. Returns whether
    /// each outcome was recorded.
    async fn commit(&self, batch: &mut [Finished]) -> Result<Vec<bool>, DbError> {
        loop {
            for finished in batch.iter_mut() {
                self.cx.leases.in_flight.adopt_claim(&mut finished.claimed);
            }
            let now = self.cx.clock.now();
            match group_commit::commit(&self.cx.db, &[], batch, now, LockTimeout::Short).await.map_err(DbError::from) {
                Err(error) if is_outage(&error) => {
                    self.note_failure(&error, batch.len());
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                result => return result.map(|committed| committed.recorded),
            }
        }
    }

    fn note_failure(&self, error: &DbError, outcomes: usize) {
        if let Some(times) = self.failed.note(tokio::time::Instant::now()) {
            tracing::warn!(event = "record_failed", %error, outcomes, times, "failed to record outcomes; trying again");
        }
    }
}

/// Returns whether the database is unreachable, rather than refusing this outcome.
fn is_outage(error: &DbError) -> bool {
    error.is_temporary() && !error.is_too_slow() && !error.is_locked_out()
}
