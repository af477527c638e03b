//! The id under which this process claims. A worker without a heartbeat for too long is declared dead by others; it
//! then continues under a new id, and what it still does under the old id has no effect.

use std::sync::atomic::{AtomicBool, Ordering};

use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::clock::Uptime;
use crate::db::{self, Db, DbError};
use crate::domain::installation::fingerprint::Fingerprints;
use crate::telemetry;

/// The id of a worker, and when the database last confirmed it.
#[derive(Debug)]
pub(crate) struct Identity {
    lease: Duration,
    settings: Fingerprints,
    state: Mutex<State>,
    /// Set when the worker gives up its leases: none of them may be used any more.
    has_left: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
struct State {
    id: Uuid,
    /// Measured before the heartbeat was sent, so that this worker considers itself dead before others do.
    confirmed: Uptime,
}

impl Identity {
    /// Registers a new worker.
    pub(crate) async fn register(db: &Db, lease: Duration, settings: Fingerprints) -> Result<Self, DbError> {
        let state = register(db, lease, &settings).await?;
        Ok(Self { lease, settings, state: Mutex::new(state), has_left: AtomicBool::new(false) })
    }

    /// Returns the id to claim under, or `None` while the lease may have expired.
    pub(crate) fn current(&self) -> Option<Uuid> {
        let state = self.state();
        let is_certain = state.confirmed.elapsed() < self.lease / 2 && !self.has_left.load(Ordering::Relaxed);
        is_certain.then_some(state.id)
    }

    /// Returns whether a lease under this id is still valid.
    pub(crate) fn is_valid(&self, lease: Uuid) -> bool {
        let state = self.state();
        state.id == lease && state.confirmed.elapsed() < self.lease && !self.has_left.load(Ordering::Relaxed)
    }

    /// Gives up all leases from now on.
    pub(crate) fn leave(&self) {
        self.has_left.store(true, Ordering::Relaxed);
    }

    /// Returns whether the database confirmed a heartbeat recently. A worker without such a confirmation may have been
    /// cut off from the database, and must not conclude that the others are dead.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.state().confirmed.elapsed() < self.lease / 2
    }

    /// Sends a heartbeat, and registers under a new id if others declared this worker dead.
    pub(crate) async fn send_heartbeat(&self, db: &Db) -> Result<(), DbError> {
        let State { id, .. } = self.state();
        let sent_at = Uptime::now();
        let state = if db::workers::heartbeat(db, id).await? {
            State { id, confirmed: sent_at }
        } else if self.has_left.load(Ordering::Relaxed) {
            // The worker has deregistered: nothing would ever remove a new id.
            return Ok(());
        } else {
            tracing::warn!(
                event = "worker_declared_dead",
                worker = %id,
                "other workers declared this worker dead while it was silent; continuing under a new id"
            );
            register(db, self.lease, &self.settings).await?
        };
        *self.state.lock() = state;
        Ok(())
    }

    /// Releases all leases and removes the worker.
    pub(crate) async fn deregister(&self, db: &Db, now: DateTime<Utc>) -> Result<(), DbError> {
        db::workers::deregister(db, self.state().id, now).await
    }

    fn state(&self) -> State {
        *self.state.lock()
    }
}

async fn register(db: &Db, lease: Duration, settings: &Fingerprints) -> Result<State, DbError> {
    let id = Uuid::now_v7();
    let confirmed = Uptime::now();
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".into());
    let pid = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    let registration = db::workers::Registration { id, host, pid, lease, settings: settings.clone() };
    db::workers::register(db, &registration).await?;
    telemetry::set_worker_id(id);
    Ok(State { id, confirmed })
}
