//! Tries relays out as far as a mail would get, without one: connection, EHLO, TLS, AUTH.

use std::sync::Arc;

use deadpool::managed::PoolError;

use super::failover::Server;
use super::pool::{NoSession, Pools};
use super::sender::Sender;
use crate::domain::outcome::{Peer, Reply, Stage};
use crate::domain::routing::RouteName;

/// What came of one relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The route it belongs to.
    pub route: RouteName,
    /// The relay's URL without its password.
    pub relay: String,
    /// Who answered, or how far it came and what was said.
    pub found: Result<Peer, (Stage, Reply)>,
}

impl Sender {
    /// Opens a session with every relay of every route and ends it again, by route and in the order of each.
    pub async fn check(&self) -> Vec<Checked> {
        // Nothing is left behind for mail.
        let pools = Arc::<Pools>::default();
        let mut routes: Vec<_> = self.relays.iter().collect();
        routes.sort_by_key(|(route, _)| *route);
        let mut checked = Vec::new();
        for (route, servers) in routes {
            for server in servers {
                let found = peer(&pools, server).await;
                checked.push(Checked { route: route.clone(), relay: server.name.clone(), found });
            }
        }
        pools.close().await;
        checked
    }
}

async fn peer(pools: &Arc<Pools>, server: &Server) -> Result<Peer, (Stage, Reply)> {
    let ours = |why: &str| (Stage::Connect, Reply::ours(why));
    let (pool, _) = pools.of(&server.destination, &server.policy, None).map_err(|error| ours(&error.to_string()))?;
    match pool.get().await {
        Ok(slot) => slot.0.as_ref().map(|session| session.peer.clone()).ok_or_else(|| ours("there is no session")),
        Err(PoolError::Backend(NoSession::Refused(refusal))) => Err((refusal.stage, refusal.reply)),
        Err(_) => Err(ours("no connection could be had")),
    }
}
