//! Caches the streams of each tenant for a few seconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::db::{self, Db, DbError};
use crate::domain::id::TenantId;

/// Cache TTL.
const CACHE_TTL: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
struct Known {
    loaded_at: Instant,
    /// Names of the streams, most urgent first.
    names: Arc<[String]>,
    /// Streams whose messages carry an unsubscribe link.
    linking: Arc<[String]>,
}

#[derive(Debug)]
pub(super) struct Streams {
    db: Db,
    known: Mutex<HashMap<TenantId, Known>>,
}

impl Streams {
    pub(super) fn new(db: Db) -> Self {
        Self { db, known: Mutex::default() }
    }

    /// Clears the cache.
    pub(super) fn forget(&self) {
        self.known.lock().clear();
    }

    /// Returns the names of a tenant's streams, most urgent first.
    pub(super) async fn names(&self, tenant: TenantId) -> Result<Arc<[String]>, DbError> {
        Ok(self.get(tenant).await?.names)
    }

    /// Returns whether messages of a stream carry an unsubscribe link.
    pub(super) async fn asks_for_links(&self, tenant: TenantId, name: &str) -> Result<bool, DbError> {
        Ok(self.get(tenant).await?.linking.iter().any(|linking| linking == name))
    }

    async fn get(&self, tenant: TenantId) -> Result<Known, DbError> {
        let known = self.known.lock().get(&tenant).cloned();
        if let Some(known) = known
            && known.loaded_at.elapsed() < CACHE_TTL
        {
            return Ok(known);
        }
        let rows = db::streams::all(&self.db, tenant).await?;
        let linking = rows.iter().filter(|row| row.unsubscribe).map(|row| row.name.clone()).collect();
        let names = rows.into_iter().map(|row| row.name).collect();
        let loaded = Known { loaded_at: Instant::now(), names, linking };
        let mut known = self.known.lock();
        known.insert(tenant, loaded.clone());
        Ok(loaded)
    }
}
