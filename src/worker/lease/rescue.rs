//! Frees what dead workers left behind. A recipient that several workers died with is held for an operator, so that
//! one bad message cannot stop the queue.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Uptime;
use crate::db::DbError;
use crate::db::workers::{self, Reaped};
use crate::telemetry::Seldom;
use crate::worker::Parts;

pub(crate) async fn run(parts: Arc<Parts>) {
    let lease = parts.settings.lease;
    let mut ticks = tokio::time::interval((lease / 6).max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut fresh_since = Uptime::now();
    let mut looked = Uptime::now();
    let failed = Seldom::default();
    loop {
        ticks.tick().await;
        // A look that took long may have slept through an outage, and a machine that slept was deaf.
        if !parts.identity.is_fresh() || looked.elapsed() > lease / 2 {
            fresh_since = Uptime::now();
        }
        looked = Uptime::now();
        // When the database was away nobody could send heartbeats: let everyone speak before judging.
        if fresh_since.elapsed() < lease {
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

pub(crate) async fn once(parts: &Parts) -> Result<Reaped, DbError> {
    workers::reap(&parts.db, parts.settings.lease, parts.clock.now()).await
}
