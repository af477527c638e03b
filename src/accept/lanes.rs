//! Which lane a recipient waits in.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::db::lanes::{self, LaneName};
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;

/// Where mail goes by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// Everything through one relay: its mail waits in one lane a stream, whatever the domain, since the relay is the
    /// only destination there is to be slow. 100,000 domains cost nothing this way.
    Relay,
    /// To each domain's own servers: a lane a domain, so that one that is down delays no other.
    Mx,
}

/// Beyond this many lanes the cache starts anew; it holds what is in use, not what ever was.
const CACHED: usize = 200_000;

/// Finds lanes, and remembers them: a lane's id never changes.
#[derive(Debug)]
pub(super) struct Lanes {
    db: Db,
    routing: Routing,
    known: RwLock<HashMap<LaneName, i64>>,
}

impl Lanes {
    pub(super) fn new(db: Db, routing: Routing) -> Self {
        Self { db, routing, known: RwLock::default() }
    }

    /// The lane of mail to `domain` in a stream.
    pub(super) async fn id(&self, tenant: TenantId, stream: &str, domain: &str) -> Result<i64, DbError> {
        let (route, domain) = match self.routing {
            Routing::Relay => ("relay", "*"),
            Routing::Mx => ("mx", domain),
        };
        let name = LaneName { tenant, stream: stream.to_owned(), route, domain: domain.to_owned() };
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
}
