//! Removes suppressions whose time is over. They no longer count from that moment on, whether this has run or not.

use std::sync::Arc;
use std::time::Duration;

use crate::db::{DbError, suppressions};
use crate::worker::Parts;

/// Between two looks.
const EVERY: Duration = Duration::from_mins(10);

pub(crate) async fn run(parts: Arc<Parts>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = once(&parts).await {
            tracing::debug!(%error, "could not remove suppressions that have expired");
        }
    }
}

pub(crate) async fn once(parts: &Parts) -> Result<u64, DbError> {
    suppressions::forget_expired(&parts.db, parts.clock.now()).await
}
