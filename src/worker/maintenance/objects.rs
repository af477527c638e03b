//! Deletes objects of the object store that no attachment refers to, and releases recipients whose missing object is back.

use futures_util::stream::{self, StreamExt as _};

use super::cleanup::CleanedUp;
use crate::clock::SharedClock;
use crate::db::messages::blobs::objects::{self, HeldFor};
use crate::db::{Db, DbError};
use crate::object_storage::ObjectStorage;

/// Number of objects that are deleted at the same time.
const CONCURRENCY: usize = 8;

/// Does both once. The rest of what the store does not delete now follows in a later run.
pub(super) async fn run(
    db: &Db,
    storage: &ObjectStorage,
    clock: &SharedClock,
    done: &mut CleanedUp,
) -> Result<(), DbError> {
    delete(db, storage, clock, done).await?;
    let mut last = None;
    loop {
        let page = objects::held(db, last.as_ref()).await?;
        let Some(end) = page.last().cloned() else { return Ok(()) };
        for held in &page {
            match storage.size(&held.key).await {
                Ok(None) => {}
                Ok(Some(_)) => done.released += release(db, held, clock).await?,
                // The next run looks again.
                Err(_) => return Ok(()),
            }
        }
        last = Some(end);
    }
}

async fn release(db: &Db, held: &HeldFor, clock: &SharedClock) -> Result<u64, DbError> {
    let recipients = objects::release_held(db, held, clock.now()).await?;
    tracing::info!(
        event = "missing_object_is_back",
        key = held.key,
        recipients,
        "an attachment is in the object store again; released the recipients that waited for it"
    );
    Ok(recipients)
}

async fn delete(db: &Db, storage: &ObjectStorage, clock: &SharedClock, done: &mut CleanedUp) -> Result<(), DbError> {
    loop {
        // Marks them, so that no attachment can refer to them any more.
        let due = objects::claim_due(db, clock.now()).await?;
        if due.keys.is_empty() {
            return Ok(());
        }
        let (count, until) = (due.keys.len(), due.until);
        let deletions: Vec<_> = due.keys.into_iter().map(|key| deleted(storage, key)).collect();
        let deleted: Vec<Option<String>> = stream::iter(deletions).buffer_unordered(CONCURRENCY).collect().await;
        let deleted: Vec<String> = deleted.into_iter().flatten().collect();
        objects::forget(db, &deleted, until).await?;
        done.objects += deleted.len() as u64;
        if deleted.len() < count {
            return Ok(());
        }
    }
}

/// Deletes an object. Returns its key, unless it failed.
async fn deleted(storage: &ObjectStorage, key: String) -> Option<String> {
    storage.delete(&key).await.is_ok().then_some(key)
}
