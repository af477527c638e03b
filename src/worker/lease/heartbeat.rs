//! Renews this worker's leases: one row is updated four times per lease duration, however many recipients are in flight.

use std::sync::Arc;

use super::Leases;
use crate::telemetry::RateLimitedLog;

pub(crate) async fn run(leases: Arc<Leases>) {
    let mut ticks = tokio::time::interval(leases.duration / 4);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let failed = RateLimitedLog::default();
    loop {
        ticks.tick().await;
        if let Err(error) = leases.identity.send_heartbeat(&leases.db).await
            && let Some(times) = failed.note(tokio::time::Instant::now())
        {
            tracing::warn!(event = "heartbeat_failed", %error, times, "failed to send a heartbeat; trying again");
        }
    }
}
