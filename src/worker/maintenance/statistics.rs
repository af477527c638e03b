//! Keeps the statistics: counts new events, samples the queue once a minute, and deletes old time spans. Every worker
//! runs it; the cursor of a tenant and the minute of a sample are locked, so that nothing is counted twice.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::clock::SharedClock;
use crate::db::statistics::{cleanup, count, queue_samples};
use crate::db::{Db, DbError};
use crate::telemetry::RateLimitedLog;

/// Poll interval for new events: the figures are about this old.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// Interval between two samples of the queue.
const SAMPLE_INTERVAL: Duration = Duration::from_mins(1);
/// A long queue takes time to count. The next sample waits for at least this many times as long as the last one took.
const SAMPLE_PAUSE: u32 = 50;
/// Interval between two deletions.
const CLEANUP_INTERVAL: Duration = Duration::from_mins(10);
/// Maximum number of events counted per transaction.
const BATCH: i64 = 5_000;
/// The same after a transaction that took too long.
const SMALL_BATCH: i64 = 250;

/// Keeps the statistics.
#[derive(Debug)]
pub(crate) struct Statistics {
    db: Db,
    clock: SharedClock,
    failures: RateLimitedLog,
}

/// Counts events, and deletes old time spans.
pub(crate) async fn run(statistics: Arc<Statistics>) {
    let mut ticks = interval(COUNT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut cleanup_due = Instant::now();
    loop {
        ticks.tick().await;
        statistics.note(statistics.count().await);
        if Instant::now() >= cleanup_due {
            cleanup_due = Instant::now() + CLEANUP_INTERVAL;
            statistics.note(statistics.remove_old().await);
        }
    }
}

/// Samples the queue.
pub(crate) async fn sample(statistics: Arc<Statistics>) {
    loop {
        let started = Instant::now();
        let sampled = statistics.sample_queue().await;
        statistics.note(sampled);
        tokio::time::sleep(SAMPLE_INTERVAL.max(started.elapsed() * SAMPLE_PAUSE)).await;
    }
}

impl Statistics {
    pub(crate) fn new(db: Db, clock: SharedClock) -> Self {
        Self { db, clock, failures: RateLimitedLog::default() }
    }

    /// Counts all events that are not counted yet. Returns how many. A tenant whose events cannot be counted does not
    /// delay the others; returns the last error.
    pub(crate) async fn count(&self) -> Result<i64, DbError> {
        let (mut counted, mut failed) = (0, None);
        loop {
            let mut has_progress = false;
            for tenant in count::behind(&self.db).await? {
                let mut step = count::advance(&self.db, tenant, BATCH, self.clock.now()).await;
                if step.as_ref().is_err_and(DbError::is_too_slow) {
                    step = count::advance(&self.db, tenant, SMALL_BATCH, self.clock.now()).await;
                }
                match step {
                    Ok(Some(events)) => (counted, has_progress) = (counted + events, true),
                    Ok(None) => {}
                    Err(error) => failed = Some(error),
                }
            }
            if !has_progress {
                return failed.map_or(Ok(counted), Err);
            }
        }
    }

    /// Samples the queue, unless a worker did so in this minute.
    pub(crate) async fn sample_queue(&self) -> Result<bool, DbError> {
        queue_samples::sample(&self.db, self.clock.now()).await
    }

    /// Deletes old time spans. Returns the number of rows.
    pub(crate) async fn remove_old(&self) -> Result<u64, DbError> {
        cleanup::remove_old(&self.db, self.clock.now()).await
    }

    /// Logs a failure.
    fn note<T>(&self, result: Result<T, DbError>) {
        let Err(error) = result else { return };
        if let Some(count) = self.failures.note(Instant::now()) {
            tracing::warn!(event = "statistics_failed", count, %error, "failed to keep the statistics; trying again");
        }
    }
}
