//! InFlight outcomes to the journal, and keeps at it while the database is away: an outcome that was lost would mean a
//! second copy of a mail.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::adaptive_limits::AdaptiveLimits;
use crate::clock::SharedClock;
use crate::db::journal::{self, Patience};
use crate::db::queue::{Claimed, Finished};
use crate::db::{Db, DbError};
use crate::domain::id::MessageId;
use crate::domain::outcome::Peer;
use crate::journal::{Journal, Recorded};
use crate::telemetry::Seldom;
use crate::worker::lease::in_flight::InFlight;
use crate::worker::lease::release;

/// One goes on while the other learns.
const OUTCOME_RECORDERS: usize = 2;
/// Between two tries of an outcome that the database refuses in every form.
const PARKED: Duration = Duration::from_mins(1);
/// Between two tries while the database is away.
const PAUSE: Duration = Duration::from_millis(500);

/// InFlight outcomes to the journal.
#[derive(Debug)]
pub(crate) struct OutcomeRecorder {
    journal: Arc<Journal>,
}

impl OutcomeRecorder {
    /// Starts the tasks that see to what was recorded; they end with the journal.
    pub(crate) fn start(learner: AdaptiveLimits, journal: Arc<Journal>, tasks: &TaskTracker) -> Self {
        let learner = Arc::new(learner);
        let turn = Arc::new(Semaphore::new(1));
        let failed = Arc::new(Seldom::default());
        for _ in 0..OUTCOME_RECORDERS {
            let keeper = RecordTask {
                db: learner.db.clone(),
                clock: learner.clock.clone(),
                in_flight: learner.in_flight.clone(),
                learner: learner.clone(),
                journal: Arc::downgrade(&journal),
                tasks: tasks.clone(),
                turn: turn.clone(),
                failed: failed.clone(),
            };
            tasks.spawn(keeper.run(journal.recorded()));
        }
        let in_flight = learner.in_flight.clone();
        journal.refresh_by(Arc::new(move |row: &mut Claimed| in_flight.adopt_claim(row)));
        Self { journal }
    }

    /// Takes the outcomes of one mail.
    pub(crate) fn complete(&self, finished: Vec<Finished>) {
        self.journal.finish(finished);
    }
}

#[derive(Clone)]
struct RecordTask {
    db: Db,
    clock: SharedClock,
    in_flight: InFlight,
    learner: Arc<AdaptiveLimits>,
    journal: Weak<Journal>,
    tasks: TaskTracker,
    /// For outcomes that were not taken at once: they try one at a time, so that they never need more than one connection.
    turn: Arc<Semaphore>,
    /// Said once a minute: while the database is away every batch fails twice a second.
    failed: Arc<Seldom>,
}

impl RecordTask {
    fn note_failure(&self, error: &DbError, outcomes: usize) {
        if let Some(times) = self.failed.note(tokio::time::Instant::now()) {
            tracing::warn!(event = "record_failed", %error, outcomes, times, "failed to record outcomes; trying again");
        }
    }

    async fn run(self, recorded: async_channel::Receiver<Recorded>) {
        while let Ok(Recorded { batch, counted }) = recorded.recv().await {
            match counted {
                Ok(counted) => self.recorded(&batch, counted).await,
                Err(error) if error.is_passing() && !error.is_too_slow() && !error.is_locked_out() => {
                    self.note_failure(&error, batch.len());
                    tokio::time::sleep(PAUSE).await;
                    // It lives as long as anything is in hand.
                    if let Some(journal) = self.journal.upgrade() {
                        journal.finish(batch);
                    }
                }
                // One outcome that Postgres refuses, or that somebody else has locked, must not take its neighbours with it.
                Err(_) => {
                    for one in batch {
                        self.commit_one([one]).await;
                    }
                }
            }
        }
    }

    /// Learns from what was recorded, and lets go of it.
    async fn recorded(&self, batch: &[Finished], counted: usize) {
        if counted < batch.len() {
            let stale = batch.len() - counted;
            tracing::warn!(stale, "outcomes came after their lease had gone to another worker; they change nothing");
        }
        // Before anything is let go: the next claim knows it.
        self.learner.learn(batch).await;
        self.let_go(batch).await;
    }

    async fn let_go(&self, batch: &[Finished]) {
        let newer = self.in_flight.release(batch.iter().map(|finished| &finished.claimed));
        release::release(&self.db, &self.in_flight, newer).await;
    }

    /// Records one outcome. One that is not taken goes on in a task of its own, so that no other waits for it.
    async fn commit_one(&self, mut one: [Finished; 1]) {
        match self.persist(&mut one).await {
            Ok(counted) => self.recorded(&one, counted).await,
            Err(error) => drop(self.tasks.spawn(self.clone().insist(one, error))),
        }
    }

    /// Keeps at one outcome; where Postgres refuses it, at the same outcome in plain words. It is not to be let go before:
    /// it would be sent again.
    async fn insist(self, mut one: [Finished; 1], mut error: DbError) {
        let message = MessageId(one[0].claimed.message_id);
        let mut is_plain = false;
        loop {
            if error.is_passing() {
                tracing::warn!(%error, message_id = %message, "could not record an outcome; trying again");
                tokio::time::sleep(PAUSE).await;
            } else if is_plain {
                tracing::error!(%error, message_id = %message, "an outcome cannot be recorded; trying again in a minute");
                tokio::time::sleep(PARKED).await;
            } else {
                tracing::error!(%error, message_id = %message, "an outcome cannot be recorded as it is; recording it without its words");
                is_plain = true;
                if let Some(outcome) = &mut one[0].outcome {
                    outcome.reply.text = "the reply could not be recorded".into();
                    outcome.peer = Peer { is_final: outcome.peer.is_final, ..Peer::default() };
                }
            }
            // The semaphore is never closed: there is always a turn in the end.
            let _turn = self.turn.acquire().await;
            match self.persist(&mut one).await {
                Ok(_) => break,
                Err(again) => error = again,
            }
        }
        self.let_go(&one).await;
    }

    /// Tries until the database takes or refuses the batch. A batch that is too slow is refused: its parts may be faster,
    /// and one that somebody else has locked must not keep the others.
    async fn persist(&self, batch: &mut [Finished]) -> Result<usize, DbError> {
        loop {
            for finished in batch.iter_mut() {
                self.in_flight.adopt_claim(&mut finished.claimed);
            }
            match journal::commit(&self.db, &[], batch, self.clock.now(), Patience::Short).await.map_err(DbError::from)
            {
                Err(error) if error.is_passing() && !error.is_too_slow() && !error.is_locked_out() => {
                    self.note_failure(&error, batch.len());
                    tokio::time::sleep(PAUSE).await;
                }
                result => return result.map(|done| done.counted),
            }
        }
    }
}
