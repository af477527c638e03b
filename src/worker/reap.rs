//! Frees what dead workers left behind. A recipient that several workers died with is held for an operator, so that
//! one bad message cannot stop the queue.

use std::sync::Arc;
use std::time::Duration;

use super::Parts;
use crate::clock::Uptime;
use crate::db::DbError;
use crate::db::workers::{self, Reaped};
use crate::telemetry::Seldom;

pub(super) async fn run(parts: Arc<Parts>) {
    let lease = parts.settings.lease;
    let mut ticks = tokio::time::interval((lease / 6).max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut grace = Grace::new(lease, parts.db.limit(), Uptime::now().since_boot());
    let failed = Seldom::default();
    loop {
        ticks.tick().await;
        if !grace.is_over(parts.identity.is_fresh(), Uptime::now().since_boot()) {
            continue;
        }
        match once(&parts).await {
            Ok(reaped) if reaped.workers > 0 => {
                tracing::warn!(
                    workers = reaped.workers,
                    freed = reaped.freed,
                    held = reaped.held,
                    uncertain = reaped.uncertain,
                    "took over from workers that have not been heard of"
                );
                parts.wake.notify_one();
            }
            Ok(_) => {}
            Err(error) => {
                if let Some(times) = failed.note(tokio::time::Instant::now()) {
                    tracing::warn!(event = "lease_rescue_failed", %error, times, "failed to look for dead workers; trying again");
                }
            }
        }
    }
}

/// When this worker may declare others dead: once the database has answered it in time for a lease. After an outage, in which nobody
/// could send heartbeats, everyone speaks first.
#[derive(Debug)]
struct Grace {
    lease: Duration,
    /// The longest that a call to the database takes.
    call_limit: Duration,
    fresh_since: Duration,
    looked: Duration,
    wait: Duration,
}

impl Grace {
    fn new(lease: Duration, call_limit: Duration, now: Duration) -> Self {
        Self { lease, call_limit, fresh_since: now, looked: now, wait: lease }
    }

    fn is_over(&mut self, is_fresh: bool, now: Duration) -> bool {
        // A look that took long may have slept through an outage, and a machine that slept was deaf.
        if !is_fresh || now.saturating_sub(self.looked) > self.lease / 2 {
            self.fresh_since = now;
            // Others may wait for an answer over a dead connection until their call is given up.
            self.wait = self.lease + self.call_limit;
        }
        self.looked = now;
        now.saturating_sub(self.fresh_since) >= self.wait
    }
}

pub(super) async fn once(parts: &Parts) -> Result<Reaped, DbError> {
    workers::reap(&parts.db, parts.settings.lease, parts.clock.now()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_an_outage_others_may_end_their_calls_first() {
        let seconds = Duration::from_secs;
        let mut grace = Grace::new(seconds(6), seconds(10), seconds(100));
        let mut is_over =
            |is_fresh, from: u64, to: u64| (from..=to).fold(false, |_, now| grace.is_over(is_fresh, seconds(now)));
        assert!(!is_over(true, 100, 105));
        assert!(is_over(true, 106, 106), "a lease after the start");
        assert!(!is_over(false, 107, 120));
        assert!(!is_over(true, 121, 135), "a lease, and as long as a call may take");
        assert!(is_over(true, 136, 136));
        assert!(!is_over(true, 140, 140), "the machine slept");
    }
}
