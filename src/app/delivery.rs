//! Describes message delivery for the API, from the same configuration that the workers use.

use crate::config::Config;
use crate::domain::routing::RouteName;
use crate::http::{Delivery, RelayView, RouteInfo};
use crate::smtp::Relay;

use super::routes;

/// Returns the configured routes with their relays, the limits and the retry policy.
pub(super) fn delivery_info(config: &Config) -> anyhow::Result<Delivery> {
    let tls = config.delivery.tls_ascii();
    Ok(Delivery {
        table: routes::table(config),
        ways: ways(config)?,
        mx_tls: tls.into_iter().map(|(domain, mode)| (domain, mode.as_str().to_owned())).collect(),
        connections: config.delivery.connections,
        mails_per_connection: config.delivery.mails_per_connection,
        policy: config.delivery.retry_policy(),
        lease: config.delivery.lease,
    })
}

/// Returns every route that messages can take.
fn ways(config: &Config) -> anyhow::Result<Vec<RouteInfo>> {
    let mut ways = Vec::new();
    match routes::default_relay(config)? {
        Some(relay) => ways.push(RouteInfo { route: RouteName::Relay, relays: vec![view(&relay)] }),
        None => ways.push(direct()),
    }
    if config.relay_url.is_some() && config.routes.values().any(crate::config::Route::is_direct) {
        ways.push(direct());
    }
    let named = routes::relays(config)?.into_iter();
    ways.extend(
        named.map(|(name, relays)| RouteInfo {
            route: RouteName::Named(name),
            relays: relays.iter().map(view).collect(),
        }),
    );
    Ok(ways)
}

fn direct() -> RouteInfo {
    RouteInfo { route: RouteName::Mx, relays: Vec::new() }
}

fn view(relay: &Relay) -> RelayView {
    RelayView { host: relay.host.clone(), port: relay.port, tls: relay.tls.of_relay().to_owned() }
}
