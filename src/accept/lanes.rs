//! Finds the lane of a recipient.
//!
//! With one lane per domain, many new lanes may be needed at once: lookups that arrive while a statement runs share the
//! next one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::future::try_join_all;
use quick_cache::sync::Cache;
use tokio_util::task::TaskTracker;

use crate::batcher::{BatchLimit, Batcher, Reply, Requests, reply_all};
use crate::db::lanes::dedicated::DedicatedLanes;
use crate::db::lanes::{self, LaneName, NamedLane};
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::message::NewMessage;
use crate::domain::routing::{RouteName, RouteTable};

/// Maximum number of cached lanes.
const CACHED: usize = 200_000;
/// Capacity of the lookup queue, in lanes.
const WAITING: usize = 1_024;
/// Lookups per statement.
static BATCH_LIMIT: BatchLimit<Arc<LaneName>> = BatchLimit { items: 256, bytes: u64::MAX, size: |_| 0 };
/// Number of finders. With more than one, a finder that waits for a lock on a new lane does not delay all lookups.
const FINDERS: usize = 2;

type Found = Result<i64, Arc<DbError>>;

/// Finds lanes and caches them. A lane's id never changes, so entries do not expire.
#[derive(Debug)]
pub(super) struct Lanes {
    routes: RouteTable,
    splits: DedicatedLanes,
    known: Cache<Arc<LaneName>, NamedLane>,
    unknown: Batcher<Arc<LaneName>, Found>,
}

impl Lanes {
    /// Starts the finders; they end when this is dropped.
    pub(super) fn start(db: &Db, routes: RouteTable, tasks: &TaskTracker) -> Self {
        let (unknown, requests) = Batcher::new(WAITING, &BATCH_LIMIT);
        for _ in 0..FINDERS {
            tasks.spawn(find(db.clone(), requests.clone()));
        }
        Self { splits: DedicatedLanes::new(db.clone()), routes, known: Cache::new(CACHED), unknown }
    }

    /// Returns the lanes of a message's recipients, in the order of the recipients.
    pub(super) async fn all(&self, tenant: TenantId, message: &NewMessage) -> Result<Vec<NamedLane>, Arc<DbError>> {
        let from = message.from.address.domain();
        let lane = |domain| self.one(tenant, &message.stream, from, domain);
        try_join_all(message.recipients.iter().map(|recipient| lane(recipient.mailbox.address.domain()))).await
    }

    /// Returns the lane of messages from `sender_domain` to `domain` in a stream. A route through relays has one lane
    /// for all domains except those with a dedicated lane: the relays are the only destination that can be slow, so
    /// 100,000 domains need no lanes. Direct to MX each domain has its own lane, so that an unreachable domain delays
    /// no other.
    pub(super) async fn one(
        &self,
        tenant: TenantId,
        stream: &str,
        sender_domain: &str,
        domain: &str,
    ) -> Result<NamedLane, Arc<DbError>> {
        let route = self.routes.of(stream, sender_domain);
        let name = |domain: &str| LaneName {
            tenant,
            stream: stream.to_owned(),
            route: route.to_string(),
            domain: domain.to_owned(),
        };
        if route.is_mx() {
            return self.find(name(domain)).await;
        }
        match self.dedicated_lane(tenant, stream, route, domain).await? {
            Some(id) => Ok(NamedLane { id, name: Arc::new(name(domain)) }),
            None => self.find(name("*")).await,
        }
    }

    /// Returns the dedicated lane of a domain on a route with one lane for all domains.
    async fn dedicated_lane(
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

    async fn find(&self, name: LaneName) -> Result<NamedLane, Arc<DbError>> {
        if let Some(lane) = self.known.get(&name) {
            return Ok(lane);
        }
        let name = Arc::new(name);
        let found = self.unknown.submit(name.clone()).await;
        let id = found.ok_or_else(|| Arc::new(DbError::closed(FINDING)))??;
        let lane = NamedLane { id, name: name.clone() };
        self.known.insert(name, lane.clone());
        Ok(lane)
    }
}

const FINDING: &str = "lanes.find";

/// Pending lookups by lane.
type Waiting = BTreeMap<Arc<LaneName>, Vec<Reply<Found>>>;
/// Ids of lanes by name.
type Ids = HashMap<LaneName, i64>;

async fn find(db: Db, requests: Requests<Arc<LaneName>, Found>) {
    while let Some(batch) = requests.next_batch().await {
        let mut waiting = Waiting::new();
        for (name, reply) in batch {
            waiting.entry(name).or_default().push(reply);
        }
        let waiting = complete(waiting, async |names| lanes::find(&db, names).await).await;
        let waiting = complete(waiting, async |names| make(&db, names).await).await;
        // Lanes that another process was creating at the same time.
        let waiting = complete(waiting, async |names| lanes::find(&db, names).await).await;
        if !waiting.is_empty() {
            reply_all(waiting.into_values().flatten(), &Err(Arc::new(DbError::not_found(FINDING))));
        }
    }
}

/// Completes the lookups whose lanes `find` returns, or all of them if the database fails. Returns the others.
async fn complete(waiting: Waiting, find: impl AsyncFnOnce(&[Arc<LaneName>]) -> Result<Ids, DbError>) -> Waiting {
    if waiting.is_empty() {
        return waiting;
    }
    let names: Vec<Arc<LaneName>> = waiting.keys().cloned().collect();
    let found = find(&names).await.map_err(Arc::new);
    let mut left = Waiting::new();
    for (name, replies) in waiting {
        let id = match &found {
            Ok(ids) => ids.get(&*name).map(|id| Ok(*id)),
            Err(error) => Some(Err(error.clone())),
        };
        match id {
            Some(id) => reply_all(replies, &id),
            None => drop(left.insert(name, replies)),
        }
    }
    left
}

/// Creates lanes. A lane that Postgres refuses is left out, so that it does not fail the others.
async fn make(db: &Db, names: &[Arc<LaneName>]) -> Result<Ids, DbError> {
    match lanes::make(db, names).await {
        Err(DbError::Refused { .. }) if names.len() > 1 => {}
        result => return result,
    }
    let mut made = Ids::new();
    for name in names {
        match lanes::make(db, std::slice::from_ref(name)).await {
            Ok(one) => made.extend(one),
            Err(error) if error.is_passing() => return Err(error),
            Err(error) => tracing::error!(
                event = "lane_creation_refused",
                %error,
                stream = name.stream,
                route = name.route,
                domain = name.domain,
                "database refused to create a lane; requests that need it fail with 500 until this is fixed"
            ),
        }
    }
    Ok(made)
}
