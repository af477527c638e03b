//! Tells those who wait that a tenant has events they have not seen, whichever process wrote them. While anybody waits
//! the database is asked a few times a second, once for all who do; while nobody waits, not at all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::db::{Db, events};
use crate::domain::id::TenantId;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(100);
/// The same after one that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What the waiting share.
#[derive(Debug)]
pub(crate) struct EventNotifier {
    db: Db,
    waiting: Mutex<Waiting>,
    /// Once the service stops, nobody waits any longer.
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The number of each tenant's last event, as of the last look.
    tenants: HashMap<Uuid, watch::Sender<i64>>,
    is_looking: bool,
}

impl EventNotifier {
    pub(in crate::http) fn new(db: Db, stop: CancellationToken) -> Self {
        Self { db, waiting: Mutex::default(), stop }
    }

    /// Waits until the tenant has an event with a number above `seq`. Answers `false` where the service stops first.
    pub(super) async fn beyond(self: &Arc<Self>, tenant: TenantId, seq: i64) -> bool {
        let mut last = self.listen(tenant);
        let event_notifier = async { last.wait_for(|last| *last > seq).await.is_ok() };
        self.stop.run_until_cancelled(event_notifier).await.unwrap_or(false)
    }

    /// Whether the service stops.
    pub(super) fn is_over(&self) -> bool {
        self.stop.is_cancelled()
    }

    fn listen(self: &Arc<Self>, tenant: TenantId) -> watch::Receiver<i64> {
        let mut waiting = self.waiting();
        let last = waiting.tenants.entry(tenant.0).or_insert_with(|| watch::Sender::new(0)).subscribe();
        if !waiting.is_looking {
            waiting.is_looking = true;
            let looking = self.clone().look();
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(looking));
        }
        last
    }

    /// Looks for as long as anybody waits.
    async fn look(self: Arc<Self>) {
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
                    EVERY
                }
                Err(error) => {
                    tracing::debug!(%error, "could not look for new events");
                    PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn listeners(&self) -> Option<Vec<Uuid>> {
        let mut waiting = self.waiting();
        waiting.tenants.retain(|_, last| last.receiver_count() > 0);
        waiting.is_looking = !waiting.tenants.is_empty();
        waiting.is_looking.then(|| waiting.tenants.keys().copied().collect())
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
