//! Tells workers in other processes that messages were committed: at most every [`PAUSE`], however many there were.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::db::{self, Db};

/// The least time between two announcements.
const PAUSE: Duration = Duration::from_millis(20);
/// How often the task looks whether anyone is left to announce for.
const CHECK: Duration = Duration::from_secs(1);

/// Starts the task; it ends when the signal it answers has been dropped.
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
            tracing::debug!(%error, "could not announce new messages; the workers' poll finds them");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
