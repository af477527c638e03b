//! Which lane a recipient waits in.
//!
//! With a lane a domain, many new ones come at a time: what is asked for while statements are under way goes into the next one
//! together.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::future::try_join_all;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::db::lanes::dedicated::DedicatedLanes;
use crate::db::lanes::{self, LaneName, NamedLane};
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::message::NewMessage;
use crate::domain::routing::{RouteName, RouteTable};

/// Beyond this many lanes the cache starts anew; it holds what is in use, not what ever was.
const CACHED: usize = 200_000;
/// Lanes that may wait for a finder before others wait to be let in.
const WAITING: usize = 1_024;
/// Who asks for lanes is answered by one statement together with so many.
const GROUP: usize = 256;
/// What one finder waits for, somebody's lock on a new lane, must not keep everybody's.
const FINDERS: usize = 2;

type Found = Result<i64, Arc<DbError>>;

#[derive(Debug)]
struct Pending {
    name: Arc<LaneName>,
    reply: oneshot::Sender<Found>,
}

/// Finds lanes, and remembers them: a lane's id never changes.
#[derive(Debug)]
pub(super) struct Lanes {
    routes: RouteTable,
    splits: DedicatedLanes,
    known: RwLock<HashMap<Arc<LaneName>, i64>>,
    unknown: async_channel::Sender<Pending>,
}

impl Lanes {
    /// Starts the finders; they end when this is dropped.
    pub(super) fn start(db: &Db, routes: RouteTable, tasks: &TaskTracker) -> Self {
        let (unknown, receiver) = async_channel::bounded(WAITING);
        for _ in 0..FINDERS {
            tasks.spawn(find(db.clone(), receiver.clone()));
        }
        Self { splits: DedicatedLanes::new(db.clone()), routes, known: RwLock::default(), unknown }
    }

    /// The lanes of a message's recipients, in their order.
    pub(super) async fn all(&self, tenant: TenantId, message: &NewMessage) -> Result<Vec<NamedLane>, Arc<DbError>> {
        let from = message.from.address.domain();
        let lane = |domain| self.one(tenant, &message.stream, from, domain);
        try_join_all(message.recipients.iter().map(|recipient| lane(recipient.mailbox.address.domain()))).await
    }

    /// The lane of mail from `sender_domain` to `domain` in a stream. Through relays it is one for all domains but those
    /// split off, since relays are the only destination there is to be slow: 100,000 domains cost nothing this way. Direct
    /// it is one a domain, so that one that is down delays no other.
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
        match self.own_lane(tenant, stream, route, domain).await? {
            Some(id) => Ok(NamedLane { id, name: Arc::new(name(domain)) }),
            None => self.find(name("*")).await,
        }
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

    async fn find(&self, name: LaneName) -> Result<NamedLane, Arc<DbError>> {
        if let Some((name, id)) = self.known.read().unwrap_or_else(PoisonError::into_inner).get_key_value(&name) {
            return Ok(NamedLane { id: *id, name: name.clone() });
        }
        let name = Arc::new(name);
        let (reply, answer) = oneshot::channel();
        let gone = || Arc::new(DbError::closed(FINDING));
        self.unknown.send(Pending { name: name.clone(), reply }).await.map_err(|_| gone())?;
        let id = answer.await.map_err(|_| gone())??;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHED {
            known.clear();
        }
        known.insert(name.clone(), id);
        Ok(NamedLane { id, name })
    }
}

const FINDING: &str = "lanes.find";

/// Those who wait for each lane.
type Waiting = BTreeMap<Arc<LaneName>, Vec<oneshot::Sender<Found>>>;
/// The ids of lanes.
type Ids = HashMap<LaneName, i64>;

async fn find(db: Db, receiver: async_channel::Receiver<Pending>) {
    while let Ok(first) = receiver.recv().await {
        let mut waiting = Waiting::new();
        let others = std::iter::from_fn(|| receiver.try_recv().ok()).take(GROUP - 1);
        for Pending { name, reply } in std::iter::once(first).chain(others) {
            waiting.entry(name).or_default().push(reply);
        }
        let waiting = answer(waiting, async |names| lanes::find(&db, names).await).await;
        let waiting = answer(waiting, async |names| make(&db, names).await).await;
        // What somebody else was making at that moment.
        let waiting = answer(waiting, async |names| lanes::find(&db, names).await).await;
        for reply in waiting.into_values().flatten() {
            let _ = reply.send(Err(Arc::new(DbError::not_found(FINDING))));
        }
    }
}

/// Answers those whose lanes are found this way, or all where the database fails. The others are left.
async fn answer(waiting: Waiting, find: impl AsyncFnOnce(&[Arc<LaneName>]) -> Result<Ids, DbError>) -> Waiting {
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
            Some(id) => replies.into_iter().for_each(|reply| drop(reply.send(id.clone()))),
            None => drop(left.insert(name, replies)),
        }
    }
    left
}

/// Makes lanes. One that Postgres refuses must not take its neighbours with it: it is left out.
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
                %error,
                stream = name.stream,
                route = name.route,
                domain = name.domain,
                "the database refuses to make a lane; new mail for it is answered 500 until that is mended"
            ),
        }
    }
    Ok(made)
}
