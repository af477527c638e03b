//! Runs the turns of a task in the background, which works off rows that it claims. A turn that fails or panics is logged, and another
//! one follows.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::db::RestoreGate;
use crate::telemetry::RateLimitedLog;

/// Pause while the gate is closed.
const CLOSED_PAUSE: Duration = Duration::from_secs(1);

/// What follows a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The next turn.
    Turn,
    /// A pause of this time.
    Pause(Duration),
    /// A pause until the task is woken, by new work of its process or by [`WorkPoll`](super::work_poll::WorkPoll), and of at most this
    /// time.
    UntilWoken(Duration),
}

/// A task.
pub(super) trait Turns: Send {
    /// Pause after a failure.
    const FAILURE_PAUSE: Duration;

    /// Takes a turn; it may end early once `stop` is cancelled. Returns what follows it, or why it failed.
    fn turn(&mut self, stop: &CancellationToken) -> impl Future<Output = Result<After, String>> + Send;

    /// Notes that the task was woken.
    fn woken(&mut self) {}

    /// Logs that `times` turns have failed, the last one with `error`.
    fn log_failure(error: &str, times: u64);
}

/// Runs a task until `stop`. While the `gate` is closed, it takes no turns.
pub(super) async fn run<T: Turns>(mut task: T, gate: &RestoreGate, wake: &Notify, stop: &CancellationToken) {
    let failed = RateLimitedLog::default();
    while !stop.is_cancelled() {
        let after = if gate.is_open() { turn(&mut task, &failed, stop).await } else { After::Pause(CLOSED_PAUSE) };
        match after {
            After::Turn => {}
            After::Pause(pause) => tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            },
            After::UntilWoken(at_most) => tokio::select! {
                () = stop.cancelled() => {}
                () = wake.notified() => task.woken(),
                () = tokio::time::sleep(at_most) => {}
            },
        }
    }
}

/// Takes a turn, and logs its failure.
async fn turn<T: Turns>(task: &mut T, failed: &RateLimitedLog, stop: &CancellationToken) -> After {
    // Boxed, because the future is large.
    let turn = AssertUnwindSafe(Box::pin(task.turn(stop))).catch_unwind().await;
    turn.unwrap_or_else(|_| Err("it panicked".into())).unwrap_or_else(|error| {
        if let Some(times) = failed.note(Instant::now()) {
            T::log_failure(&error, times);
        }
        After::Pause(T::FAILURE_PAUSE)
    })
}
