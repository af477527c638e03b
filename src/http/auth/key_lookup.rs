//! Looks up API keys in the database, those of the same moment in one statement, so that the first requests of many keys do
//! not cost a statement each.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::batcher::{Lookups, Pending};
use crate::db::keys::{self, FoundKey};
use crate::db::{Db, DbError};

/// Hash of a key's secret.
type Hash = [u8; 32];

const LOOKUP: &str = "keys.find";

/// Looks up keys in batches.
#[derive(Debug)]
pub(super) struct KeyLookups(Lookups<Hash, FoundKey, DbError>);

impl KeyLookups {
    /// Starts the tasks that look up; they end when this is dropped.
    pub(super) fn start(db: &Db) -> Self {
        let db = db.clone();
        let run = move |pending| find(db.clone(), pending);
        // The end of the process does not wait for them.
        Self(Lookups::start(&TaskTracker::new(), || DbError::closed(LOOKUP), run))
    }

    /// Returns the key with this hash, including revoked and expired keys, and what its tenant allows.
    pub(super) async fn find(&self, hash: Hash) -> Result<Option<FoundKey>, Arc<DbError>> {
        self.0.find(hash).await
    }
}

async fn find(db: Db, pending: Pending<Hash, FoundKey, DbError>) -> Pending<Hash, FoundKey, DbError> {
    pending.complete(async |hashes| keys::find_many(&db, hashes).await).await
}
