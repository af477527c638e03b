//! Deletes data that nothing refers to any more: unused blobs, abandoned uploads, and the idempotency keys of deleted
//! messages; objects of deleted attachments; old SMTP conversations; and expired entries of greylisting. Every worker runs it, in
//! small transactions that skip rows which another worker has locked.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use parking_lot::Mutex;

use super::objects;
use crate::clock::SharedClock;
use crate::db::messages::{blob_cleanup, idempotency, uploads};
use crate::db::queue::conversations;
use crate::db::receiving::greylist;
use crate::db::{Db, DbError, RestoreGate};
use crate::domain::records::retention::Period;

const INTERVAL: Duration = Duration::from_mins(10);
/// Minimum time for which idempotency keys are kept.
const KEY_LIFETIME: TimeDelta = TimeDelta::hours(24);
/// Maximum number of steps through the table of idempotency keys in one run; the next run continues.
const KEY_STEPS: usize = 64;

/// Maximum number of times in one run that expired entries of greylisting are deleted, a thousand each time.
const GREYLIST_STEPS: usize = 64;

/// Deletes unused data.
#[derive(Debug)]
pub(crate) struct Cleanup {
    db: Db,
    clock: SharedClock,
    /// How long a blob that no message refers to is kept after its last use.
    unused_blobs: Duration,
    /// How long SMTP conversations are kept.
    conversations: Duration,
    /// How long idempotency keys are kept whose message is stored.
    idempotency: Period,
    gate: Arc<RestoreGate>,
    /// The block of the table of idempotency keys with which the next run begins.
    next_block: Mutex<i64>,
}

/// What a run has deleted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CleanedUp {
    /// Unused blobs.
    pub blobs: u64,
    /// Bytes of these blobs.
    pub bytes: u64,
    /// Uploads that were abandoned or discarded, and deleted blobs, whose chunks were deleted.
    pub uploads: u64,
    /// Idempotency keys.
    pub idempotency_keys: u64,
    /// SMTP conversations.
    pub conversations: u64,
    /// Objects in the object store that no attachment refers to.
    pub objects: u64,
    /// Recipients that are no longer held, because the object with their attachment is back.
    pub released: u64,
}

pub(crate) async fn run(cleanup: Arc<Cleanup>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (done, error) = cleanup.once().await;
        if done.blobs > 0 {
            let CleanedUp { blobs, bytes, .. } = done;
            tracing::info!(
                event = "unused_blobs_deleted",
                blobs,
                bytes,
                "deleted attachments that no message refers to"
            );
        }
        if done.idempotency_keys > 0 {
            let keys = done.idempotency_keys;
            tracing::info!(event = "idempotency_keys_deleted", keys, "deleted idempotency keys of deleted messages");
        }
        if let Some(error) = error {
            tracing::debug!(event = "cleanup_failed", %error, "failed to delete unused data; trying again");
        }
    }
}

impl Cleanup {
    pub(crate) fn new(
        db: Db,
        clock: SharedClock,
        unused_blobs: Duration,
        conversations: Duration,
        idempotency: Period,
        gate: Arc<RestoreGate>,
    ) -> Self {
        Self { db, clock, unused_blobs, conversations, idempotency, gate, next_block: Mutex::default() }
    }

    /// Runs all tasks, unless the restore guard forbids deletion. A failed one does not prevent the others; returns
    /// the last error.
    pub(crate) async fn once(&self) -> (CleanedUp, Option<DbError>) {
        let (mut done, mut failed) = (CleanedUp::default(), None);
        if !self.gate.is_open() {
            return (done, failed);
        }
        match blob_cleanup::remove_unused(&self.db, self.unused_blobs, self.clock.now()).await {
            Ok(removed) => (done.blobs, done.bytes) = (removed.blobs, removed.bytes),
            Err(error) => failed = Some(error),
        }
        match uploads::remove_expired(&self.db, self.clock.now()).await {
            Ok(removed) => done.uploads = removed,
            Err(error) => failed = Some(error),
        }
        if let Some(storage) = self.db.objects() {
            // Boxed, because most services have none.
            failed = Box::pin(objects::run(&self.db, storage, &self.clock, &mut done)).await.err().or(failed);
        }
        match self.remove_idempotency_keys().await {
            Ok(removed) => done.idempotency_keys = removed,
            Err(error) => failed = Some(error),
        }
        let age = TimeDelta::from_std(self.conversations).unwrap_or(TimeDelta::MAX);
        match conversations::remove_old(&self.db, self.clock.now(), age).await {
            Ok(removed) => done.conversations = removed,
            Err(error) => failed = Some(error),
        }
        for _ in 0..GREYLIST_STEPS {
            match greylist::remove_expired(&self.db, self.clock.now()).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        (done, failed)
    }

    async fn remove_idempotency_keys(&self) -> Result<u64, DbError> {
        let (before, mut removed) = (self.clock.now() - KEY_LIFETIME, 0);
        let expired_before = self.idempotency.cutoff(self.clock.now());
        for _ in 0..KEY_STEPS {
            let block = *self.next_block.lock();
            let step = idempotency::remove_expired(&self.db, block, before, expired_before).await?;
            removed += step.removed;
            *self.next_block.lock() = step.next.unwrap_or(0);
            if step.next.is_none() {
                break;
            }
        }
        Ok(removed)
    }
}
