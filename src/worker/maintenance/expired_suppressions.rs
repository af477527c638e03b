//! Removes expired suppressions. They have no effect from their expiry on, whether this has run or not.

use std::time::Duration;

use crate::clock::SharedClock;
use crate::db::{Db, DbError, suppressions};

const INTERVAL: Duration = Duration::from_mins(10);

pub(crate) async fn run(db: Db, clock: SharedClock) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = once(&db, &clock).await {
            tracing::debug!(
                event = "suppression_cleanup_failed",
                %error,
                "failed to remove expired suppressions; trying again"
            );
        }
    }
}

/// Returns how many suppressions it removed.
pub(crate) async fn once(db: &Db, clock: &SharedClock) -> Result<u64, DbError> {
    suppressions::remove_expired(db, clock.now()).await
}
