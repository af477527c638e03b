//! Servers that users of the API chose for a route, and that are not in the configuration. Each route has one at a time.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::failover::Server;
use super::policies::Policies;
use super::settings::SetupError;
use crate::domain::routing::RouteName;
use crate::domain::routing::relay::Relay;

/// Maximum number of servers. Beyond it, all are forgotten: routes may be created and deleted without end.
const MAX_SERVERS: usize = 4_096;

/// The servers, created when a message is first sent to them.
pub(in crate::smtp) struct ChosenServers(Mutex<State>);

struct State {
    policies: Policies,
    servers: HashMap<RouteName, (Arc<Relay>, Arc<Server>)>,
}

impl ChosenServers {
    pub fn new(policies: Policies) -> Self {
        Self(Mutex::new(State { policies, servers: HashMap::new() }))
    }

    /// Returns the server of a route. A server with another URL replaces the earlier one, whose idle sessions end by themselves.
    pub fn get(&self, name: &RouteName, relay: &Arc<Relay>) -> Result<Arc<Server>, SetupError> {
        let State { policies, servers } = &mut *self.0.lock();
        if let Some((known, server)) = servers.get(name)
            && known == relay
        {
            return Ok(server.clone());
        }
        let server = Arc::new(policies.chosen_server(relay)?);
        if servers.len() >= MAX_SERVERS {
            servers.clear();
        }
        servers.insert(name.clone(), (relay.clone(), server.clone()));
        Ok(server)
    }

    /// Returns whether the server of a route has this host name.
    pub fn has_host(&self, name: &RouteName, host: &str) -> bool {
        self.0.lock().servers.get(name).is_some_and(|(relay, _)| relay.host == host)
    }
}
