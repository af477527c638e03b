//! Wakes requests that wait for a tenant's next event, whichever process wrote it. Polls the database a few times a
//! second, with one query for all waiting requests, and not at all while none waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::db::{Db, events};
use crate::domain::id::TenantId;

/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Poll interval after a failed query.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Notifies waiting requests of new events.
#[derive(Debug)]
pub(crate) struct EventNotifier {
    db: Db,
    waiting: Mutex<Waiting>,
    /// Ends every wait when the service stops.
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Each tenant's highest `seq`, as of the last poll.
    tenants: HashMap<Uuid, watch::Sender<i64>>,
    is_polling: bool,
}

impl EventNotifier {
    pub(in crate::http) fn new(db: Db, stop: CancellationToken) -> Self {
        Self { db, waiting: Mutex::default(), stop }
    }

    /// Waits until the tenant has an event with a number above `seq`. Returns `false` if the service stops first.
    pub(super) async fn beyond(self: &Arc<Self>, tenant: TenantId, seq: i64) -> bool {
        let mut last = self.listen(tenant);
        let has_event = async { last.wait_for(|last| *last > seq).await.is_ok() };
        self.stop.run_until_cancelled(has_event).await.unwrap_or(false)
    }

    /// Returns whether the service is stopping.
    pub(super) fn is_over(&self) -> bool {
        self.stop.is_cancelled()
    }

    fn listen(self: &Arc<Self>, tenant: TenantId) -> watch::Receiver<i64> {
        let mut waiting = self.waiting();
        let last = waiting.tenants.entry(tenant.0).or_insert_with(|| watch::Sender::new(0)).subscribe();
        if !waiting.is_polling {
            waiting.is_polling = true;
            let polling = self.clone().poll();
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(polling));
        }
        last
    }

    /// Polls while any request waits.
    async fn poll(self: Arc<Self>) {
        loop {
            let Some(tenants) = self.listeners() else { return };
            let pause = match events::feed::last(&self.db, &tenants).await {
                Ok(last) => {
                    let waiting = self.waiting();
                    for (tenant, seq) in last {
                        if let Some(known) = waiting.tenants.get(&tenant) {
                            known.send_if_modified(|known| std::mem::replace(known, seq) != seq);
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

    fn listeners(&self) -> Option<Vec<Uuid>> {
        let mut waiting = self.waiting();
        waiting.tenants.retain(|_, last| last.receiver_count() > 0);
        waiting.is_polling = !waiting.tenants.is_empty();
        waiting.is_polling.then(|| waiting.tenants.keys().copied().collect())
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }
}
