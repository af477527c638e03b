//! Releases the leases of dead workers. A recipient whose attempts were cut short by several crashes is held for an
//! operator, so that one bad message cannot stop the queue.

use std::sync::Arc;
use std::time::Duration;

use super::{Leases, count_uncertain};
use crate::clock::Uptime;
use crate::db::DbError;
use crate::db::workers::{self, RescuedLeases};
use crate::metrics::METRICS;
use crate::telemetry::RateLimitedLog;

pub(crate) async fn run(leases: Arc<Leases>) {
    let lease = leases.duration;
    let mut ticks = tokio::time::interval((lease / 6).max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut grace = Grace::new(lease, leases.db.limit(), Uptime::now().since_boot());
    let failed = RateLimitedLog::default();
    loop {
        ticks.tick().await;
        if !grace.is_over(leases.identity.is_confirmed(), Uptime::now().since_boot()) {
            continue;
        }
        match once(&leases).await {
            Ok(rescued) if rescued.workers > 0 => {
                tracing::warn!(
                    event = "leases_rescued",
                    workers = rescued.workers,
                    released = rescued.released,
                    held = rescued.held,
                    uncertain = rescued.uncertain,
                    "rescued leases of dead workers"
                );
                leases.wake.notify_one();
            }
            Ok(_) => {}
            Err(error) => {
                if let Some(times) = failed.note(tokio::time::Instant::now()) {
                    tracing::warn!(
                        event = "lease_rescue_failed",
                        %error,
                        times,
                        "failed to look for dead workers; trying again"
                    );
                }
            }
        }
    }
}

/// Decides when this worker may declare others dead: once the database has responded to it in time for a full lease.
/// During an outage no worker could send a heartbeat, so each gets time for one first.
#[derive(Debug)]
struct Grace {
    lease: Duration,
    /// The longest that a call to the database takes.
    call_limit: Duration,
    confirmed_since: Duration,
    last_run: Duration,
    wait: Duration,
}

impl Grace {
    fn new(lease: Duration, call_limit: Duration, now: Duration) -> Self {
        Self { lease, call_limit, confirmed_since: now, last_run: now, wait: lease }
    }

    fn is_over(&mut self, is_confirmed: bool, now: Duration) -> bool {
        // If the last check was long ago, it may have waited through an outage, or the machine may have been suspended.
        if !is_confirmed || now.saturating_sub(self.last_run) > self.lease / 2 {
            self.confirmed_since = now;
            // Other workers may wait for a response over a dead connection until their call times out.
            self.wait = self.lease + self.call_limit;
        }
        self.last_run = now;
        now.saturating_sub(self.confirmed_since) >= self.wait
    }
}

pub(crate) async fn once(leases: &Leases) -> Result<RescuedLeases, DbError> {
    let rescued = workers::rescue_leases(&leases.db, leases.duration, leases.clock.now()).await?;
    METRICS.lease_reaps.increment((rescued.released + rescued.held + rescued.uncertain) as u64);
    count_uncertain(&rescued);
    Ok(rescued)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rescue_waits_for_calls_of_other_workers_after_an_outage() {
        let seconds = Duration::from_secs;
        let mut grace = Grace::new(seconds(6), seconds(10), seconds(100));
        let mut is_over = |is_confirmed, from: u64, to: u64| {
            (from..=to).fold(false, |_, now| grace.is_over(is_confirmed, seconds(now)))
        };
        assert!(!is_over(true, 100, 105));
        assert!(is_over(true, 106, 106), "a lease after the start");
        assert!(!is_over(false, 107, 120));
        assert!(!is_over(true, 121, 135), "a lease, and as long as a call may take");
        assert!(is_over(true, 136, 136));
        assert!(!is_over(true, 140, 140), "the machine was suspended");
    }
}
