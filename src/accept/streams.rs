//! Caches the streams of each tenant until they change ([`crate::db::changes`]). Several tenants whose streams are missing are read
//! with one statement.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::batcher::{Lookups, Pending};
use crate::cache::TtlCache;
use crate::cache::confirmations::{MAX_UNCONFIRMED, Moment};
use crate::db::changes::{Cached, Caches, Outdated, TenantSettings};
use crate::db::streams::{self, StreamSummary};
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;

/// Maximum number of cached tenants.
const MAX_CACHED_TENANTS: usize = 10_000;

const LOOKUP: &str = "streams.of_tenants";

/// The streams of a tenant.
#[derive(Debug, Clone, Default)]
struct TenantStreams {
    /// Names of the streams, most urgent first.
    names: Arc<[String]>,
    /// Streams whose messages carry an unsubscribe link.
    with_links: Arc<[String]>,
}

impl From<Vec<StreamSummary>> for TenantStreams {
    fn from(rows: Vec<StreamSummary>) -> Self {
        let with_links = rows.iter().filter(|row| row.unsubscribe).map(|row| row.name.clone()).collect();
        Self { names: rows.into_iter().map(|row| row.name).collect(), with_links }
    }
}

#[derive(Debug)]
pub(super) struct Streams {
    cache: TtlCache<TenantId, TenantStreams, Moment>,
    caches: Arc<Caches>,
    lookups: Lookups<TenantId, TenantStreams, DbError>,
}

impl Streams {
    /// Starts the tasks that look up; they end when this is dropped.
    pub(super) fn start(db: &Db, caches: Arc<Caches>, tasks: &TaskTracker) -> Arc<Self> {
        let db = db.clone();
        let run = move |pending| find(db.clone(), pending);
        let lookups = Lookups::start(tasks, || DbError::closed(LOOKUP), run);
        let cache = TtlCache::new(MAX_CACHED_TENANTS, MAX_UNCONFIRMED);
        let streams = Arc::new(Self { cache, caches, lookups });
        streams.caches.add(&streams);
        streams
    }

    /// Returns the names of a tenant's streams, most urgent first.
    pub(super) async fn names(&self, tenant: TenantId) -> Result<Arc<[String]>, Arc<DbError>> {
        Ok(self.get(tenant).await?.names)
    }

    /// Returns whether messages of a stream carry an unsubscribe link.
    pub(super) async fn has_unsubscribe_links(&self, tenant: TenantId, name: &str) -> Result<bool, Arc<DbError>> {
        Ok(self.get(tenant).await?.with_links.iter().any(|stream| stream == name))
    }

    async fn get(&self, tenant: TenantId) -> Result<TenantStreams, Arc<DbError>> {
        let load = || async { self.lookups.find(tenant).await.map(Option::unwrap_or_default) };
        self.cache.get_or_load(&tenant, self.caches.now(), load).await
    }
}

impl Cached for Streams {
    fn forget(&self, outdated: Outdated) {
        match outdated {
            Outdated::Settings(tenant, TenantSettings::Streams) => {
                self.cache.remove(&tenant);
                // The test tenant has copies of them.
                self.cache.remove(&tenant.test());
            }
            Outdated::Everything => self.cache.clear(),
            Outdated::Keys | Outdated::Settings(..) => {}
        }
    }
}

type PendingStreams = Pending<TenantId, TenantStreams, DbError>;

async fn find(db: Db, pending: PendingStreams) -> PendingStreams {
    pending.complete(async |tenants| load(&db, tenants).await).await
}

async fn load(db: &Db, tenants: &[TenantId]) -> Result<HashMap<TenantId, TenantStreams>, DbError> {
    let streams = streams::of_tenants(db, tenants).await?;
    Ok(streams.into_iter().map(|(tenant, rows)| (tenant, rows.into())).collect())
}
