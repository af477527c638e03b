//! Group commit: whatever has been accepted, and whatever has come of attempts, while a transaction was under way goes into the
//! next one together. An idle service commits at once; a busy one pays for a transaction and its `fsync` once for many
//! mails. One a process.
//!
//! A worker of the same process may have new mail at once ([`DirectConsumer`]): it is leased to it by the very transaction that makes it
//! ours, and handed over in memory, without a claim and without being read again. What the taker has no hands for, and
//! what other mail of its lane waits before, waits in the queue.

mod writer;

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, oneshot};

use crate::clock::SharedClock;
use crate::db::messages::insert::{Committed, MessageInsert};
use crate::db::queue::{Claimed, Finished};
use crate::db::{Db, DbError};
use crate::domain::id::RecipientId;

/// Messages that may wait for a writer before others wait to be let in.
const WAITING: usize = 1_024;

/// Who has new mail at once.
pub trait DirectConsumer: fmt::Debug + Send + Sync {
    /// Takes into its hands what it can send now, and names itself as `taker` of that. What comes of it is told of each, once.
    fn reserve(&self, group: &mut [MessageInsert], now: DateTime<Utc>);

    /// What it took into its hands has been committed, or has not. Nothing is to be kept of what is not `taken`.
    fn confirm(&self, offered: Vec<Confirmed>);

    /// What it took into its hands may have been committed, and nobody knows.
    fn unknown(&self, offered: Vec<MessageInsert>);
}

/// What became of a message that was offered.
#[derive(Debug)]
pub struct Confirmed {
    /// The message.
    pub intake: MessageInsert,
    /// Those of its recipients who are leased to the taker.
    pub taken: Vec<RecipientId>,
    /// Those who wait in the queue.
    pub waiting: Vec<RecipientId>,
    /// Whether it carries a link to unsubscribe by.
    pub unsubscribe: bool,
}

/// Outcomes that were committed, or not.
#[derive(Debug)]
pub struct Recorded {
    /// The outcomes of the transaction.
    pub batch: Vec<Finished>,
    /// How many counted.
    pub counted: Result<usize, Arc<DbError>>,
}

/// Hands what is to be committed to the writers.
#[derive(Debug)]
pub struct GroupCommit {
    accepted: async_channel::Sender<Pending>,
    over: async_channel::Sender<Vec<Finished>>,
    recorded: async_channel::Receiver<Recorded>,
    signals: Arc<Signals>,
}

#[derive(Debug)]
struct Pending {
    intake: MessageInsert,
    reply: oneshot::Sender<Result<Committed, Arc<DbError>>>,
}

/// Puts the newest claim of a recipient in place of an older one.
type Refresh = Arc<dyn Fn(&mut Claimed) + Send + Sync>;

/// Who is asked before a commit, and told after it.
#[derive(Default)]
struct Signals {
    refresh: OnceLock<Refresh>,
    taker: Mutex<Option<Weak<dyn DirectConsumer>>>,
    /// Told when mail waits in the queue.
    wake: Mutex<Vec<Weak<Notify>>>,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").field("taker", &self.taker).field("wake", &self.wake).finish_non_exhaustive()
    }
}

impl Signals {
    /// Makes outcomes those of the newest claims: a worker may have claimed anew what it still has in hand, and what is recorded
    /// of the older claim would change nothing.
    fn refresh(&self, over: &mut [Finished]) {
        if let Some(refresh) = self.refresh.get() {
            for finished in over {
                refresh(&mut finished.claimed);
            }
        }
    }

    fn taker(&self) -> Option<Arc<dyn DirectConsumer>> {
        self.taker.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.upgrade()
    }

    fn wake(&self) {
        let wake = self.wake.lock().unwrap_or_else(PoisonError::into_inner);
        wake.iter().filter_map(Weak::upgrade).for_each(|wake| wake.notify_one());
    }
}

impl GroupCommit {
    /// Starts the writers; they end when the group commit is dropped and all that waited is committed.
    pub fn start(db: &Db, clock: &SharedClock) -> Arc<Self> {
        let (accepted, intakes) = async_channel::bounded(WAITING);
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

    /// From now on these are told when new mail waits in the queue, for as long as they live.
    pub fn tell(&self, wake: &[Arc<Notify>]) {
        self.signals.wake.lock().unwrap_or_else(PoisonError::into_inner).extend(wake.iter().map(Arc::downgrade));
    }

    /// From now on this worker is offered new mail, for as long as it lives.
    pub fn enlist(&self, taker: Weak<dyn DirectConsumer>) {
        *self.signals.taker.lock().unwrap_or_else(PoisonError::into_inner) = Some(taker);
    }

    /// Whether there is somebody to offer new mail to.
    pub fn has_taker(&self) -> bool {
        self.signals.taker().is_some()
    }

    /// How outcomes are made those of the newest claims, just before they are committed.
    pub fn refresh_by(&self, refresh: Arc<dyn Fn(&mut Claimed) + Send + Sync>) {
        // One worker a process: there is no second.
        let _ = self.signals.refresh.set(refresh);
    }

    /// Waits until the message is committed, or the transaction has failed.
    pub async fn accept(&self, intake: MessageInsert) -> Result<Committed, Arc<DbError>> {
        let (reply, answer) = oneshot::channel();
        let gone = || Arc::new(DbError::closed("intake.commit"));
        self.accepted.send(Pending { intake, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Takes the outcomes of one mail. What becomes of them is told by [`recorded`](Self::recorded).
    pub fn finish(&self, finished: Vec<Finished>) {
        // The writers live as long as this sender does, and the channel has no bound: who hands in outcomes has.
        let _ = self.over.try_send(finished);
    }

    /// What became of outcomes, batch by batch. It ends with group commit.
    pub fn recorded(&self) -> async_channel::Receiver<Recorded> {
        self.recorded.clone()
    }
}
