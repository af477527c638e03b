//! Looks up API keys in the database. Lookups that arrive while a statement runs share the next one, so that the first
//! requests of many keys do not cost a statement each.

use std::collections::HashMap;
use std::sync::Arc;

use crate::batcher::{BatchLimit, Batcher, Requests};
use crate::db::keys::{self, FoundKey};
use crate::db::{Db, DbError};

/// Hash of a key's secret.
type Hash = [u8; 32];
type Found = Result<Option<FoundKey>, Arc<DbError>>;

/// Number of lookups that may wait before the next ones wait for space.
const QUEUE_CAPACITY: usize = 1_024;
/// Maximum number of lookups per statement.
static BATCH_LIMIT: BatchLimit<Hash> = BatchLimit { items: 256, bytes: u64::MAX, size: |_| 0 };
/// Number of tasks that look up. With more than one, a statement that waits for a connection does not delay all lookups.
const TASKS: usize = 2;

const LOOKUP: &str = "keys.find";

/// Looks up keys in batches.
#[derive(Debug)]
pub(super) struct KeyLookups(Batcher<Hash, Found>);

impl KeyLookups {
    /// Starts the tasks that look up; they end when this is dropped.
    pub(super) fn start(db: &Db) -> Self {
        let (lookups, requests) = Batcher::new(QUEUE_CAPACITY, &BATCH_LIMIT);
        for _ in 0..TASKS {
            tokio::spawn(run(db.clone(), requests.clone()));
        }
        Self(lookups)
    }

    /// Returns the key with this hash, including revoked and expired keys, and what its tenant allows.
    pub(super) async fn find(&self, hash: Hash) -> Found {
        self.0.submit(hash).await.unwrap_or_else(|| Err(Arc::new(DbError::closed(LOOKUP))))
    }
}

async fn run(db: Db, requests: Requests<Hash, Found>) {
    while let Some(batch) = requests.next_batch().await {
        match keys::find_many(&db, &batch.items).await {
            Ok(found) => {
                let found: HashMap<Hash, FoundKey> = found.into_iter().collect();
                for (hash, reply) in batch {
                    reply.send(Ok(found.get(&hash).cloned()));
                }
            }
            Err(error) => crate::batcher::reply_all(batch.replies, &Err(Arc::new(error))),
        }
    }
}
