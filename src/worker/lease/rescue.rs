//! Releases the leases of dead workers. A recipient whose attempts were cut short by several crashes is held for an
//! operator, so that one bad message cannot stop the queue.

use std::sync::Arc;
use std::time::Duration;

use super::Leases;
use crate::clock::Uptime;
use crate::db::DbError;
use crate::db::workers::{self, Reaped};
use crate::telemetry::Seldom;

pub(crate) async fn run(leases: Arc<Leases>) {
    let lease = leases.duration;
    let mut ticks = tokio::time::interval((lease / 6).max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut fresh_since = Uptime::now();
    let mut last_run = Uptime::now();
    let failed = Seldom::default();
    loop {
        ticks.tick().await;
        // A check that took long may have waited through an outage, and a suspended machine received nothing.
        if !leases.identity.is_fresh() || last_run.elapsed() > lease / 2 {
            fresh_since = Uptime::now();
        }
        last_run = Uptime::now();
        // While the database was unreachable no worker could send a heartbeat: wait a full lease before judging them.
        if fresh_since.elapsed() < lease {
            continue;
        }
        match once(&leases).await {
            Ok(rescued) if rescued.workers > 0 => {
                tracing::warn!(
                    event = "leases_rescued",
                    workers = rescued.workers,
                    released = rescued.freed,
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

pub(crate) async fn once(leases: &Leases) -> Result<Reaped, DbError> {
    workers::reap(&leases.db, leases.duration, leases.clock.now()).await
}
