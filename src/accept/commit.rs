//! Group commit: requests that arrive while a transaction is under way go into the next one together. An idle service
//! commits at once; a busy one pays for a transaction and its `fsync` once for many messages. Two transactions are under way
//! at one time only where there is enough for both.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, oneshot};
use tokio_util::task::TaskTracker;

use crate::clock::SharedClock;
use crate::db::intake::{self, Committed, Intake};
use crate::db::{Db, DbError};

/// Measured: a second writer fills the time the first one waits for its `fsync`; a third gains nothing.
const WRITERS: usize = 2;
/// Messages that are worth a transaction beside another one. Fewer wait for that to end and for what comes meanwhile: a
/// transaction costs 1.5 ms of Postgres' time however few there are, and all of them line up for their event numbers anyway.
const ENOUGH: usize = 128;
/// But no longer than this.
const PATIENCE: Duration = Duration::from_millis(50);
/// Messages a transaction. Measured: 1,024 gain nothing over 256 and cost four times the latency.
const GROUP: usize = 256;
/// Octets of text, html and headers a transaction, beyond which a group is not filled further.
const GROUP_OCTETS: u64 = 4 << 20;
/// Requests that may wait for a writer before others wait to be let in.
const WAITING: usize = 4 * GROUP;

#[derive(Debug)]
struct Pending {
    intake: Intake,
    reply: oneshot::Sender<Result<Committed, Arc<DbError>>>,
}

/// Hands messages to the writers.
#[derive(Debug)]
pub(super) struct Committer {
    sender: async_channel::Sender<Pending>,
}

impl Committer {
    /// Starts the writers; they end when the committer is dropped and all that waited is committed.
    pub(super) fn start(db: &Db, clock: &SharedClock, wake: &[Arc<Notify>; 2], tasks: &TaskTracker) -> Self {
        let (sender, receiver) = async_channel::bounded(WAITING);
        let turn = Arc::new(Mutex::new(()));
        for _ in 0..WRITERS {
            let writer = Writer {
                db: db.clone(),
                clock: clock.clone(),
                wake: wake.clone(),
                receiver: receiver.clone(),
                turn: turn.clone(),
            };
            tasks.spawn(writer.run());
        }
        Self { sender }
    }

    /// Waits until the message is committed, or the transaction has failed.
    pub(super) async fn commit(&self, intake: Intake) -> Result<Committed, Arc<DbError>> {
        let (reply, answer) = oneshot::channel();
        let gone = || Arc::new(DbError::closed("intake.commit"));
        self.sender.send(Pending { intake, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

struct Writer {
    db: Db,
    clock: SharedClock,
    wake: [Arc<Notify>; 2],
    receiver: async_channel::Receiver<Pending>,
    /// Held by who gathers, and until the end of a transaction that is small.
    turn: Arc<Mutex<()>>,
}

impl Writer {
    async fn run(self) {
        while let Ok(first) = self.receiver.recv().await {
            let turn = tokio::time::timeout(PATIENCE, self.turn.lock()).await.ok();
            let group = self.gather(first);
            let turn = turn.filter(|_| group.len() < ENOUGH);
            self.commit(group).await;
            drop(turn);
        }
    }

    /// Takes whatever waits already, and waits for nothing.
    fn gather(&self, first: Pending) -> Vec<Pending> {
        let mut octets = first.intake.message.size();
        let mut group = vec![first];
        while group.len() < GROUP && octets < GROUP_OCTETS {
            let Ok(next) = self.receiver.try_recv() else { break };
            octets += next.intake.message.size();
            group.push(next);
        }
        group
    }

    async fn commit(&self, group: Vec<Pending>) {
        let (intakes, replies): (Vec<Intake>, Vec<_>) =
            group.into_iter().map(|pending| (pending.intake, pending.reply)).unzip();
        match intake::commit(&self.db, &intakes, self.clock.now()).await {
            Ok(results) => {
                self.wake();
                for (result, reply) in results.into_iter().zip(replies) {
                    let _ = reply.send(Ok(result));
                }
            }
            // One message that Postgres refuses must not take its neighbours with it.
            Err(DbError::Refused { .. }) if intakes.len() > 1 => {
                for (intake, reply) in intakes.into_iter().zip(replies) {
                    let result = intake::commit(&self.db, &[intake], self.clock.now()).await;
                    self.wake();
                    let _ = reply.send(result.map(|mut one| one.remove(0)).map_err(Arc::new));
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn wake(&self) {
        for wake in &self.wake {
            wake.notify_one();
        }
    }
}
