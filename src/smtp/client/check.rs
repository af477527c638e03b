//! Checks relays without sending a message: connection, EHLO, TLS, AUTH.

use std::sync::Arc;

use deadpool::managed::PoolError;

use super::failover::Server;
use super::pool::{NoSession, Pools};
use super::sender::Sender;
use crate::domain::outcome::{Peer, Reply, Stage};
use crate::domain::routing::RouteName;

/// Result of checking one relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Route of the relay.
    pub route: RouteName,
    /// URL of the relay without its password.
    pub relay: String,
    /// The server that was reached; or the stage that failed, and the reply.
    pub found: Result<Peer, (Stage, Reply)>,
}

impl Sender {
    /// Opens and closes a session with every relay of every route, sorted by route and in the configured order.
    pub async fn check(&self) -> Vec<Checked> {
        // A separate pool, so that messages do not use these sessions.
        let pools = Arc::<Pools>::default();
        let mut routes: Vec<_> = self.relays.iter().collect();
        routes.sort_by_key(|(route, _)| *route);
        let mut checked = Vec::new();
        for (route, servers) in routes {
            for server in servers {
                let found = check_relay(&pools, server).await;
                checked.push(Checked { route: route.clone(), relay: server.name.clone(), found });
            }
        }
        pools.close().await;
        checked
    }
}

async fn check_relay(pools: &Arc<Pools>, server: &Server) -> Result<Peer, (Stage, Reply)> {
    let failure = |why: &str| (Stage::Connect, Reply::local_error(why));
    let (pool, _) =
        pools.pool(&server.destination, &server.policy, None).map_err(|error| failure(&error.to_string()))?;
    match pool.get().await {
        Ok(slot) => slot.0.as_ref().map(|session| session.peer.clone()).ok_or_else(|| failure("there is no session")),
        Err(PoolError::Backend(NoSession::Refused(refusal, _))) => Err((refusal.stage, refusal.reply)),
        Err(_) => Err(failure("could not open a connection")),
    }
}
