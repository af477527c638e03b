//! Which lane a recipient waits in.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::db::lanes::{self, LaneName};
use crate::db::splits::Splits;
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::routing::{RouteName, RouteTable};

/// Beyond this many lanes the cache starts anew; it holds what is in use, not what ever was.
const CACHED: usize = 200_000;

/// Finds lanes, and remembers them: a lane's id never changes.
#[derive(Debug)]
pub(super) struct Lanes {
    db: Db,
    routes: RouteTable,
    splits: Splits,
    known: RwLock<HashMap<LaneName, i64>>,
}

impl Lanes {
    pub(super) fn new(db: Db, routes: RouteTable) -> Self {
        Self { splits: Splits::new(db.clone()), db, routes, known: RwLock::default() }
    }

    /// The lane of mail from `sender_domain` to `domain` in a stream. Through relays it is one for all domains but those
    /// split off, since relays are the only destination there is to be slow: 100,000 domains cost nothing this way. Direct
    /// it is one a domain, so that one that is down delays no other.
    pub(super) async fn id(
        &self,
        tenant: TenantId,
        stream: &str,
        sender_domain: &str,
        domain: &str,
    ) -> Result<i64, DbError> {
        let route = self.routes.of(stream, sender_domain);
        if !route.is_mx()
            && let Some(id) = self.own_lane(tenant, stream, route, domain).await?
        {
            return Ok(id);
        }
        let domain = if route.is_mx() { domain } else { "*" };
        let name = LaneName { tenant, stream: stream.to_owned(), route: route.to_string(), domain: domain.to_owned() };
        if let Some(id) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return Ok(*id);
        }
        let id = lanes::ensure(&self.db, &name).await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHED {
            known.clear();
        }
        known.insert(name, id);
        Ok(id)
    }

    /// The lane that a domain has of its own on a route that else has one for all.
    async fn own_lane(
        &self,
        tenant: TenantId,
        stream: &str,
        route: &RouteName,
        domain: &str,
    ) -> Result<Option<i64>, DbError> {
        let splits = self.splits.current().await?;
        if splits.is_empty() {
            return Ok(None);
        }
        Ok(splits.get(&(tenant.0, stream.to_owned(), route.to_string(), domain.to_owned())).copied())
    }
}
