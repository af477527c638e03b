//! Caches the inbound routes of domains until they change ([`crate::db::changes`]). Domains without routes are cached too, so that
//! clients that guess addresses do not reach the database each time.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::MatchedRoute;
use crate::cache::TtlCache;
use crate::cache::confirmations::{MAX_UNCONFIRMED, Moment};
use crate::db::changes::{Cached, Caches, Outdated, TenantSettings};
use crate::db::receiving::routes::{self, DomainRoute};
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::inbound::{InboundRecipient, RouteMatch};

/// Maximum number of cached domains.
const CAPACITY: usize = 1_024;

/// A route, and the match that it stands for.
#[derive(Debug)]
struct CachedRoute {
    matches: RouteMatch,
    route: MatchedRoute,
}

/// The routes of the domains that were looked up lately.
#[derive(Debug)]
pub(super) struct RouteCache {
    db: Db,
    caches: Arc<Caches>,
    domains: TtlCache<String, Arc<Vec<CachedRoute>>, Moment>,
}

impl RouteCache {
    pub(super) fn new(db: Db, caches: Arc<Caches>) -> Arc<Self> {
        let routes = Arc::new(Self { db, caches, domains: TtlCache::new(CAPACITY, MAX_UNCONFIRMED) });
        routes.caches.add(&routes);
        routes
    }

    /// Returns the most specific route of each tenant for a recipient.
    pub(super) async fn matches(&self, to: &str) -> Result<Vec<MatchedRoute>, DbError> {
        let Some(recipient) = InboundRecipient::parse(to) else { return Ok(Vec::new()) };
        let domain = recipient.domain.as_str();
        let load = || async { routes::of_domain(&self.db, domain).await.map(|rows| Arc::new(cached(rows, domain))) };
        let routes = self.domains.get_or_load(domain, self.caches.now(), load).await?;
        let mut best: BTreeMap<_, &CachedRoute> = BTreeMap::new();
        for route in routes.iter().filter(|route| route.matches.includes(&recipient)) {
            let own = best.entry(route.route.tenant).or_insert(route);
            if route.matches.rank() < own.matches.rank() {
                *own = route;
            }
        }
        Ok(best.into_values().map(|route| route.route.clone()).collect())
    }
}

impl Cached for RouteCache {
    fn forget(&self, outdated: Outdated) {
        match outdated {
            // The routes of a domain are those of several tenants, and depend on who of them is suspended or deleted, and on who has
            // verified the domain.
            Outdated::Keys
            | Outdated::Settings(_, TenantSettings::InboundRoutes | TenantSettings::Domains)
            | Outdated::Everything => self.domains.clear(),
            Outdated::Settings(..) => {}
        }
    }
}

fn cached(rows: Vec<DomainRoute>, domain: &str) -> Vec<CachedRoute> {
    let one = |row: DomainRoute| {
        let route = MatchedRoute {
            tenant: TenantId(row.tenant_id),
            route: row.id,
            is_relay: row.is_relay,
            is_suspended: row.is_suspended,
        };
        Some(CachedRoute { matches: RouteMatch::from_row(&row.kind, row.local, domain.to_owned())?, route })
    };
    rows.into_iter().filter_map(one).collect()
}
