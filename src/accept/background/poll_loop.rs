//! Runs a task in the background that claims rows and processes them, again and again. A failure or a panic is logged, and the task
//! continues.

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

/// When a task claims rows again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// At once.
    Now,
    /// After a pause of this time.
    Sleep(Duration),
    /// After a pause until the task is woken, by new work of its process or by [`WorkPoll`](super::work_poll::WorkPoll), and of at most this
    /// time.
    UntilWoken(Duration),
}

/// A task.
pub(super) trait PollLoop: Send {
    /// Pause after a failure.
    const FAILURE_PAUSE: Duration;

    /// Claims some rows, and processes them; may end early once `stop` is cancelled. Returns when to continue, or why it failed.
    fn process_claimed(&mut self, stop: &CancellationToken) -> impl Future<Output = Result<Next, String>> + Send;

    /// Notes that the task was woken.
    fn woken(&mut self) {}

    /// Logs that it has failed `times` times, the last time with `error`.
    fn log_failure(error: &str, times: u64);
}

/// Runs a task until `stop`. While the `gate` is closed, it claims nothing.
pub(super) async fn run<T: PollLoop>(mut task: T, gate: &RestoreGate, wake: &Notify, stop: &CancellationToken) {
    let failed = RateLimitedLog::default();
    while !stop.is_cancelled() {
        let next =
            if gate.is_open() { process_claimed(&mut task, &failed, stop).await } else { Next::Sleep(CLOSED_PAUSE) };
        match next {
            Next::Now => {}
            Next::Sleep(pause) => tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            },
            Next::UntilWoken(at_most) => tokio::select! {
                () = stop.cancelled() => {}
                () = wake.notified() => task.woken(),
                () = tokio::time::sleep(at_most) => {}
            },
        }
    }
}

/// Processes some rows, and logs a failure.
async fn process_claimed<T: PollLoop>(task: &mut T, failed: &RateLimitedLog, stop: &CancellationToken) -> Next {
    // Boxed, because the future is large.
    let processed = AssertUnwindSafe(Box::pin(task.process_claimed(stop))).catch_unwind().await;
    processed.unwrap_or_else(|_| Err("it panicked".into())).unwrap_or_else(|error| {
        if let Some(times) = failed.note(Instant::now()) {
            T::log_failure(&error, times);
        }
        Next::Sleep(T::FAILURE_PAUSE)
    })
}
