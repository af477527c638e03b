//! The servers to which messages that pass a received message on are sent. Each attempt uses the current server of the inbound
//! route, so that a corrected URL helps messages that wait; servers are cached until they change ([`crate::db::changes`]).

use std::sync::Arc;

use crate::cache::TtlCache;
use crate::cache::confirmations::{MAX_UNCONFIRMED, Moment};
use crate::db::changes::{Cached, Caches, Outdated, TenantSettings};
use crate::db::messages::DeliveryRow;
use crate::db::messages::stored::StoredMessageError;
use crate::db::receiving::routes;
use crate::db::{Db, DbError};
use crate::domain::id::{InboundRouteId, TenantId};
use crate::domain::inbound::relay::{RelayTarget, StoredTargetError};
use crate::domain::installation::keyring::Keyring;
use crate::domain::routing::RouteName;
use crate::domain::routing::relay::Relay;
use crate::smtp::Route;

/// Maximum number of cached servers.
const CAPACITY: usize = 1_024;

/// A server; `None` if the route does not exist, or does not pass messages on.
type Found = Option<Result<Arc<Relay>, StoredTargetError>>;

/// Finds the servers of inbound routes.
#[derive(Debug)]
pub(crate) struct InboundRelays {
    db: Db,
    caches: Arc<Caches>,
    keyring: Option<Keyring>,
    servers: TtlCache<(TenantId, InboundRouteId), Found, Moment>,
}

impl InboundRelays {
    pub(crate) fn new(db: Db, caches: Arc<Caches>, keyring: Option<Keyring>) -> Arc<Self> {
        let relays = Arc::new(Self { db, caches, keyring, servers: TtlCache::new(CAPACITY, MAX_UNCONFIRMED) });
        relays.caches.add(&relays);
        relays
    }

    /// Returns the route of a message that passes a received message on; `None` for other messages, and for those of test tenants,
    /// which go to the simulator.
    pub(crate) async fn route_of(&self, row: &DeliveryRow) -> Result<Option<Route>, StoredMessageError> {
        let tenant = TenantId(row.tenant_id);
        let Some(id) = row.inbound_route_id.map(InboundRouteId).filter(|_| !tenant.is_test()) else { return Ok(None) };
        let key = (tenant, id);
        match self.servers.get_or_load(&key, self.caches.now(), || self.load(tenant, id)).await? {
            Some(Ok(relay)) => Ok(Some(Route::Server { name: RouteName::Inbound(id), relay })),
            Some(Err(error)) => Err(StoredMessageError::NoRelay(format!(
                "the URL of the server of the inbound route {id} cannot be read: {error}"
            ))),
            None => Err(StoredMessageError::NoRelay(format!(
                "the inbound route {id} was deleted, or does not pass messages on any more; cancel the message, or update the route"
            ))),
        }
    }

    async fn load(&self, tenant: TenantId, id: InboundRouteId) -> Result<Found, DbError> {
        let stored = routes::relay_url(&self.db, tenant, id).await?;
        Ok(stored.map(|url| RelayTarget::open(&url, self.keyring.as_ref(), id).map(Arc::new)))
    }
}

impl Cached for InboundRelays {
    fn forget(&self, outdated: Outdated) {
        match outdated {
            Outdated::Settings(_, TenantSettings::InboundRoutes) | Outdated::Everything => self.servers.clear(),
            Outdated::Keys | Outdated::Settings(..) => {}
        }
    }
}
