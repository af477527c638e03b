//! Asks the database, once a second and in one statement, whether there is work for the background tasks that other processes
//! and applications give work to: messages sent from SQL, bulks, received messages to be passed on, actions on messages, and
//! erasures. Wakes the tasks that have some, so that an idle process runs one statement per second, which reads a few rows of
//! small indexes. Work of this process wakes its tasks at once.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::accept::Acceptor;
use crate::clock::SharedClock;
use crate::db::background_work::{self, Due};
use crate::telemetry::RateLimitedLog;

/// Poll interval. Work that another process stores waits for at most this time, unless polls are slow.
const INTERVAL: Duration = Duration::from_secs(1);
/// After a slow poll, the pause is this many times as long as the poll took: a long transaction keeps the versions of deleted rows, which
/// polls read.
const PAUSE_FACTOR: u32 = 4;
/// Poll interval after slow polls.
const MAX_INTERVAL: Duration = Duration::from_secs(5);

/// Polls for the background tasks of a process.
#[derive(Debug)]
pub struct WorkPoll {
    acceptor: Arc<Acceptor>,
    clock: SharedClock,
    /// Notifies the task that passes received messages on.
    relay_wake: Arc<Notify>,
}

impl WorkPoll {
    /// Creates the poll of a process.
    pub fn new(acceptor: Arc<Acceptor>, clock: SharedClock, relay_wake: Arc<Notify>) -> Self {
        Self { acceptor, clock, relay_wake }
    }

    /// Polls once.
    async fn due(&self) -> Result<Due, String> {
        let poll = background_work::due(&self.acceptor.db, self.clock.now());
        match AssertUnwindSafe(poll).catch_unwind().await {
            Ok(due) => due.map_err(|error| error.to_string()),
            Err(_) => Err("it panicked".into()),
        }
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let failed = RateLimitedLog::default();
        while !stop.is_cancelled() {
            let started = Instant::now();
            match self.due().await {
                Ok(due) => {
                    let wakes = [
                        (due.sql_inbox, &self.acceptor.sql_inbox_wake),
                        (due.bulks, &self.acceptor.bulk_wake),
                        (due.relays, &*self.relay_wake),
                        (due.actions, &self.acceptor.action_wake),
                        (due.erasures, &self.acceptor.erasure_wake),
                    ];
                    for (_, wake) in wakes.into_iter().filter(|(is_due, _)| *is_due) {
                        wake.notify_one();
                    }
                }
                Err(error) => {
                    if let Some(times) = failed.note(Instant::now()) {
                        tracing::warn!(
                            event = "work_poll_failed",
                            error,
                            times,
                            "failed to look for messages sent from SQL, bulks, messages to pass on, actions and erasures; trying again"
                        );
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep((started.elapsed() * PAUSE_FACTOR).clamp(INTERVAL, MAX_INTERVAL)) => {}
            }
        }
    }
}
