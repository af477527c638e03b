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
        routes: route_infos(config)?,
        mx_tls: tls.into_iter().map(|(domain, mode)| (domain, mode.as_str().to_owned())).collect(),
        connections: config.delivery.connections,
        messages_per_connection: config.delivery.messages_per_connection,
        policy: config.delivery.retry_policy(),
        lease: config.delivery.lease,
    })
}

/// Returns every route that messages can be sent through.
fn route_infos(config: &Config) -> anyhow::Result<Vec<RouteInfo>> {
    let mut infos = Vec::new();
    match routes::default_relay(config)? {
        Some(relay) => infos.push(RouteInfo { route: RouteName::Relay, relays: vec![view(&relay)] }),
        None => infos.push(direct()),
    }
    if config.relay_url.is_some() && config.routes.values().any(crate::config::Route::is_direct) {
        infos.push(direct());
    }
    let named = routes::relays(config)?.into_iter();
    infos.extend(
        named.map(|(name, relays)| RouteInfo {
            route: RouteName::Named(name),
            relays: relays.iter().map(view).collect(),
        }),
    );
    Ok(infos)
}

fn direct() -> RouteInfo {
    RouteInfo { route: RouteName::Mx, relays: Vec::new() }
}

fn view(relay: &Relay) -> RelayView {
    RelayView { host: relay.host.clone(), port: relay.port, tls: relay.tls.as_relay_option().to_owned() }
}
