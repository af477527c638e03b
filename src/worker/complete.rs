//! Commits outcomes in batches, and keeps at it while the database is away: an outcome that was lost would mean a
//! second copy of a mail.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::give_back;
use super::hands::Hands;
use super::learn::Learner;
use crate::clock::SharedClock;
use crate::db::queue::{self, Finished};
use crate::db::{Db, DbError};
use crate::domain::id::MessageId;
use crate::domain::outcome::Peer;

/// Outcomes a transaction.
const BATCH: usize = 256;
/// A second transaction fills the time the first waits for its `fsync`.
const WRITERS: usize = 2;
/// Between two tries of an outcome that the database refuses in every form.
const PARKED: Duration = Duration::from_mins(1);
/// Between two tries while the database is away.
const PAUSE: Duration = Duration::from_millis(500);

/// Hands outcomes to the writers.
#[derive(Debug)]
pub(super) struct Completer {
    sender: async_channel::Sender<Vec<Finished>>,
}

impl Completer {
    /// Starts the writers; they end when the completer is dropped.
    pub(super) fn start(learner: Learner, tasks: &TaskTracker) -> Self {
        let learner = Arc::new(learner);
        let (sender, receiver) = async_channel::unbounded();
        for _ in 0..WRITERS {
            let writer = Writer {
                db: learner.db.clone(),
                clock: learner.clock.clone(),
                hands: learner.hands.clone(),
                learner: learner.clone(),
                receiver: receiver.clone(),
            };
            tasks.spawn(writer.run());
        }
        Self { sender }
    }

    /// Takes the outcomes of one mail.
    pub(super) fn complete(&self, finished: Vec<Finished>) {
        // The writers live as long as this sender does, and the channel has no bound: hands has.
        let _ = self.sender.try_send(finished);
    }
}

struct Writer {
    db: Db,
    clock: SharedClock,
    hands: Hands,
    learner: Arc<Learner>,
    receiver: async_channel::Receiver<Vec<Finished>>,
}

impl Writer {
    async fn run(self) {
        while let Ok(mut batch) = self.receiver.recv().await {
            while batch.len() < BATCH {
                let Ok(more) = self.receiver.try_recv() else { break };
                batch.extend(more);
            }
            let recorded = self.commit(&mut batch).await;
            if recorded {
                // Before anything is let go: the next claim knows it.
                self.learner.learn(&batch).await;
                let newer = self.hands.let_go(batch.iter().map(|finished| &finished.claimed));
                give_back::release(&self.db, &self.hands, newer).await;
            }
        }
    }

    /// Records a batch. Answers whether that was done at once; else each was recorded and let go by itself.
    async fn commit(&self, batch: &mut [Finished]) -> bool {
        let Ok(counted) = self.persist(batch).await else {
            // One outcome that Postgres refuses must not take its neighbours with it.
            for one in batch {
                self.commit_one(one).await;
            }
            return false;
        };
        if counted < batch.len() {
            let stale = batch.len() - counted;
            tracing::warn!(stale, "outcomes came after their lease had gone to another worker; they change nothing");
        }
        true
    }

    /// Records one outcome and lets go of it; where Postgres refuses it, the same outcome in plain words.
    async fn commit_one(&self, finished: &mut Finished) {
        if let Err(error) = self.persist(std::slice::from_mut(finished)).await {
            let message = MessageId(finished.claimed.message_id);
            tracing::error!(%error, %message, "an outcome cannot be recorded as it is; recording it without its words");
            if let Some(outcome) = &mut finished.outcome {
                outcome.reply.text = "the reply could not be recorded".into();
                outcome.peer = Peer { is_final: outcome.peer.is_final, ..Peer::default() };
            }
            while let Err(error) = self.persist(std::slice::from_mut(finished)).await {
                // Not to be let go: it would be sent again.
                tracing::error!(%error, %message, "an outcome cannot be recorded; trying again in a minute");
                tokio::time::sleep(PARKED).await;
            }
        }
        let newer = self.hands.let_go(std::iter::once(&finished.claimed));
        give_back::release(&self.db, &self.hands, newer).await;
    }

    /// Tries until the database takes or refuses the batch. A batch that is too slow is refused: its parts may be faster.
    async fn persist(&self, batch: &mut [Finished]) -> Result<usize, DbError> {
        loop {
            for finished in batch.iter_mut() {
                self.hands.refresh(&mut finished.claimed);
            }
            match queue::finish(&self.db, batch, self.clock.now()).await {
                Err(error) if error.is_passing() && (batch.len() == 1 || !error.is_too_slow()) => {
                    tracing::warn!(%error, outcomes = batch.len(), "could not record outcomes; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }
}
