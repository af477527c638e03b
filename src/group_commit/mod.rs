//! Group commit: messages accepted and outcomes produced during a transaction are committed together in the next one.
//! An idle service commits at once; a busy one pays for a transaction and its `fsync` once for many messages. There is
//! one instance per process.
//!
//! Direct handoff: a worker of the same process can get new messages at once ([`DirectConsumer`]). The transaction that
//! inserts a message also leases it to the worker, which gets it from memory, without a claim and without reading it
//! back. Messages for which the worker has no capacity, and messages behind older ones in their lane, wait in the
//! queue.
//!
//! Batches (`POST /v1/messages/batch`) have a separate writer (`batches`).
//!
//! The group commit offers messages to the worker, and the worker submits outcomes to the group commit. Therefore the
//! channel of outcomes is created first ([`outcomes`]): the worker is built with one end, and the group commit is
//! started with the other ([`LocalWorker`]).

mod batches;
mod direct;
mod writer;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Instant;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use crate::batcher::Batcher;
use crate::clock::SharedClock;
use crate::db::messages::insert::batch::{BatchCommitted, BatchInsert};
use crate::db::messages::insert::{Committed, MessageInsert};
use crate::db::queue::{Claimed, Finished};
use crate::db::{Db, DbError};
use crate::domain::id::{MessageId, RecipientId};
use crate::metrics::METRICS;
use crate::metrics::labels::{Route, Stream, Writer};
use crate::telemetry::traces;

/// Capacity of the channel of messages that wait for a writer.
const QUEUE_CAPACITY: usize = 1_024;
/// Capacity of the channel of batches that wait for their writer.
const BATCH_QUEUE_CAPACITY: usize = 64;

/// The worker that gets new messages at once (direct handoff).
pub trait DirectConsumer: fmt::Debug + Send + Sync {
    /// Reserves capacity for the messages that the worker can send now, and sets their `direct_consumer`. Each of them
    /// is then passed to [`confirm`](Self::confirm) or [`unknown`](Self::unknown) once.
    fn reserve(&self, group: &mut [MessageInsert], now: DateTime<Utc>);

    /// Reports the result of the commit for reserved messages. The consumer must release the reservations of recipients
    /// that are not in `leased`.
    fn confirm(&self, reserved: Vec<Confirmed>);

    /// Reports that reserved messages may or may not have been committed.
    fn unknown(&self, reserved: Vec<MessageInsert>);
}

/// The result of the commit for a reserved message.
#[derive(Debug)]
pub struct Confirmed {
    /// The message.
    pub insert: MessageInsert,
    /// Recipients leased to the consumer.
    pub leased: Vec<RecipientId>,
    /// Recipients that wait in the queue.
    pub waiting: Vec<RecipientId>,
    /// Whether the message carries an unsubscribe link.
    pub unsubscribe: bool,
}

/// The result of the commit for a batch of outcomes.
#[derive(Debug)]
pub struct Recorded {
    /// The outcomes of the transaction.
    pub batch: Vec<Finished>,
    /// Whether each of them was recorded; not if its lease was stale.
    pub recorded: Result<Vec<bool>, Arc<DbError>>,
}

/// The newest claim of each recipient in flight.
pub trait NewestClaims: fmt::Debug + Send + Sync {
    /// Replaces an older claim of a recipient by the newest one.
    fn adopt_claim(&self, claimed: &mut Claimed);
}

/// The worker of this process.
#[derive(Debug)]
pub struct LocalWorker {
    /// The receiving end of the worker's [`Outcomes`].
    pub outcomes: PendingOutcomes,
    /// The newest claims of the recipients that it has in flight.
    pub claims: Arc<dyn NewestClaims>,
    /// Receives new messages while it exists. It is held weakly, because the writers outlive the worker.
    pub consumer: Weak<dyn DirectConsumer>,
}

/// Creates the channel of a worker's outcomes. The writers end when the [`Outcomes`] and the [`GroupCommit`] have been
/// dropped; the channel of recorded batches then closes.
pub fn outcomes() -> (Arc<Outcomes>, PendingOutcomes) {
    let (finished, outcomes) = async_channel::unbounded();
    let (record, recorded) = async_channel::unbounded();
    (Arc::new(Outcomes { finished, recorded }), PendingOutcomes { outcomes, record })
}

/// The worker's end of the channel of outcomes.
#[derive(Debug)]
pub struct Outcomes {
    finished: async_channel::Sender<Vec<Finished>>,
    recorded: async_channel::Receiver<Recorded>,
}

impl Outcomes {
    /// Submits the outcomes of one message. [`recorded`](Self::recorded) reports the result.
    pub fn finish(&self, finished: Vec<Finished>) {
        // The writers live as long as this sender, and the channel is unbounded: the callers limit the number of
        // outcomes.
        let _ = self.finished.try_send(finished);
    }

    /// Returns the receiver of recorded batches. It closes when the writers end.
    pub fn recorded(&self) -> async_channel::Receiver<Recorded> {
        self.recorded.clone()
    }
}

/// The writers' end of the channel of outcomes.
#[derive(Debug, Clone)]
pub struct PendingOutcomes {
    outcomes: async_channel::Receiver<Vec<Finished>>,
    record: async_channel::Sender<Recorded>,
}

/// Passes messages to the writers.
#[derive(Debug)]
pub struct GroupCommit {
    accepted: Batcher<MessageInsert, Accepted>,
    batches: Batcher<BatchInsert, batches::BatchResult>,
    signals: Arc<Signals>,
}

/// The result for one message.
type Accepted = Result<Committed, Arc<DbError>>;

/// The objects that the writers call before and after a commit.
#[derive(Debug)]
struct Signals {
    claims: Option<Arc<dyn NewestClaims>>,
    consumer: Option<Weak<dyn DirectConsumer>>,
    /// Notified when new messages wait in the queue.
    wake: Vec<Weak<Notify>>,
}

impl Signals {
    /// Updates outcomes to the newest claims: a worker may have claimed a recipient again while the recipient was still
    /// in flight, and an outcome with the older claim would change nothing.
    fn adopt_claims(&self, outcomes: &mut [Finished]) {
        if let Some(claims) = &self.claims {
            for finished in outcomes {
                claims.adopt_claim(&mut finished.claimed);
            }
        }
    }

    fn consumer(&self) -> Option<Arc<dyn DirectConsumer>> {
        self.consumer.as_ref()?.upgrade()
    }

    fn wake(&self) {
        self.wake.iter().filter_map(Weak::upgrade).for_each(|wake| wake.notify_one());
    }
}

impl GroupCommit {
    /// Starts the writers. They end when this value and the worker's [`Outcomes`] have been dropped and everything
    /// pending is committed. They notify `wake`, which is held weakly, of new messages that wait in the queue.
    pub fn start(db: &Db, clock: &SharedClock, wake: Vec<Weak<Notify>>, worker: Option<LocalWorker>) -> Arc<Self> {
        let (accepted, inserts) = Batcher::new(QUEUE_CAPACITY, &writer::BATCH_LIMIT);
        let (batches, pending_batches) = Batcher::new(BATCH_QUEUE_CAPACITY, &batches::BATCH_LIMIT);
        let (claims, consumer, outcomes) = match worker {
            Some(LocalWorker { outcomes, claims, consumer }) => (Some(claims), Some(consumer), outcomes),
            None => (None, None, outcomes().1),
        };
        let signals = Arc::new(Signals { claims, consumer, wake });
        writer::start(&writer::WriterContext {
            db: db.clone(),
            clock: clock.clone(),
            inserts,
            outcomes: outcomes.outcomes,
            recorded: outcomes.record,
            signals: signals.clone(),
        });
        let batch_writer = batches::BatchWriter {
            db: db.clone(),
            clock: clock.clone(),
            batches: pending_batches,
            signals: signals.clone(),
            fallback_lock: Arc::default(),
        };
        tokio::spawn(batch_writer.run());
        Arc::new(Self { accepted, batches, signals })
    }

    /// Returns whether new messages are offered to a worker (direct handoff).
    pub fn has_consumer(&self) -> bool {
        self.signals.consumer().is_some()
    }

    /// Commits a message. Returns when it is committed or the transaction has failed.
    pub async fn accept(&self, insert: MessageInsert) -> Result<Committed, Arc<DbError>> {
        let (started, id) = (Instant::now(), insert.message.id);
        let mut span = traces::child("commit");
        let committed = self.accepted.submit(insert).await;
        METRICS.accept_to_commit.record(started.elapsed());
        let committed = committed.ok_or_else(|| Arc::new(DbError::closed("group_commit.messages"))).flatten();
        match &committed {
            Ok(Committed::New { .. }) => traces::message(id.0, || id.to_string()),
            Ok(Committed::KeyUsed(_)) => {}
            Err(_) => span.fail("database"),
        }
        committed
    }

    /// Commits a batch. Returns when it is committed or the transaction has failed.
    pub async fn accept_batch(&self, batch: BatchInsert) -> Result<BatchCommitted, Arc<DbError>> {
        let started = Instant::now();
        let ids: Vec<MessageId> =
            if traces::are_on() { batch.messages.iter().map(|insert| insert.message.id).collect() } else { Vec::new() };
        let mut span = traces::child("commit");
        let committed = self.batches.submit(batch).await;
        METRICS.accept_to_commit.record(started.elapsed());
        let committed = committed.ok_or_else(|| Arc::new(DbError::closed("group_commit.batches"))).flatten();
        match &committed {
            Ok(BatchCommitted::Inserted(_)) => ids.iter().for_each(|id| traces::message(id.0, || id.to_string())),
            Ok(BatchCommitted::NotInserted) => {}
            Err(_) => span.fail("database"),
        }
        committed
    }
}

/// Counts a committed message, without the recipients of the simulator: all those of a test key are.
fn count_accepted(insert: &MessageInsert) {
    let real = insert.lanes.iter().filter(|lane| Route::from_name(&lane.name.route) != Route::Simulator).count();
    if real > 0 {
        let stream = Stream::from_name(&insert.message.stream);
        METRICS.accepted_recipients.get((stream,)).increment(real as u64);
    }
}

/// Counts a committed transaction with this number of messages and outcomes.
fn count_group(writer: Writer, size: usize, started: Instant) {
    METRICS.group_commit.get((writer,)).record(started.elapsed());
    METRICS.group_size.get((writer,)).record(u32::try_from(size).unwrap_or(u32::MAX));
}
