//! Works off stored jobs in the background of every process with the API: actions on messages, and erasures.
//!
//! A process leases a job for a moment, so that several jobs take turns, and another process continues if this one dies. It
//! pauses after each step for at least as long as the step took ([`pause`]), so that accepting and sending messages stay fast.

use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::accept::{AcceptError, IDLE_POLL_INTERVAL};
use crate::clock::SharedClock;
use crate::db::DbError;
use crate::telemetry::RateLimitedLog;

/// A job and its lease, if there is one.
type Leased<R, L> = Result<Option<(R, L)>, DbError>;

/// How long a process works on a job before another job has its turn.
pub(super) const TURN: Duration = Duration::from_secs(1);
/// Time until a process looks for a job again after it could not lease one.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Time until a job continues after a failure.
const RETRY_INTERVAL: TimeDelta = TimeDelta::seconds(5);

/// What follows a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The job has another turn.
    AtOnce,
    /// Something is examined again after this time.
    Later(TimeDelta),
    /// Everything was done.
    Done,
    /// The job was canceled, or another process works on it.
    Lost,
}

/// Why a job cannot continue now.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Accept(#[from] AcceptError),
    #[error("{0}")]
    Unreadable(String),
    #[error("it panicked")]
    Panicked,
}

impl JobError {
    /// Returns whether the database is unavailable or overloaded, so that trying again helps.
    fn is_temporary(&self) -> bool {
        match self {
            Self::Db(error) => error.trouble().is_some(),
            Self::Accept(AcceptError::Db(error)) => error.trouble().is_some(),
            Self::Accept(_) | Self::Unreadable(_) | Self::Panicked => false,
        }
    }
}

/// A failed turn, as it is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct FailedTurn<'a> {
    /// The error.
    pub error: &'a str,
    /// Whether the job is tried again regardless of the number of failures.
    pub is_temporary: bool,
    /// When it failed.
    pub now: DateTime<Utc>,
    /// When the job may continue.
    pub from: DateTime<Utc>,
}

/// Jobs of one kind. All changes name the lease, and change nothing once it has ended.
pub(super) trait LeasedJobs: Sync {
    /// A leased job.
    type Row: Send;
    /// The lease of a job.
    type Lease: Copy + Send + Sync;

    /// Leases a job; returns `None` if there is none that may continue at `now`.
    fn lease(&self, now: DateTime<Utc>) -> impl Future<Output = Leased<Self::Row, Self::Lease>> + Send;

    /// Works on a job for [`TURN`], or until `stop`.
    fn work(
        &self,
        row: Self::Row,
        lease: Self::Lease,
        stop: &CancellationToken,
    ) -> impl Future<Output = Result<Next, JobError>> + Send;

    /// Releases a job, which may continue at `from`.
    fn release(&self, lease: Self::Lease, from: DateTime<Utc>) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Releases a job that examines something again at `from`.
    fn repeat(&self, lease: Self::Lease, from: DateTime<Utc>) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Ends a job, and logs it.
    fn finish(&self, lease: Self::Lease, now: DateTime<Utc>) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Releases a job after a failure. Returns whether it has failed too often, and has ended; then logs it.
    fn fail(&self, lease: Self::Lease, failed: FailedTurn<'_>) -> impl Future<Output = Result<bool, DbError>> + Send;

    /// Logs a failure after which the job, if one was leased, is tried again.
    fn log_interrupted(lease: Option<Self::Lease>, error: &dyn Display, times: u64);
}

/// Works off jobs until `stop`.
pub(super) async fn run<J: LeasedJobs>(jobs: &J, clock: &SharedClock, wake: &Notify, stop: &CancellationToken) {
    let failed = RateLimitedLog::default();
    while !stop.is_cancelled() {
        let wait = match Box::pin(turn(jobs, clock, stop, &failed)).await {
            Ok(true) => continue,
            Ok(false) => IDLE_POLL_INTERVAL,
            Err(error) => {
                warn_of::<J>(&failed, None, &error);
                FAILURE_PAUSE
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = wake.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Works on one job for a moment. Returns `false` if there is none.
async fn turn<J: LeasedJobs>(
    jobs: &J,
    clock: &SharedClock,
    stop: &CancellationToken,
    failed: &RateLimitedLog,
) -> Result<bool, DbError> {
    let Some((row, lease)) = jobs.lease(clock.now()).await? else { return Ok(false) };
    let worked = AssertUnwindSafe(Box::pin(jobs.work(row, lease, stop))).catch_unwind().await;
    let now = clock.now();
    match worked.unwrap_or(Err(JobError::Panicked)) {
        Ok(Next::AtOnce) => jobs.release(lease, now).await?,
        Ok(Next::Later(pause)) => jobs.repeat(lease, now + pause).await?,
        Ok(Next::Done) => jobs.finish(lease, now).await?,
        Ok(Next::Lost) => {}
        Err(error) => {
            let text = error.to_string();
            let from = now + RETRY_INTERVAL;
            let failure = FailedTurn { error: &text, is_temporary: error.is_temporary(), now, from };
            if !jobs.fail(lease, failure).await? {
                warn_of::<J>(failed, Some(lease), &error);
            }
        }
    }
    Ok(true)
}

fn warn_of<J: LeasedJobs>(failed: &RateLimitedLog, lease: Option<J::Lease>, error: &dyn Display) {
    if let Some(times) = failed.note(Instant::now()) {
        J::log_interrupted(lease, error, times);
    }
}

/// Pauses for as long as the work took that began at `started`.
pub(super) async fn pause(started: Instant, stop: &CancellationToken) {
    pause_for(started.elapsed(), stop).await;
}

/// Pauses for this long, or until the process stops.
pub(super) async fn pause_for(duration: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(duration) => {}
    }
}
