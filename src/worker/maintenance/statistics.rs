//! Keeps the statistics: counts new events, samples the queue once a minute, and deletes old time spans. Every worker
//! runs it; the cursor of a tenant and the minute of a sample are locked, so that nothing is counted twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use crate::clock::SharedClock;
use crate::db::statistics::count::Advanced;
use crate::db::statistics::{cleanup, count, queue_samples};
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::statistics::Step;
use crate::smtp::Sender;
use crate::telemetry::RateLimitedLog;

/// Poll interval for new events: the figures are about this old.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// After a sample of the queue that failed, the next one waits for this many times as long as that one took.
const SAMPLE_PAUSE: u32 = 50;
/// Interval between two deletions.
const CLEANUP_INTERVAL: Duration = Duration::from_mins(10);
/// Maximum number of events counted per transaction.
const MAX_BATCH: i64 = 5_000;
/// The number of events that a transaction may count at least, however slow the database is.
const MIN_BATCH: i64 = 250;

/// Keeps the statistics.
#[derive(Debug)]
pub(crate) struct Statistics {
    db: Db,
    clock: SharedClock,
    /// Knows the hosts of relays, which are no mailbox providers.
    sender: Arc<Sender>,
    /// The number of events that the next transaction may count.
    batch: AtomicI64,
    failures: RateLimitedLog,
}

/// Counts events.
pub(crate) async fn run(statistics: Arc<Statistics>) {
    let mut ticks = interval(COUNT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        statistics.note(statistics.count().await);
    }
}

/// Samples the queue at the start of each minute.
pub(crate) async fn sample(statistics: Arc<Statistics>) {
    loop {
        let started = Instant::now();
        let sampled = statistics.sample_queue().await;
        let pause = if sampled.is_err() { started.elapsed() * SAMPLE_PAUSE } else { Duration::ZERO };
        statistics.note(sampled);
        tokio::time::sleep(pause.max(until_next_minute(statistics.clock.now()))).await;
    }
}

/// Deletes old time spans.
pub(crate) async fn delete_old(statistics: Arc<Statistics>) {
    let mut ticks = interval(CLEANUP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        statistics.note(statistics.remove_old().await);
    }
}

fn until_next_minute(now: DateTime<Utc>) -> Duration {
    let next = Step::Minute.floor(now) + Step::Minute.length();
    (next - now).to_std().unwrap_or_default()
}

impl Statistics {
    pub(crate) fn new(db: Db, clock: SharedClock, sender: Arc<Sender>) -> Self {
        Self { db, clock, sender, batch: AtomicI64::new(MAX_BATCH), failures: RateLimitedLog::default() }
    }

    /// Counts the events that are not counted yet, of each tenant up to those that exist when its turn comes, so that
    /// the call ends under steady traffic too. Returns how many. A tenant whose events cannot be counted does not delay
    /// the others; returns the last error.
    pub(crate) async fn count(&self) -> Result<i64, DbError> {
        let (mut counted, mut failed, mut done) = (0, None, Vec::<Uuid>::new());
        loop {
            let round = Instant::now();
            let tenants = count::behind(&self.db, &done).await?;
            let mut has_more = tenants.len() >= count::TENANTS;
            for tenant in tenants {
                match self.advance(tenant).await {
                    Ok(Some(advanced)) => {
                        counted += advanced.events;
                        if advanced.has_more {
                            has_more = true;
                            continue;
                        }
                    }
                    Ok(None) => {}
                    Err(error) => failed = Some(error),
                }
                done.push(tenant.0);
            }
            if !has_more {
                return failed.map_or(Ok(counted), Err);
            }
            // Leaves half of the time to others while there is much to count.
            tokio::time::sleep(round.elapsed()).await;
        }
    }

    /// Counts the next events of a tenant; if that takes too long, fewer of them.
    async fn advance(&self, tenant: TenantId) -> Result<Option<Advanced>, DbError> {
        let is_relay = |host: &str| self.sender.is_relay(host);
        loop {
            let (started, limit) = (Instant::now(), self.batch.load(Ordering::Relaxed));
            match count::advance(&self.db, tenant, limit, self.clock.now(), &is_relay).await {
                Err(error) if error.is_too_slow() && limit > MIN_BATCH => {
                    self.batch.store((limit / 2).max(MIN_BATCH), Ordering::Relaxed);
                }
                Ok(Some(advanced)) => {
                    // Twice as many are likely to stay within the time limit.
                    if advanced.events == limit && started.elapsed() < self.db.limit() / 4 {
                        self.batch.store((limit * 2).min(MAX_BATCH), Ordering::Relaxed);
                    }
                    return Ok(Some(advanced));
                }
                result => return result,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_taken_at_the_start_of_minutes() {
        for (now, seconds) in [("12:34:56.5", 3.5), ("12:34:00", 60.0), ("12:59:59.9", 0.1)] {
            let now = format!("2026-11-23T{now}Z").parse().unwrap();
            assert_eq!(until_next_minute(now), Duration::from_secs_f64(seconds), "{now}");
        }
    }
}
