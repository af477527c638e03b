//! Wakes requests that wait for a tenant's next event, no matter which process wrote it. Polls the database ten times a
//! second with one query for all waiting requests, and not at all while no request waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::db::{Db, events};
use crate::domain::id::TenantId;

const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Poll interval after a failed query.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Notifies waiting requests of new events.
#[derive(Debug)]
pub(crate) struct EventNotifier {
    db: Db,
    waiters: Mutex<Waiters>,
    /// Ends every wait when the service stops.
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Waiters {
    /// Each tenant's highest `seq`, as of the last poll.
    tenants: HashMap<Uuid, watch::Sender<i64>>,
    is_polling: bool,
}

impl EventNotifier {
    pub(in crate::http) fn new(db: Db, stop: CancellationToken) -> Self {
        Self { db, waiters: Mutex::default(), stop }
    }

    /// Waits until the tenant has an event with a `seq` above this one. Returns `false` if the service stops first.
    pub(super) async fn wait_beyond(self: &Arc<Self>, tenant: TenantId, seq: i64) -> bool {
        let mut last = self.add_listener(tenant);
        let has_event = async { last.wait_for(|last| *last > seq).await.is_ok() };
        self.stop.run_until_cancelled(has_event).await.unwrap_or(false)
    }

    /// Returns whether the service is stopping.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    fn add_listener(self: &Arc<Self>, tenant: TenantId) -> watch::Receiver<i64> {
        let mut waiters = self.waiters();
        let last = waiters.tenants.entry(tenant.0).or_insert_with(|| watch::Sender::new(0)).subscribe();
        if !waiters.is_polling {
            waiters.is_polling = true;
            let polling = self.clone().poll();
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(polling));
        }
        last
    }

    /// Polls the database while any request waits.
    async fn poll(self: Arc<Self>) {
        loop {
            let Some(tenants) = self.listeners() else { return };
            let pause = match events::feed::last(&self.db, &tenants).await {
                Ok(last) => {
                    let waiters = self.waiters();
                    for (tenant, seq) in last {
                        if let Some(sender) = waiters.tenants.get(&tenant) {
                            sender.send_if_modified(|last_seq| std::mem::replace(last_seq, seq) != seq);
                        }
                    }
                    POLL_INTERVAL
                }
                Err(error) => {
                    tracing::debug!(%error, "failed to poll for new events");
                    RETRY_INTERVAL
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Returns the tenants of all waiting requests; `None`, and stops polling, if no request waits.
    fn listeners(&self) -> Option<Vec<Uuid>> {
        let mut waiters = self.waiters();
        waiters.tenants.retain(|_, last| last.receiver_count() > 0);
        waiters.is_polling = !waiters.tenants.is_empty();
        waiters.is_polling.then(|| waiters.tenants.keys().copied().collect())
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock()
    }
}
