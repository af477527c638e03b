//! Keeps this worker's leases: one row updated every quarter of a lease, however many recipients are in hand.

use std::sync::Arc;

use crate::telemetry::Seldom;
use crate::worker::Parts;

pub(crate) async fn run(parts: Arc<Parts>) {
    let mut ticks = tokio::time::interval(parts.settings.lease / 4);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let failed = Seldom::default();
    loop {
        ticks.tick().await;
        if let Err(error) = parts.identity.beat(&parts.db).await
            && let Some(times) = failed.note(tokio::time::Instant::now())
        {
            tracing::warn!(event = "heartbeat_failed", %error, times, "failed to send a heartbeat; trying again");
        }
    }
}
