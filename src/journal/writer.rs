//! The tasks that commit.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, oneshot};

use super::{Pending, Recorded, Settled, Signals, Taker};
use crate::clock::SharedClock;
use crate::db::intake::{Committed, Intake};
use crate::db::journal::{self, Done};
use crate::db::queue::Finished;
use crate::db::{Db, DbError};

/// Measured: a second writer fills the time the first one waits for its `fsync`; a third gains nothing.
const WRITERS: usize = 2;
/// Mails that are worth a transaction beside another one. Fewer wait for that to end and for what comes meanwhile: a
/// transaction costs much the same however few there are, and all of them line up for their event numbers anyway.
const ENOUGH: usize = 128;
/// But no longer than this: what is locked by somebody else must not keep the others.
const PATIENCE: Duration = Duration::from_millis(50);
/// Transactions of outcomes alone begin at least so far apart.
const APART: Duration = Duration::from_millis(10);
/// Messages, and outcomes, a transaction. Measured: 1,024 gain nothing over 256 and cost four times the latency.
const GROUP: usize = 256;
/// Octets of text, html and headers a transaction, beyond which a group is not filled further.
const GROUP_OCTETS: u64 = 4 << 20;

/// What the writers share.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    pub db: Db,
    pub clock: SharedClock,
    pub intakes: async_channel::Receiver<Pending>,
    pub outcomes: async_channel::Receiver<Vec<Finished>>,
    pub recorded: async_channel::Sender<Recorded>,
    pub signals: Arc<Signals>,
}

/// Starts the writers. They end when nobody can hand in anything any more.
pub(super) fn start(tools: &Tools) {
    let turn = Arc::new(Mutex::new(Queueing::default()));
    let outcomes_alone = Arc::default();
    for _ in 0..WRITERS {
        let (turn, outcomes_alone) = (turn.clone(), Arc::clone(&outcomes_alone));
        tokio::spawn(Writer { tools: tools.clone(), turn, outcomes_alone }.run());
    }
}

struct Writer {
    tools: Tools,
    /// Held by who gathers, and until the end of a transaction that is small.
    turn: Arc<Mutex<Queueing>>,
    /// When a transaction of outcomes alone last began.
    outcomes_alone: Arc<std::sync::Mutex<Option<Instant>>>,
}

/// How long transactions wait in line behind those of other processes: each commit holds the event numbers for the length of an
/// `fsync`. Who would only wait there may as well begin later, with what has come meanwhile.
#[derive(Debug, Default)]
struct Queueing {
    waited: Duration,
    ended: Option<Instant>,
}

impl Queueing {
    /// What writing the events takes by itself, and a timer's step.
    const FREE: Duration = Duration::from_millis(2);
    /// How long ago a wait still tells something.
    const FRESH: Duration = Duration::from_millis(20);

    fn note(&mut self, waited: Duration) {
        *self = Self { waited: (self.waited + waited) / 2, ended: Some(Instant::now()) };
    }

    /// How long to put off the next transaction.
    fn delay(&self) -> Duration {
        let is_fresh = self.ended.is_some_and(|ended| ended.elapsed() < Self::FRESH);
        if is_fresh { self.waited.saturating_sub(Self::FREE).min(PATIENCE / 2) } else { Duration::ZERO }
    }
}

type Reply = oneshot::Sender<Result<Committed, Arc<DbError>>>;

/// What goes into one transaction.
#[derive(Default)]
struct Group {
    intakes: Vec<Intake>,
    replies: Vec<Reply>,
    octets: u64,
    over: Vec<Finished>,
}

impl Group {
    fn len(&self) -> usize {
        self.intakes.len() + self.over.len()
    }

    fn add(&mut self, Pending { intake, reply }: Pending) {
        self.octets += intake.message.size();
        self.intakes.push(intake);
        self.replies.push(reply);
    }

    /// Takes whatever waits already, and waits for nothing.
    fn fill(&mut self, tools: &Tools) {
        while self.intakes.len() < GROUP && self.octets < GROUP_OCTETS {
            let Ok(next) = tools.intakes.try_recv() else { break };
            self.add(next);
        }
        while self.over.len() < GROUP {
            let Ok(more) = tools.outcomes.try_recv() else { break };
            self.over.extend(more);
        }
    }
}

impl Writer {
    async fn run(self) {
        while let Some(mut group) = self.first().await {
            let turn = tokio::time::timeout(PATIENCE, self.turn.lock()).await.ok();
            let delay = turn.as_ref().map_or(Duration::ZERO, |queueing| queueing.delay());
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            group.fill(&self.tools);
            let turn = turn.filter(|_| group.len() < ENOUGH);
            let waited = self.commit(group).await;
            if let (Some(mut queueing), Some(waited)) = (turn, waited) {
                queueing.note(waited);
            }
        }
    }

    /// Waits for something to commit; nothing comes any more once both channels are closed.
    async fn first(&self) -> Option<Group> {
        let Tools { intakes, outcomes, .. } = &self.tools;
        let mut group = Group::default();
        tokio::select! {
            Ok(pending) = intakes.recv() => group.add(pending),
            Ok(over) = outcomes.recv() => {
                group.over = over;
                self.wait_for_more(&mut group).await;
            }
            else => return None,
        }
        Some(group)
    }

    /// Puts off outcomes for which nobody waits, where some were committed a moment ago; until mail comes that they can go with.
    async fn wait_for_more(&self, group: &mut Group) {
        let last = *self.outcomes_alone.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(due) = last.map(|last| last + APART).filter(|due| *due > Instant::now()) else { return };
        tokio::select! {
            Ok(pending) = self.tools.intakes.recv() => group.add(pending),
            () = tokio::time::sleep_until(due.into()) => {}
        }
    }

    /// Answers how long it waited for event numbers, where all went well.
    async fn commit(&self, group: Group) -> Option<Duration> {
        let Group { mut intakes, replies, over, .. } = group;
        if intakes.is_empty() {
            *self.outcomes_alone.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        let now = self.tools.clock.now();
        let taker = self.tools.signals.taker();
        if let Some(taker) = &taker {
            taker.offer(&mut intakes, now);
        }
        let taker = taker.as_deref();
        match journal::commit(&self.tools.db, &intakes, &over, now).await {
            Ok(Done { accepted, counted, waited }) => {
                self.accepted(intakes, accepted, replies, taker);
                self.record(over, Ok(counted));
                return Some(waited);
            }
            // Neither must fail for the other's sake.
            Err(error) if error.is_undone() && !intakes.is_empty() && !over.is_empty() => {
                self.accept(intakes, replies, taker).await;
                let done = journal::commit(&self.tools.db, &[], &over, self.tools.clock.now()).await;
                self.record(over, done.map(|done| done.counted).map_err(Arc::new));
            }
            Err(error) => {
                let error = Arc::new(error);
                self.failed(intakes, replies, &error, taker).await;
                self.record(over, Err(error));
            }
        }
        None
    }

    /// Commits messages alone.
    async fn accept(&self, intakes: Vec<Intake>, replies: Vec<Reply>, taker: Option<&dyn Taker>) {
        match journal::commit(&self.tools.db, &intakes, &[], self.tools.clock.now()).await {
            Ok(done) => self.accepted(intakes, done.accepted, replies, taker),
            Err(error) => self.failed(intakes, replies, &Arc::new(error), taker).await,
        }
    }

    /// One message that Postgres refuses must not take its neighbours with it.
    async fn failed(&self, intakes: Vec<Intake>, replies: Vec<Reply>, error: &Arc<DbError>, taker: Option<&dyn Taker>) {
        if !matches!(**error, DbError::Refused { .. }) || intakes.len() < 2 {
            return refuse(intakes, replies, error, taker);
        }
        for (intake, reply) in intakes.into_iter().zip(replies) {
            let one = [intake];
            let done = journal::commit(&self.tools.db, &one, &[], self.tools.clock.now()).await;
            let (one, reply) = (Vec::from(one), vec![reply]);
            match done {
                Ok(done) => self.accepted(one, done.accepted, reply, taker),
                Err(error) => refuse(one, reply, &Arc::new(error), taker),
            }
        }
    }

    fn accepted(&self, intakes: Vec<Intake>, results: Vec<Committed>, replies: Vec<Reply>, taker: Option<&dyn Taker>) {
        let mut is_any_waiting = false;
        let mut offered = Vec::new();
        for ((intake, result), reply) in intakes.into_iter().zip(results).zip(replies) {
            let mut settled = Settled { intake, taken: Vec::new(), unsubscribe: false };
            if let Committed::New { suppressed, taken, unsubscribe } = &result {
                is_any_waiting |= suppressed.len() + taken.len() < settled.intake.message.recipients.len();
                (settled.taken, settled.unsubscribe) = (taken.clone(), *unsubscribe);
            }
            let _ = reply.send(Ok(result));
            if settled.intake.taker.is_some() {
                offered.push(settled);
            }
        }
        if is_any_waiting {
            self.tools.signals.wake();
        }
        if let Some(taker) = taker.filter(|_| !offered.is_empty()) {
            taker.settle(offered);
        }
    }

    fn record(&self, batch: Vec<Finished>, counted: Result<usize, Arc<DbError>>) {
        if !batch.is_empty() {
            // Without a bound. Where nobody listens any more there is nobody to tell.
            let _ = self.tools.recorded.try_send(Recorded { batch, counted });
        }
    }
}

/// Tells everybody that these were not committed.
fn refuse(intakes: Vec<Intake>, replies: Vec<Reply>, error: &Arc<DbError>, taker: Option<&dyn Taker>) {
    let lost = |intake| Settled { intake, taken: Vec::new(), unsubscribe: false };
    let offered: Vec<_> = intakes.into_iter().filter(|intake| intake.taker.is_some()).map(lost).collect();
    if let Some(taker) = taker.filter(|_| !offered.is_empty()) {
        taker.settle(offered);
        taker.suspect(error);
    }
    for reply in replies {
        let _ = reply.send(Err(error.clone()));
    }
}
