//! The part of the workers' configuration that API responses show: routes and limits. Plain data that the application
//! provides, so that the API needs no SMTP code.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::domain::delivery::retry::Policy;
use crate::domain::routing::{RouteName, RouteTable};

/// The delivery configuration.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Selects the route of a message.
    pub table: RouteTable,
    /// All routes with their relays.
    pub routes: Vec<RouteInfo>,
    /// TLS mode per recipient domain on the `mx` route; `*` stands for all domains that are not listed.
    pub mx_tls: BTreeMap<String, String>,
    /// Maximum connections of one worker to one destination.
    pub connections: u32,
    /// Maximum messages per connection.
    pub messages_per_connection: u32,
    /// Default retry policy of streams.
    pub policy: Policy,
    /// Lease time: a worker without a heartbeat for this long counts as dead.
    pub lease: Duration,
}

/// A route and its relays.
#[derive(Debug, Clone)]
pub struct RouteInfo {
    /// The route's name.
    pub route: RouteName,
    /// The relays, in the order in which they are tried; empty for `mx`.
    pub relays: Vec<RelayView>,
}

/// A relay, without its credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = PlannedRelay)]
pub struct RelayView {
    /// The host name or address.
    #[schema(example = "smtp.example.test")]
    pub host: String,
    /// The TCP port.
    #[schema(example = 587)]
    pub port: u16,
    /// The TLS mode: `none`, `opportunistic` or `required` (with a certificate that is valid for the host).
    #[schema(example = "required")]
    pub tls: String,
}

impl Delivery {
    /// Returns the names of all routes.
    pub(super) fn routes(&self) -> Vec<RouteName> {
        self.routes.iter().map(|info| info.route.clone()).collect()
    }

    /// Returns the configured TLS mode for a domain on the `mx` route.
    pub(super) fn mx_tls(&self, domain: &str) -> &str {
        self.mx_tls.get(domain).or_else(|| self.mx_tls.get("*")).map_or("opportunistic", String::as_str)
    }

    /// Returns the hosts of a route's relays.
    pub(super) fn hosts(&self, route: &str) -> Vec<String> {
        let relays = RouteName::parse(route).map(|route| self.relays(&route)).unwrap_or_default();
        relays.iter().map(|relay| relay.host.clone()).collect()
    }

    /// Returns the relays of a route.
    pub(super) fn relays(&self, route: &RouteName) -> &[RelayView] {
        self.routes.iter().find(|info| info.route == *route).map_or(&[], |info| &info.relays)
    }
}
