//! Finds the lane of a recipient.
//!
//! With one lane per domain, many new lanes may be needed at once. Lookups that arrive while a statement runs share the
//! next statement.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::future::try_join_all;
use quick_cache::sync::Cache;
use tokio_util::task::TaskTracker;

use crate::batcher::{Lookups, MAX_LOOKUPS, Pending};
use crate::db::lanes::dedicated::DedicatedLanes;
use crate::db::lanes::{self, LaneName, NamedLane};
use crate::db::{Db, DbError};
use crate::domain::id::{InboundRouteId, TenantId};
use crate::domain::message::NewMessage;
use crate::domain::routing::{RouteName, RouteTable, is_simulated};

/// Maximum number of cached lanes.
const MAX_CACHED_LANES: usize = 200_000;

/// Finds lanes and caches them. A lane's id never changes, so entries do not expire.
#[derive(Debug)]
pub(super) struct Lanes {
    routes: RouteTable,
    dedicated: DedicatedLanes,
    cache: Cache<Arc<LaneName>, NamedLane>,
    lookups: Lookups<Arc<LaneName>, i64, DbError>,
}

impl Lanes {
    /// Starts the tasks that look up; they end when this is dropped.
    pub(super) fn start(db: &Db, routes: RouteTable, tasks: &TaskTracker) -> Self {
        let dedicated = DedicatedLanes::new(db.clone());
        let db = db.clone();
        let run = move |pending| find_or_create(db.clone(), pending);
        let lookups = Lookups::start(tasks, || DbError::closed(LOOKUP), run);
        Self { dedicated, routes, cache: Cache::new(MAX_CACHED_LANES), lookups }
    }

    /// Returns the lanes of a message's recipients, in the order of the recipients.
    pub(super) async fn for_message(
        &self,
        tenant: TenantId,
        message: &NewMessage,
    ) -> Result<Vec<NamedLane>, Arc<DbError>> {
        try_join_all(places(message).map(|place| self.for_place(tenant, place))).await
    }

    /// Returns the lanes of several messages' recipients, each list in the order of the recipients. Each lane is looked
    /// up once.
    pub(super) async fn for_messages(
        &self,
        tenant: TenantId,
        messages: &[&NewMessage],
    ) -> Result<Vec<Vec<NamedLane>>, Arc<DbError>> {
        let distinct: BTreeSet<Place<'_>> = messages.iter().flat_map(|message| places(message)).collect();
        let distinct: Vec<Place<'_>> = distinct.into_iter().collect();
        let mut lanes = HashMap::with_capacity(distinct.len());
        // Not all at once: the lookups of other requests would wait behind them.
        for part in distinct.chunks(MAX_LOOKUPS) {
            let lookups = part.iter().map(|place| self.for_place(tenant, *place));
            lanes.extend(part.iter().copied().zip(try_join_all(lookups).await?));
        }
        let lanes_of = |message: &NewMessage| places(message).filter_map(|place| lanes.get(&place).cloned()).collect();
        Ok(messages.iter().map(|message| lanes_of(message)).collect())
    }

    async fn for_place(&self, tenant: TenantId, place: Place<'_>) -> Result<NamedLane, Arc<DbError>> {
        let (stream, from, domain, inbound) = place;
        match inbound.filter(|_| !is_simulated(tenant, domain)) {
            Some(id) => self.find_shared(tenant, stream, &RouteName::Inbound(id)).await,
            None => self.for_domain(tenant, stream, from, domain).await,
        }
    }

    /// Returns the lane of messages that are passed on to the server of an inbound route: each route has a separate lane, so that an
    /// unreachable server delays no other messages.
    async fn find_shared(&self, tenant: TenantId, stream: &str, route: &RouteName) -> Result<NamedLane, Arc<DbError>> {
        let name = LaneName { tenant, stream: stream.to_owned(), route: route.to_string(), domain: "*".to_owned() };
        self.find(name).await
    }

    /// Returns the lane of messages from `sender_domain` to `domain` in a stream. A route through relays has one lane
    /// for all domains except those with a dedicated lane: the relays are the only destination that can be slow, so
    /// 100,000 domains do not need 100,000 lanes. The simulator, to which all test messages go, has one lane for all
    /// domains, too. On a route direct to MX, each domain has its own lane, so that an unreachable domain delays no other.
    pub(super) async fn for_domain(
        &self,
        tenant: TenantId,
        stream: &str,
        sender_domain: &str,
        domain: &str,
    ) -> Result<NamedLane, Arc<DbError>> {
        let route = self.routes.lookup(tenant, stream, sender_domain, domain);
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
        let dedicated = self.dedicated.current().await?;
        if dedicated.is_empty() {
            return Ok(None);
        }
        Ok(dedicated.get(&(tenant.0, stream.to_owned(), route.to_string(), domain.to_owned())).copied())
    }

    async fn find(&self, name: LaneName) -> Result<NamedLane, Arc<DbError>> {
        if let Some(lane) = self.cache.get(&name) {
            return Ok(lane);
        }
        let name = Arc::new(name);
        let found = self.lookups.find(name.clone()).await?;
        let id = found.ok_or_else(|| Arc::new(DbError::not_found(LOOKUP)))?;
        let lane = NamedLane { id, name: name.clone() };
        self.cache.insert(name, lane.clone());
        Ok(lane)
    }
}

const LOOKUP: &str = "lanes.find";

/// What a lane depends on: the stream, the sender's domain, the recipient's domain, and the inbound route of a message that is passed
/// on.
type Place<'a> = (&'a str, &'a str, &'a str, Option<InboundRouteId>);

/// Returns the places of a message's recipients, in the order of the recipients.
fn places(message: &NewMessage) -> impl Iterator<Item = Place<'_>> {
    let (stream, from) = (message.stream.as_str(), message.from.address.domain());
    let inbound = message.relay.and_then(|relay| relay.route);
    message.recipients.iter().map(move |recipient| (stream, from, recipient.mailbox.address.domain(), inbound))
}

type PendingLookups = Pending<Arc<LaneName>, i64, DbError>;
/// Ids of lanes by name.
type Ids = HashMap<LaneName, i64>;

async fn find_or_create(db: Db, pending: PendingLookups) -> PendingLookups {
    let pending = pending.complete(async |names| lanes::find(&db, names).await).await;
    let pending = pending.complete(async |names| create(&db, names).await).await;
    // This finds the lanes that another process was creating at the same time.
    pending.complete(async |names| lanes::find(&db, names).await).await
}

/// Creates lanes. A lane that Postgres refuses is left out, so that the others are still created.
async fn create(db: &Db, names: &[Arc<LaneName>]) -> Result<Ids, DbError> {
    match lanes::create(db, names).await {
        Err(DbError::Refused { .. }) if names.len() > 1 => {}
        result => return result,
    }
    let mut created = Ids::new();
    for name in names {
        match lanes::create(db, std::slice::from_ref(name)).await {
            Ok(ids) => created.extend(ids),
            Err(error) if error.is_temporary() => return Err(error),
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
    Ok(created)
}
