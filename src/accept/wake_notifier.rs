//! Notifies workers in other processes that messages were committed, at most once per [`PAUSE`].

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::db::{self, Db};

/// Minimum time between two notifications.
const PAUSE: Duration = Duration::from_millis(20);
/// How often the task checks whether the signal still exists.
const CHECK: Duration = Duration::from_secs(1);

/// Starts the task and returns its signal. The task ends when the signal has been dropped.
pub(super) fn start(db: Db, tasks: &TaskTracker) -> Arc<Notify> {
    let signal = Arc::new(Notify::new());
    tasks.spawn(run(db, Arc::downgrade(&signal)));
    signal
}

async fn run(db: Db, signal: Weak<Notify>) {
    while let Some(signal) = signal.upgrade() {
        if tokio::time::timeout(CHECK, signal.notified()).await.is_err() {
            continue;
        }
        if let Err(error) = db::pool::pg_notify::notify(&db).await {
            tracing::debug!(%error, "failed to notify other processes of new messages; their next poll finds them");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
