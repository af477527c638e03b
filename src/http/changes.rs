//! Polls for changes of what this process has cached of API keys and tenants, so that a change takes effect in every process
//! within a second: while cached values are used, one small query four times a second reads what has changed of all keys and
//! tenants. What has changed is removed from the caches, and the rest is confirmed ([`Confirmations`]).
//!
//! [`Confirmations`]: crate::cache::confirmations::Confirmations

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::auth::KeyCache;
use crate::accept::Acceptor;
use crate::db::Db;
use crate::db::tenants::changes::{self, Cursor};

/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Polls for changes.
#[derive(Debug)]
pub(super) struct ChangePoll {
    pub db: Db,
    pub keys: Arc<KeyCache>,
    pub acceptor: Arc<Acceptor>,
}

impl ChangePoll {
    /// Polls while cached values are used, and records the use of API keys.
    pub(super) async fn run(self) {
        // Two loops, so that a slow write does not delay the confirmation that nothing has changed.
        tokio::join!(self.write_uses(), self.follow());
    }

    async fn write_uses(&self) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            self.keys.write_uses().await;
        }
    }

    async fn follow(&self) {
        let mut cursor = Cursor::default();
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            self.poll(&mut cursor).await;
        }
    }

    async fn poll(&self, cursor: &mut Cursor) {
        let confirmations = self.acceptor.confirmations();
        if !confirmations.take_use() {
            return;
        }
        let asked_at = Instant::now();
        match changes::poll(&self.db, cursor).await {
            Ok(changes) => {
                if changes.keys {
                    self.keys.clear();
                }
                self.acceptor.forget_changed(changes.settings.as_deref());
                // After the removals, so that no changed value is confirmed.
                confirmations.confirm(asked_at);
            }
            // Without a confirmation, cached values expire and are loaded again.
            Err(error) => {
                // The database may have failed over and lost the last changes, whose numbers other changes get then. So all count
                // as changed at the next poll.
                *cursor = Cursor::default();
                tracing::debug!(%error, "failed to poll for changes of API keys and tenants");
            }
        }
    }
}
