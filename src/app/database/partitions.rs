//! Creates the weekly partitions ahead of time, while the service runs.

use std::time::Duration;

use crate::clock::SharedClock;
use crate::db::{self, Db};

/// Interval of the check that partitions exist; they are created weeks ahead.
const INTERVAL: Duration = Duration::from_hours(1);

/// Creates the partitions of the next weeks.
pub(in crate::app) async fn create(db: &Db, clock: &SharedClock) {
    if let Err(error) = db::schema::partitions::ensure(db, clock.now()).await {
        tracing::warn!(
            event = "partitions_failed",
            %error,
            "failed to create partitions ahead of time; trying again in an hour"
        );
    }
}

/// Creates partitions periodically, forever.
pub(in crate::app) async fn create_periodically(db: Db, clock: SharedClock) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        create(&db, &clock).await;
    }
}
