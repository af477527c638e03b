//! What the workers are configured with, as far as answers tell of it: which way mail goes and what limits it. Plain data,
//! brought by the application: the API speaks no SMTP.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::domain::retry::Policy;
use crate::domain::routing::{RouteName, RouteTable};

/// The sending side's configuration.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Which mail takes which route.
    pub table: RouteTable,
    /// Every route there is.
    pub ways: Vec<RouteInfo>,
    /// How much TLS is asked of the servers of a domain on the direct way, `*` standing for those that are not named.
    pub mx_tls: BTreeMap<String, String>,
    /// Connections of one worker to one destination.
    pub connections: u32,
    /// Mails over one connection.
    pub mails_per_connection: u32,
    /// When to try again, where a stream says nothing else.
    pub policy: Policy,
    /// A worker that has not been heard of for so long is gone.
    pub lease: Duration,
}

/// A route and how it is gone.
#[derive(Debug, Clone)]
pub struct RouteInfo {
    /// Its name.
    pub route: RouteName,
    /// The relays in the order in which they are tried; empty where the recipients' own servers are called.
    pub relays: Vec<RelayView>,
}

/// A relay, without its credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = PlannedRelay)]
pub struct RelayView {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// `none`, `opportunistic` or `required` (with a certificate that is valid for the host).
    pub tls: String,
}

impl Delivery {
    /// The names of all routes.
    pub(super) fn routes(&self) -> Vec<RouteName> {
        self.ways.iter().map(|way| way.route.clone()).collect()
    }

    /// How much TLS the configuration asks of a domain's servers on the direct way.
    pub(super) fn mx_tls(&self, domain: &str) -> &str {
        self.mx_tls.get(domain).or_else(|| self.mx_tls.get("*")).map_or("opportunistic", String::as_str)
    }

    /// The hosts of the relays of a route, by its name.
    pub(super) fn hosts(&self, route: &str) -> Vec<String> {
        let relays = RouteName::parse(route).map(|route| self.relays(&route)).unwrap_or_default();
        relays.iter().map(|relay| relay.host.clone()).collect()
    }

    /// The relays of a route.
    pub(super) fn relays(&self, route: &RouteName) -> &[RelayView] {
        self.ways.iter().find(|way| way.route == *route).map_or(&[], |way| &way.relays)
    }
}
