//! Caches the streams of each tenant for a few seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::TtlCache;
use crate::db::{self, Db, DbError};
use crate::domain::id::TenantId;

/// Cache TTL.
const CACHE_TTL: Duration = Duration::from_secs(5);
/// Maximum number of cached tenants.
const MAX_CACHED_TENANTS: usize = 10_000;

#[derive(Debug, Clone)]
struct TenantStreams {
    /// Names of the streams, most urgent first.
    names: Arc<[String]>,
    /// Streams whose messages carry an unsubscribe link.
    with_links: Arc<[String]>,
}

#[derive(Debug)]
pub(super) struct Streams {
    db: Db,
    cache: TtlCache<TenantId, TenantStreams>,
}

impl Streams {
    pub(super) fn new(db: Db) -> Self {
        Self { db, cache: TtlCache::new(MAX_CACHED_TENANTS, CACHE_TTL) }
    }

    /// Clears the cache.
    pub(super) fn clear(&self) {
        self.cache.clear();
    }

    /// Returns the names of a tenant's streams, most urgent first.
    pub(super) async fn names(&self, tenant: TenantId) -> Result<Arc<[String]>, DbError> {
        Ok(self.get(tenant).await?.names)
    }

    /// Returns whether messages of a stream carry an unsubscribe link.
    pub(super) async fn has_unsubscribe_links(&self, tenant: TenantId, name: &str) -> Result<bool, DbError> {
        Ok(self.get(tenant).await?.with_links.iter().any(|stream| stream == name))
    }

    async fn get(&self, tenant: TenantId) -> Result<TenantStreams, DbError> {
        self.cache.get_or_load(&tenant, Instant::now(), || self.load(tenant)).await
    }

    async fn load(&self, tenant: TenantId) -> Result<TenantStreams, DbError> {
        let rows = db::streams::all(&self.db, tenant).await?;
        let with_links = rows.iter().filter(|row| row.unsubscribe).map(|row| row.name.clone()).collect();
        let names = rows.into_iter().map(|row| row.name).collect();
        Ok(TenantStreams { names, with_links })
    }
}
