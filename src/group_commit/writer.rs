//! The writer tasks of the group commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::{Accepted, Recorded, Signals, count_accepted, count_group, direct};
use crate::batcher::{self, Batch, BatchLimit, Requests, reply_all};
use crate::clock::SharedClock;
use crate::db::group_commit::{self, CommitError, Done, LockTimeout};
use crate::db::messages::insert::{Committed, MessageInsert};
use crate::db::queue::Finished;
use crate::db::{Db, DbError};
use crate::metrics::labels;

/// Number of writers. Measured: a second writer uses the time that the first one waits for its `fsync`; a third gains
/// nothing.
const WRITERS: usize = 2;
/// Number of messages that justifies a concurrent transaction. Smaller groups wait for the other transaction to end: a
/// transaction costs about the same regardless of its size, and event numbering serialises commits anyway.
const FULL_GROUP: usize = 128;
/// Maximum wait for the other transaction, so that a lock that it waits for does not delay everything else.
const GROUP_LOCK_TIMEOUT: Duration = Duration::from_millis(50);
/// Minimum interval between transactions with only outcomes.
const MIN_OUTCOME_INTERVAL: Duration = Duration::from_millis(10);
/// Maximum number of messages, and of outcomes, per transaction. Measured: 1,024 gain nothing over 256 and cost four
/// times the latency.
const MAX_GROUP: usize = 256;
/// Limit of the messages of one transaction; their bytes are those of text, HTML and headers.
pub(super) static BATCH_LIMIT: BatchLimit<MessageInsert> =
    BatchLimit { items: MAX_GROUP, bytes: 4 << 20, size: |insert| insert.message.size() };

/// State shared by the writers.
#[derive(Debug, Clone)]
pub(super) struct WriterContext {
    pub db: Db,
    pub clock: SharedClock,
    pub inserts: Requests<MessageInsert, Accepted>,
    pub outcomes: async_channel::Receiver<Vec<Finished>>,
    pub recorded: async_channel::Sender<Recorded>,
    pub signals: Arc<Signals>,
}

/// Starts the writers. They end when all senders are dropped.
pub(super) fn start(cx: &WriterContext) {
    let group_lock = Arc::new(Mutex::new(BatchDelay::default()));
    let (last_outcomes_only, fallback_lock) = (Arc::default(), Arc::default());
    for _ in 0..WRITERS {
        let (last_outcomes_only, fallback_lock) = (Arc::clone(&last_outcomes_only), Arc::clone(&fallback_lock));
        let writer = Writer { cx: cx.clone(), group_lock: group_lock.clone(), last_outcomes_only, fallback_lock };
        tokio::spawn(writer.run());
    }
}

struct Writer {
    cx: WriterContext,
    /// Held while a writer collects a group, and until the end of a small transaction.
    group_lock: Arc<Mutex<BatchDelay>>,
    /// When a transaction with only outcomes last started.
    last_outcomes_only: Arc<parking_lot::Mutex<Option<Instant>>>,
    /// Serialises [`OneByOneFallback`].
    fallback_lock: Arc<Mutex<()>>,
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
    const WITHOUT_WAIT: Duration = Duration::from_millis(2);
    /// Maximum age of a measured wait.
    const MAX_AGE: Duration = Duration::from_millis(20);

    fn note(&mut self, waited: Duration) {
        *self = Self { waited: (self.waited + waited) / 2, ended: Some(Instant::now()) };
    }

    /// Returns how long to delay the next transaction.
    fn delay(&self) -> Duration {
        let is_recent = self.ended.is_some_and(|ended| ended.elapsed() < Self::MAX_AGE);
        if is_recent {
            self.waited.saturating_sub(Self::WITHOUT_WAIT).min(GROUP_LOCK_TIMEOUT / 2)
        } else {
            Duration::ZERO
        }
    }
}

type Reply = batcher::Reply<Accepted>;

/// The contents of one transaction.
#[derive(Default)]
struct Group {
    messages: Batch<MessageInsert, Accepted>,
    outcomes: Vec<Finished>,
}

impl Group {
    fn len(&self) -> usize {
        self.messages.items.len() + self.outcomes.len()
    }

    /// Adds everything that is pending, without waiting.
    fn fill(&mut self, cx: &WriterContext) {
        cx.inserts.fill(&mut self.messages);
        while self.outcomes.len() < MAX_GROUP {
            let Ok(more) = cx.outcomes.try_recv() else { break };
            self.outcomes.extend(more);
        }
    }
}

impl Writer {
    async fn run(self) {
        while let Some(mut group) = self.first().await {
            let lock = tokio::time::timeout(GROUP_LOCK_TIMEOUT, self.group_lock.lock()).await.ok();
            let delay = lock.as_ref().map_or(Duration::ZERO, |batch_delay| batch_delay.delay());
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            group.fill(&self.cx);
            // A full group does not wait for the other transaction: release the lock before the commit.
            let lock = lock.filter(|_| group.len() < FULL_GROUP);
            let waited = self.commit(group).await;
            if let (Some(mut batch_delay), Some(waited)) = (lock, waited) {
                batch_delay.note(waited);
            }
        }
    }

    /// Waits for something to commit; returns `None` when both channels are closed.
    async fn first(&self) -> Option<Group> {
        let WriterContext { inserts, outcomes, .. } = &self.cx;
        let mut group = Group::default();
        tokio::select! {
            Some(first) = inserts.next() => inserts.add(&mut group.messages, first),
            Ok(received) = outcomes.recv() => {
                group.outcomes = received;
                self.wait_for_more(&mut group).await;
            }
            else => return None,
        }
        Some(group)
    }

    /// Delays outcomes if others were committed a moment ago, until the interval has passed, or until a message
    /// arrives, which is committed with them.
    async fn wait_for_more(&self, group: &mut Group) {
        let last = *self.last_outcomes_only.lock();
        let Some(due) = last.map(|last| last + MIN_OUTCOME_INTERVAL).filter(|due| *due > Instant::now()) else {
            return;
        };
        tokio::select! {
            Some(next) = self.cx.inserts.next() => self.cx.inserts.add(&mut group.messages, next),
            () = tokio::time::sleep_until(due.into()) => {}
        }
    }

    /// Commits a group. On success, returns how long it waited for event numbers.
    async fn commit(&self, group: Group) -> Option<Duration> {
        let Group { messages: Batch { items: mut inserts, replies, .. }, mut outcomes } = group;
        if inserts.is_empty() {
            *self.last_outcomes_only.lock() = Some(Instant::now());
        }
        let WriterContext { db, clock, signals, .. } = &self.cx;
        let now = clock.now();
        direct::reserve(signals, &mut inserts, now);
        signals.adopt_claims(&mut outcomes);
        let started = Instant::now();
        match group_commit::commit(db, &inserts, &outcomes, now, LockTimeout::Short).await {
            Ok(Done { accepted, recorded, waited }) => {
                count_group(labels::Writer::Messages, inserts.len() + outcomes.len(), started);
                report(signals, inserts, accepted, replies);
                self.record(outcomes, Ok(recorded));
                return Some(waited);
            }
            // Messages and outcomes must not fail because of each other, nor wait for each other.
            Err(failed) if is_rolled_back(&failed) && !inserts.is_empty() && !outcomes.is_empty() => {
                tokio::spawn(self.fallback().accept(inserts, replies));
                let done = group_commit::commit(db, &[], &outcomes, clock.now(), LockTimeout::Short).await;
                self.record(outcomes, done.map(|done| done.recorded).map_err(|failed| Arc::new(failed.error)));
            }
            Err(failed) if is_rolled_back(&failed) && !inserts.is_empty() => {
                tokio::spawn(self.fallback().accept(inserts, replies));
                self.record(outcomes, Err(Arc::new(failed.error)));
            }
            Err(failed) => {
                let error = report_failure(signals, inserts, replies, failed);
                self.record(outcomes, Err(error));
            }
        }
        None
    }

    fn fallback(&self) -> OneByOneFallback {
        let WriterContext { db, clock, signals, .. } = self.cx.clone();
        OneByOneFallback { db, clock, signals, lock: self.fallback_lock.clone() }
    }

    fn record(&self, batch: Vec<Finished>, recorded: Result<Vec<bool>, Arc<DbError>>) {
        if !batch.is_empty() {
            // The channel is unbounded. If it is closed, the receiver has ended and needs no result.
            let _ = self.cx.recorded.try_send(Recorded { batch, recorded });
        }
    }
}

/// Commits messages whose group Postgres rolled back. Runs concurrently with the writers, so that nothing else waits
/// for locks, and one group at a time, so that it never needs more than one connection.
struct OneByOneFallback {
    db: Db,
    clock: SharedClock,
    signals: Arc<Signals>,
    /// Held during the commits of one group.
    lock: Arc<Mutex<()>>,
}

impl OneByOneFallback {
    async fn accept(self, inserts: Vec<MessageInsert>, replies: Vec<Reply>) {
        let _lock = self.lock.lock().await;
        match group_commit::commit(&self.db, &inserts, &[], self.clock.now(), LockTimeout::Long).await {
            Ok(done) => report(&self.signals, inserts, done.accepted, replies),
            // A message that Postgres refuses must not fail the others of its group.
            Err(failed) if inserts.len() > 1 && is_refused(&failed) => {
                for (insert, reply) in inserts.into_iter().zip(replies) {
                    self.accept_one([insert], reply).await;
                }
            }
            Err(failed) => drop(report_failure(&self.signals, inserts, replies, failed)),
        }
    }

    async fn accept_one(&self, one: [MessageInsert; 1], reply: Reply) {
        match group_commit::commit(&self.db, &one, &[], self.clock.now(), LockTimeout::Long).await {
            Ok(done) => report(&self.signals, one.into(), done.accepted, vec![reply]),
            Err(failed) => drop(report_failure(&self.signals, one.into(), vec![reply], failed)),
        }
    }
}

/// Returns whether everything was rolled back, so that parts of it might succeed.
pub(super) fn is_rolled_back(failed: &CommitError) -> bool {
    failed.error.is_undone() && !failed.may_be_done
}

/// Returns whether Postgres refused the transaction permanently.
fn is_refused(failed: &CommitError) -> bool {
    matches!(failed.error, DbError::Refused { .. }) && !failed.may_be_done
}

/// Reports to callers and the worker that these messages were not committed, or that it is unknown whether they were.
/// Returns the error.
fn report_failure(
    signals: &Signals,
    inserts: Vec<MessageInsert>,
    replies: Vec<Reply>,
    failed: CommitError,
) -> Arc<DbError> {
    let CommitError { error, may_be_done } = failed;
    let error = Arc::new(error);
    direct::report_failure(signals, inserts, may_be_done);
    reply_all(replies, &Err(error.clone()));
    error
}

/// Reports to callers and the worker what was committed.
fn report(signals: &Signals, inserts: Vec<MessageInsert>, results: Vec<Committed>, replies: Vec<Reply>) {
    let mut report = direct::Report::default();
    for ((insert, result), reply) in inserts.into_iter().zip(results).zip(replies) {
        if let Committed::New { .. } = &result {
            count_accepted(&insert);
        }
        let confirmed = direct::confirmed(insert, &result);
        reply.send(Ok(result));
        report.add(confirmed);
    }
    report.send(signals);
}
