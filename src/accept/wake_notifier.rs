//! Notifies workers of due messages: the worker of this process at once, and those of other processes at most once per
//! [`MIN_INTERVAL`].

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::db::{self, Db};

/// Minimum time between two notifications of other processes.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
/// Interval at which the task checks whether the notifier still exists.
const ALIVE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Notifies workers.
#[derive(Debug)]
pub struct WakeNotifier {
    local: Arc<Notify>,
    others: Arc<Notify>,
}

impl WakeNotifier {
    /// Starts a task on `tasks` that notifies the workers of other processes. The task ends when the notifier has been
    /// dropped. `local` notifies the worker of this process.
    pub fn start(db: Db, local: Arc<Notify>, tasks: &TaskTracker) -> Self {
        let others = Arc::new(Notify::new());
        tasks.spawn(run(db, Arc::downgrade(&others)));
        Self { local, others }
    }

    /// Notifies the workers.
    pub fn notify(&self) {
        self.local.notify_one();
        self.others.notify_one();
    }

    /// Returns the signals for [`GroupCommit::start`](crate::group_commit::GroupCommit::start).
    pub fn signals(&self) -> Vec<Weak<Notify>> {
        [&self.local, &self.others].map(Arc::downgrade).into()
    }
}

async fn run(db: Db, signal: Weak<Notify>) {
    while let Some(signal) = signal.upgrade() {
        if tokio::time::timeout(ALIVE_CHECK_INTERVAL, signal.notified()).await.is_err() {
            continue;
        }
        if let Err(error) = db::pool::pg_notify::notify(&db).await {
            tracing::debug!(%error, "failed to notify other processes of new messages; their next poll finds them");
        }
        tokio::time::sleep(MIN_INTERVAL).await;
    }
}
