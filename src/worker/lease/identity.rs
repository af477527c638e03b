//! Under which id this process claims. A worker that was silent for too long has been declared dead by others; it
//! goes on under a new id, so that what it did under the old one no longer counts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::clock::Uptime;
use crate::db::{self, Db, DbError};
use crate::domain::fingerprint::Fingerprints;

/// The id, and when it was last confirmed.
#[derive(Debug)]
pub(crate) struct Identity {
    lease: Duration,
    settings: Fingerprints,
    state: Mutex<State>,
    /// Set when the worker gives up what it still has: nothing of it may begin any more.
    has_left: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
struct State {
    id: Uuid,
    /// Taken before the heartbeat was sent, so that we think ourselves dead before others do.
    confirmed: Uptime,
}

impl Identity {
    /// Registers a new worker.
    pub(crate) async fn register(db: &Db, lease: Duration, settings: Fingerprints) -> Result<Self, DbError> {
        let state = new_worker(db, lease, &settings).await?;
        Ok(Self { lease, settings, state: Mutex::new(state), has_left: AtomicBool::new(false) })
    }

    /// The id to claim under; none while the lease may have run out.
    pub(crate) fn current(&self) -> Option<Uuid> {
        let state = self.state();
        let is_sure = state.confirmed.elapsed() < self.lease / 2 && !self.has_left.load(Ordering::Relaxed);
        is_sure.then_some(state.id)
    }

    /// Whether what was claimed under this id is still ours.
    pub(crate) fn holds(&self, lease: Uuid) -> bool {
        let state = self.state();
        state.id == lease && state.confirmed.elapsed() < self.lease && !self.has_left.load(Ordering::Relaxed)
    }

    /// From now on nothing is ours.
    pub(crate) fn leave(&self) {
        self.has_left.store(true, Ordering::Relaxed);
    }

    /// For how long the database has been answering heartbeats in time: a worker that could not speak for a while
    /// must not conclude that the others are dead.
    pub(crate) fn is_fresh(&self) -> bool {
        self.state().confirmed.elapsed() < self.lease / 2
    }

    /// Says that we are alive; takes a new id where we were declared dead.
    pub(crate) async fn beat(&self, db: &Db) -> Result<(), DbError> {
        let State { id, .. } = self.state();
        let asked = Uptime::now();
        let state = if db::workers::heartbeat(db, id).await? {
            State { id, confirmed: asked }
        } else if self.has_left.load(Ordering::Relaxed) {
            // It has signed off: nobody would ever take the new id off the list.
            return Ok(());
        } else {
            tracing::warn!(worker = %id, "others declared this worker dead while it was silent; going on under a new id");
            new_worker(db, self.lease, &self.settings).await?
        };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    /// Gives everything back and leaves.
    pub(crate) async fn deregister(&self, db: &Db, now: DateTime<Utc>) -> Result<(), DbError> {
        db::workers::deregister(db, self.state().id, now).await
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn new_worker(db: &Db, lease: Duration, settings: &Fingerprints) -> Result<State, DbError> {
    let id = Uuid::now_v7();
    let confirmed = Uptime::now();
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".into());
    let pid = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    let registration = db::workers::Registration { id, host, pid, lease, settings: settings.clone() };
    db::workers::register(db, &registration).await?;
    Ok(State { id, confirmed })
}
