//! Converts the configured routes into the types of the domain and of the SMTP client.

use std::collections::BTreeMap;

use anyhow::Context as _;

use crate::config::{Config, SecretUrl};
use crate::domain::routing::relay::Relay;
use crate::domain::routing::{RouteName, RouteTable, Rule};

/// Returns the route table, which the API and the worker share.
pub fn table(config: &Config) -> RouteTable {
    let rule = |(name, route): (&String, &crate::config::Route)| Rule {
        route: if route.is_direct() { RouteName::Mx } else { RouteName::Named(name.clone()) },
        streams: route.streams.clone(),
        sender_domains: route.sender_domains_ascii(),
    };
    let fallback = if config.relay_url.is_some() { RouteName::Relay } else { RouteName::Mx };
    RouteTable::new(config.routes.iter().map(rule).collect(), fallback)
}

/// Returns the relay for messages that match no route.
pub(in crate::app) fn default_relay(config: &Config) -> anyhow::Result<Option<Relay>> {
    let Some(url) = &config.relay_url else { return Ok(None) };
    let mut relay = parse(url).context("relay_url (POSTRIDER_RELAY_URL)")?;
    relay.ca_file = config.relay_ca_file.clone().or(relay.ca_file);
    Ok(Some(relay))
}

/// Returns the relays of each route that has relays.
pub(in crate::app) fn relays(config: &Config) -> anyhow::Result<BTreeMap<String, Vec<Relay>>> {
    let mut routes = BTreeMap::new();
    for (name, route) in config.routes.iter().filter(|(_, route)| !route.is_direct()) {
        let mut relays = Vec::with_capacity(route.relays.len());
        for url in &route.relays {
            let mut relay = parse(url).with_context(|| format!("routes.{name}.relays"))?;
            relay.ca_file = relay.ca_file.or_else(|| route.ca_file.clone());
            relays.push(relay);
        }
        routes.insert(name.clone(), relays);
    }
    Ok(routes)
}

fn parse(url: &SecretUrl) -> anyhow::Result<Relay> {
    Ok(url.expose().parse::<Relay>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Route;
    use crate::domain::id::TenantId;

    fn route(relays: &[&str], streams: &[&str], senders: &[&str]) -> Route {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let relays = relays.iter().map(|relay| SecretUrl::from((*relay).to_owned())).collect();
        Route { relays, streams: owned(streams), sender_domains: owned(senders), ca_file: None }
    }

    #[test]
    fn route_table_contains_the_configured_routes() {
        let mut config = Config { relay_url: Some("smtp://relay.test".to_owned().into()), ..Config::default() };
        config.routes.insert("news".into(), route(&["smtp://a.test", "smtp://b.test"], &["bulk"], &[]));
        config.routes.insert("own".into(), route(&["mx"], &[], &["BÜCHER.test"]));
        let table = table(&config);
        let route_of = |stream, sender| table.lookup(TenantId::DEFAULT, stream, sender, "example.test").to_string();
        assert_eq!(route_of("bulk", "acme.test"), "relay:news");
        assert_eq!(route_of("bulk", "xn--bcher-kva.test"), "mx");
        assert_eq!(route_of("transactional", "acme.test"), "relay");
        let relays = relays(&config).unwrap();
        assert_eq!(relays.len(), 1, "mx needs no relays");
        assert_eq!(relays["news"].iter().map(|relay| relay.host.as_str()).collect::<Vec<_>>(), ["a.test", "b.test"]);
    }
}
