//! The writer tasks of the group commit.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::Mutex;

use super::{Accepted, Confirmed, Recorded, Signals};
use crate::batcher::{self, Batch, BatchLimit, Requests, reply_all};
use crate::clock::SharedClock;
use crate::db::group_commit::{self, CommitError, Done, Patience};
use crate::db::messages::insert::{Committed, MessageInsert};
use crate::db::queue::Finished;
use crate::db::{Db, DbError};
use crate::domain::id::RecipientId;

/// Number of writers. Measured: a second writer uses the time that the first one waits for its `fsync`; a third gains
/// nothing.
const WRITERS: usize = 2;
/// Number of messages that justifies a concurrent transaction. Smaller groups wait for the other transaction to end: a
/// transaction costs about the same regardless of its size, and event numbering serialises commits anyway.
const FULL_GROUP: usize = 128;
/// Maximum wait for the other transaction, so that a lock that it waits for does not delay everything else.
const TURN_TIMEOUT: Duration = Duration::from_millis(50);
/// Minimum interval between transactions with only outcomes.
const MIN_OUTCOME_INTERVAL: Duration = Duration::from_millis(10);
/// Maximum number of messages, and of outcomes, per transaction. Measured: 1,024 gain nothing over 256 and cost four
/// times the latency.
const GROUP: usize = 256;
/// The messages of one transaction; their bytes are those of text, HTML and headers.
pub(super) static BATCH_LIMIT: BatchLimit<MessageInsert> =
    BatchLimit { items: GROUP, bytes: 4 << 20, size: |intake| intake.message.size() };

/// State shared by the writers.
#[derive(Debug, Clone)]
pub(super) struct WriterContext {
    pub db: Db,
    pub clock: SharedClock,
    pub intakes: Requests<MessageInsert, Accepted>,
    pub outcomes: async_channel::Receiver<Vec<Finished>>,
    pub recorded: async_channel::Sender<Recorded>,
    pub signals: Arc<Signals>,
}

/// Starts the writers. They end when all senders are dropped.
pub(super) fn start(tools: &WriterContext) {
    let turn = Arc::new(Mutex::new(BatchDelay::default()));
    let (outcomes_alone, alone) = (Arc::default(), Arc::default());
    for _ in 0..WRITERS {
        let (turn, outcomes_alone, alone) = (turn.clone(), Arc::clone(&outcomes_alone), Arc::clone(&alone));
        tokio::spawn(Writer { tools: tools.clone(), turn, outcomes_alone, alone }.run());
    }
}

struct Writer {
    tools: WriterContext,
    /// Held while a writer collects a group, and until the end of a small transaction.
    turn: Arc<Mutex<BatchDelay>>,
    /// When a transaction with only outcomes last began.
    outcomes_alone: Arc<parking_lot::Mutex<Option<Instant>>>,
    /// Serialises [`OneByOneFallback`].
    alone: Arc<Mutex<()>>,
}

/// Tracks how long transactions wait for those of other processes: each commit holds the event counter for the duration
/// of an `fsync`. Instead of waiting there, a transaction can start later, with a larger group.
#[derive(Debug, Default)]
struct BatchDelay {
    waited: Duration,
    ended: Option<Instant>,
}

impl BatchDelay {
    /// Time to write events without waiting, plus the timer resolution.
    const FREE: Duration = Duration::from_millis(2);
    /// Maximum age of a measured wait.
    const FRESH: Duration = Duration::from_millis(20);

    fn note(&mut self, waited: Duration) {
        *self = Self { waited: (self.waited + waited) / 2, ended: Some(Instant::now()) };
    }

    /// Returns how long to delay the next transaction.
    fn delay(&self) -> Duration {
        let is_fresh = self.ended.is_some_and(|ended| ended.elapsed() < Self::FRESH);
        if is_fresh { self.waited.saturating_sub(Self::FREE).min(TURN_TIMEOUT / 2) } else { Duration::ZERO }
    }
}

type Reply = batcher::Reply<Accepted>;

/// The contents of one transaction.
#[derive(Default)]
struct Group {
    messages: Batch<MessageInsert, Accepted>,
    over: Vec<Finished>,
}

impl Group {
    fn len(&self) -> usize {
        self.messages.items.len() + self.over.len()
    }

    /// Adds everything that is pending, without waiting.
    fn fill(&mut self, tools: &WriterContext) {
        tools.intakes.fill(&mut self.messages);
        while self.over.len() < GROUP {
            let Ok(more) = tools.outcomes.try_recv() else { break };
            self.over.extend(more);
        }
    }
}

impl Writer {
    async fn run(self) {
        while let Some(mut group) = self.first().await {
            let turn = tokio::time::timeout(TURN_TIMEOUT, self.turn.lock()).await.ok();
            let delay = turn.as_ref().map_or(Duration::ZERO, |queueing| queueing.delay());
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            group.fill(&self.tools);
            let turn = turn.filter(|_| group.len() < FULL_GROUP);
            let waited = self.commit(group).await;
            if let (Some(mut queueing), Some(waited)) = (turn, waited) {
                queueing.note(waited);
            }
        }
    }

    /// Waits for something to commit; returns `None` when both channels are closed.
    async fn first(&self) -> Option<Group> {
        let WriterContext { intakes, outcomes, .. } = &self.tools;
        let mut group = Group::default();
        tokio::select! {
            Some(first) = intakes.next() => intakes.add(&mut group.messages, first),
            Ok(over) = outcomes.recv() => {
                group.over = over;
                self.wait_for_more(&mut group).await;
            }
            else => return None,
        }
        Some(group)
    }

    /// Delays outcomes if others were committed a moment ago, until the interval has passed or a message arrives that
    /// they can be committed with.
    async fn wait_for_more(&self, group: &mut Group) {
        let last = *self.outcomes_alone.lock();
        let Some(due) = last.map(|last| last + MIN_OUTCOME_INTERVAL).filter(|due| *due > Instant::now()) else {
            return;
        };
        tokio::select! {
            Some(next) = self.tools.intakes.next() => self.tools.intakes.add(&mut group.messages, next),
            () = tokio::time::sleep_until(due.into()) => {}
        }
    }

    /// Commits a group. On success, returns how long it waited for event numbers.
    async fn commit(&self, group: Group) -> Option<Duration> {
        let Group { messages: Batch { items: mut intakes, replies, .. }, mut over } = group;
        if intakes.is_empty() {
            *self.outcomes_alone.lock() = Some(Instant::now());
        }
        let WriterContext { db, clock, signals, .. } = &self.tools;
        let now = clock.now();
        reserve(signals, &mut intakes, now);
        signals.refresh(&mut over);
        match group_commit::commit(db, &intakes, &over, now, Patience::Short).await {
            Ok(Done { accepted, counted, waited }) => {
                report(signals, intakes, accepted, replies);
                self.record(over, Ok(counted));
                return Some(waited);
            }
            // Messages and outcomes must not fail because of each other, nor wait for each other.
            Err(failed) if is_undone(&failed) && !intakes.is_empty() && !over.is_empty() => {
                tokio::spawn(self.alone().accept(intakes, replies));
                let done = group_commit::commit(db, &[], &over, clock.now(), Patience::Short).await;
                self.record(over, done.map(|done| done.counted).map_err(|failed| Arc::new(failed.error)));
            }
            Err(failed) if is_undone(&failed) && !intakes.is_empty() => {
                tokio::spawn(self.alone().accept(intakes, replies));
                self.record(over, Err(Arc::new(failed.error)));
            }
            Err(failed) => {
                let error = refuse(signals, intakes, replies, failed);
                self.record(over, Err(error));
            }
        }
        None
    }

    fn alone(&self) -> OneByOneFallback {
        let WriterContext { db, clock, signals, .. } = self.tools.clone();
        OneByOneFallback { db, clock, signals, turn: self.alone.clone() }
    }

    fn record(&self, batch: Vec<Finished>, counted: Result<usize, Arc<DbError>>) {
        if !batch.is_empty() {
            // The channel is unbounded. If it is closed, no receiver is interested any more.
            let _ = self.tools.recorded.try_send(Recorded { batch, counted });
        }
    }
}

/// Commits messages whose group Postgres rolled back. Runs concurrently with the writers, so that nothing else waits
/// for locks, and one group at a time, so that it never needs more than one connection.
struct OneByOneFallback {
    db: Db,
    clock: SharedClock,
    signals: Arc<Signals>,
    turn: Arc<Mutex<()>>,
}

impl OneByOneFallback {
    async fn accept(self, intakes: Vec<MessageInsert>, replies: Vec<Reply>) {
        let _turn = self.turn.lock().await;
        match group_commit::commit(&self.db, &intakes, &[], self.clock.now(), Patience::Long).await {
            Ok(done) => report(&self.signals, intakes, done.accepted, replies),
            // A message that Postgres refuses must not fail the others of its group.
            Err(failed) if intakes.len() > 1 && is_refused(&failed) => {
                for (intake, reply) in intakes.into_iter().zip(replies) {
                    self.accept_one([intake], reply).await;
                }
            }
            Err(failed) => drop(refuse(&self.signals, intakes, replies, failed)),
        }
    }

    async fn accept_one(&self, one: [MessageInsert; 1], reply: Reply) {
        match group_commit::commit(&self.db, &one, &[], self.clock.now(), Patience::Long).await {
            Ok(done) => report(&self.signals, one.into(), done.accepted, vec![reply]),
            Err(failed) => drop(refuse(&self.signals, one.into(), vec![reply], failed)),
        }
    }
}

/// Offers messages to the worker before they are committed.
fn reserve(signals: &Signals, intakes: &mut [MessageInsert], now: DateTime<Utc>) {
    let Some(consumer) = signals.consumer().filter(|_| !intakes.is_empty()) else { return };
    if guarded(|| consumer.reserve(intakes, now)).is_none() {
        for intake in intakes {
            intake.taker = None;
        }
    }
}

/// Calls the worker, catching panics so that the writer continues.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(work)).ok();
    if done.is_none() {
        tracing::error!(
            event = "direct_handoff_panicked",
            "direct handoff panicked; its messages may stay leased until this process ends; restart it"
        );
    }
    done
}

/// Returns whether everything was rolled back, and parts of it might succeed.
fn is_undone(failed: &CommitError) -> bool {
    failed.error.is_undone() && !failed.may_be_done
}

/// Returns whether Postgres refused the transaction permanently.
fn is_refused(failed: &CommitError) -> bool {
    matches!(failed.error, DbError::Refused { .. }) && !failed.may_be_done
}

/// Reports to callers and the worker that these messages were not committed, or that this is unknown. Returns the
/// error.
fn refuse(signals: &Signals, intakes: Vec<MessageInsert>, replies: Vec<Reply>, failed: CommitError) -> Arc<DbError> {
    let CommitError { error, may_be_done } = failed;
    let error = Arc::new(error);
    let offered: Vec<MessageInsert> = intakes.into_iter().filter(|intake| intake.taker.is_some()).collect();
    if let Some(consumer) = signals.consumer().filter(|_| !offered.is_empty()) {
        let lost = |intake| Confirmed { intake, taken: Vec::new(), waiting: Vec::new(), unsubscribe: false };
        guarded(|| {
            if may_be_done {
                consumer.unknown(offered);
            } else {
                consumer.confirm(offered.into_iter().map(lost).collect());
            }
        });
    }
    reply_all(replies, &Err(error.clone()));
    error
}

/// Returns the recipients of a message that are in neither list.
fn others(intake: &MessageInsert, suppressed: &[RecipientId], taken: &[RecipientId]) -> Vec<RecipientId> {
    let recipients = &intake.message.recipients;
    if suppressed.len() + taken.len() == recipients.len() {
        return Vec::new();
    }
    let done: HashSet<&RecipientId> = suppressed.iter().chain(taken).collect();
    recipients.iter().map(|recipient| recipient.id).filter(|id| !done.contains(id)).collect()
}

/// Reports to callers and the worker what was committed.
fn report(signals: &Signals, intakes: Vec<MessageInsert>, results: Vec<Committed>, replies: Vec<Reply>) {
    let mut is_any_waiting = false;
    let mut offered = Vec::new();
    for ((intake, result), reply) in intakes.into_iter().zip(results).zip(replies) {
        let mut settled = Confirmed { intake, taken: Vec::new(), waiting: Vec::new(), unsubscribe: false };
        if let Committed::New { suppressed, taken, unsubscribe } = &result {
            settled.waiting = others(&settled.intake, suppressed, taken);
            (settled.taken, settled.unsubscribe) = (taken.clone(), *unsubscribe);
        }
        is_any_waiting |= !settled.waiting.is_empty();
        reply.send(Ok(result));
        if settled.intake.taker.is_some() {
            offered.push(settled);
        }
    }
    if let Some(consumer) = signals.consumer().filter(|_| !offered.is_empty()) {
        guarded(|| consumer.confirm(offered));
    }
    // Wake after confirming, when unreserved recipients are no longer in flight.
    if is_any_waiting {
        signals.wake();
    }
}
