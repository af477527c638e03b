//! Group commit: messages accepted and outcomes produced while a transaction is under way go into the next one
//! together. An idle service commits at once; a busy one pays for a transaction and its `fsync` once for many messages.
//! There is one instance per process.
//!
//! Direct handoff: a worker of the same process may get new messages at once ([`DirectConsumer`]). The transaction that
//! inserts a message also leases it to the worker, which gets it from memory, without a claim and without reading it
//! back. Messages for which the worker has no capacity, and messages behind others in their lane, wait in the queue.

mod writer;

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::batcher::Batcher;
use crate::clock::SharedClock;
use crate::db::messages::insert::{Committed, MessageInsert};
use crate::db::queue::{Claimed, Finished};
use crate::db::{Db, DbError};
use crate::domain::id::RecipientId;

/// Capacity of the channel of messages that wait for a writer.
const WAITING: usize = 1_024;

/// The worker that gets new messages at once (direct handoff).
pub trait DirectConsumer: fmt::Debug + Send + Sync {
    /// Reserves capacity for the messages that it can send now, and sets itself as their `taker`. Each is then passed
    /// to [`confirm`](Self::confirm) or [`unknown`](Self::unknown) once.
    fn reserve(&self, group: &mut [MessageInsert], now: DateTime<Utc>);

    /// Reports the result of the commit for reserved messages. The reservations of recipients not in `taken` must be
    /// released.
    fn confirm(&self, offered: Vec<Confirmed>);

    /// Reports that reserved messages may or may not have been committed.
    fn unknown(&self, offered: Vec<MessageInsert>);
}

/// The result of the commit for a reserved message.
#[derive(Debug)]
pub struct Confirmed {
    /// The message.
    pub intake: MessageInsert,
    /// Recipients leased to the consumer.
    pub taken: Vec<RecipientId>,
    /// Recipients that wait in the queue.
    pub waiting: Vec<RecipientId>,
    /// Whether it carries an unsubscribe link.
    pub unsubscribe: bool,
}

/// The result of the commit for a batch of outcomes.
#[derive(Debug)]
pub struct Recorded {
    /// The outcomes of the transaction.
    pub batch: Vec<Finished>,
    /// How many were recorded.
    pub counted: Result<usize, Arc<DbError>>,
}

/// Passes messages and outcomes to the writers.
#[derive(Debug)]
pub struct GroupCommit {
    accepted: Batcher<MessageInsert, Accepted>,
    over: async_channel::Sender<Vec<Finished>>,
    recorded: async_channel::Receiver<Recorded>,
    signals: Arc<Signals>,
}

/// The result for one message.
type Accepted = Result<Committed, Arc<DbError>>;

/// Replaces an older claim of a recipient by the newest one.
type Refresh = Arc<dyn Fn(&mut Claimed) + Send + Sync>;

/// Callbacks before and after a commit.
#[derive(Default)]
struct Signals {
    refresh: OnceLock<Refresh>,
    taker: Mutex<Option<Weak<dyn DirectConsumer>>>,
    /// Notified when new messages wait in the queue.
    wake: Mutex<Vec<Weak<Notify>>>,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").field("taker", &self.taker).field("wake", &self.wake).finish_non_exhaustive()
    }
}

impl Signals {
    /// Updates outcomes to the newest claims: a worker may have claimed a recipient again that it still has in flight,
    /// and an outcome with the older claim would change nothing.
    fn refresh(&self, over: &mut [Finished]) {
        if let Some(refresh) = self.refresh.get() {
            for finished in over {
                refresh(&mut finished.claimed);
            }
        }
    }

    fn taker(&self) -> Option<Arc<dyn DirectConsumer>> {
        self.taker.lock().as_ref()?.upgrade()
    }

    fn wake(&self) {
        let wake = self.wake.lock();
        wake.iter().filter_map(Weak::upgrade).for_each(|wake| wake.notify_one());
    }
}

impl GroupCommit {
    /// Starts the writers; they end when the group commit is dropped and everything pending is committed.
    pub fn start(db: &Db, clock: &SharedClock) -> Arc<Self> {
        let (accepted, intakes) = Batcher::new(WAITING, &writer::BATCH_LIMIT);
        let (over, outcomes) = async_channel::unbounded();
        let (record, recorded) = async_channel::unbounded();
        let signals = Arc::new(Signals::default());
        writer::start(&writer::WriterContext {
            db: db.clone(),
            clock: clock.clone(),
            intakes,
            outcomes,
            recorded: record,
            signals: signals.clone(),
        });
        Arc::new(Self { accepted, over, recorded, signals })
    }

    /// Registers notifiers for new messages in the queue, held weakly.
    pub fn tell(&self, wake: &[Arc<Notify>]) {
        self.signals.wake.lock().extend(wake.iter().map(Arc::downgrade));
    }

    /// Registers the worker that is offered new messages, held weakly.
    pub fn enlist(&self, taker: Weak<dyn DirectConsumer>) {
        *self.signals.taker.lock() = Some(taker);
    }

    /// Returns whether a worker is registered for direct handoff.
    pub fn has_taker(&self) -> bool {
        self.signals.taker().is_some()
    }

    /// Sets the function that updates outcomes to the newest claims just before they are committed.
    pub fn refresh_by(&self, refresh: Arc<dyn Fn(&mut Claimed) + Send + Sync>) {
        // There is only one worker per process.
        let _ = self.signals.refresh.set(refresh);
    }

    /// Commits a message. Returns when it is committed or the transaction has failed.
    pub async fn accept(&self, intake: MessageInsert) -> Result<Committed, Arc<DbError>> {
        let committed = self.accepted.submit(intake).await;
        committed.ok_or_else(|| Arc::new(DbError::closed("group_commit.messages")))?
    }

    /// Submits the outcomes of one message. [`recorded`](Self::recorded) reports the result.
    pub fn finish(&self, finished: Vec<Finished>) {
        // The writers live as long as this sender, and the channel is unbounded: the callers limit the number of
        // outcomes.
        let _ = self.over.try_send(finished);
    }

    /// Returns the receiver of recorded batches. It closes when the group commit ends.
    pub fn recorded(&self) -> async_channel::Receiver<Recorded> {
        self.recorded.clone()
    }
}
