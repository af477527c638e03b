//! Routes: whether messages leave through relays, and which, or directly to the recipients' servers. Pure: the rules
//! come from the configuration. Accepting and sending use the same table.

pub mod relay;

use std::fmt;

use super::id::{InboundRouteId, TenantId};
use super::simulator;

/// The name of a route, as stored in lanes: `mx`, `relay` (the relay of `relay_url`), `relay:NAME` for `[routes.NAME]`,
/// `inbound:ID` for the server of an inbound route, or `simulator`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteName {
    /// Directly to the mail exchangers of the recipients' domains.
    Mx,
    /// Through the relay of `relay_url`.
    Relay,
    /// Through the relays of the route with this name, in their order.
    Named(String),
    /// To the server to which an inbound route passes received messages on.
    Inbound(InboundRouteId),
    /// To the simulator, which plays the script of the recipient's address. Nothing leaves the process.
    Simulator,
}

impl RouteName {
    /// Returns whether messages are sent directly to mail exchangers, with one lane per domain.
    pub fn is_mx(&self) -> bool {
        *self == Self::Mx
    }

    /// Parses the output of [`fmt::Display`]; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "mx" => Some(Self::Mx),
            "relay" => Some(Self::Relay),
            "simulator" => Some(Self::Simulator),
            _ => match text.strip_prefix("inbound:") {
                Some(id) => id.parse().ok().map(Self::Inbound),
                None => text.strip_prefix("relay:").map(|name| Self::Named(name.to_owned())),
            },
        }
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mx => f.write_str("mx"),
            Self::Relay => f.write_str("relay"),
            Self::Named(name) => write!(f, "relay:{name}"),
            Self::Inbound(id) => write!(f, "inbound:{id}"),
            Self::Simulator => f.write_str("simulator"),
        }
    }
}

/// A rule that assigns messages to a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The route.
    pub route: RouteName,
    /// The streams to which the rule applies; empty for all.
    pub streams: Vec<String>,
    /// The senders' domains to which the rule applies (A-labels, lower case); empty for all.
    pub sender_domains: Vec<String>,
}

impl Rule {
    fn applies(&self, stream: &str, sender_domain: &str) -> bool {
        let includes =
            |list: &[String], name: &str| list.is_empty() || list.iter().any(|one| one.eq_ignore_ascii_case(name));
        includes(&self.streams, stream) && includes(&self.sender_domains, sender_domain)
    }

    /// Returns the rule's specificity; more specific rules are tried first, the sender's domain before the stream.
    fn specificity(&self) -> (bool, bool) {
        (!self.sender_domains.is_empty(), !self.streams.is_empty())
    }
}

/// All rules, the most specific first, and the default route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTable {
    rules: Vec<Rule>,
    default: RouteName,
}

impl RouteTable {
    /// Creates a table. Rules that name senders and streams come first, then those that name senders, then those that
    /// name streams; equal rules keep their order. `default` is the route if no rule matches.
    pub fn new(mut rules: Vec<Rule>, default: RouteName) -> Self {
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.specificity()));
        Self { rules, default }
    }

    /// Returns the route of a message of a tenant to a recipient. Test messages and addresses of the simulator have
    /// their own route, whatever the rules say.
    pub fn lookup(&self, tenant: TenantId, stream: &str, sender_domain: &str, recipient_domain: &str) -> &RouteName {
        if is_simulated(tenant, recipient_domain) {
            return &RouteName::Simulator;
        }
        self.for_sender(stream, sender_domain)
    }

    /// Returns the route of a message to recipients outside of the simulator.
    pub fn for_sender(&self, stream: &str, sender_domain: &str) -> &RouteName {
        self.rules.iter().find(|rule| rule.applies(stream, sender_domain)).map_or(&self.default, |rule| &rule.route)
    }
}

/// Returns whether a message of a tenant to a recipient goes to the simulator.
pub fn is_simulated(tenant: TenantId, recipient_domain: &str) -> bool {
    tenant.is_test() || simulator::is_domain(recipient_domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, streams: &[&str], senders: &[&str]) -> Rule {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Rule { route: RouteName::Named(name.into()), streams: owned(streams), sender_domains: owned(senders) }
    }

    #[test]
    fn most_specific_rule_wins() {
        let rules = vec![
            rule("bulk", &["bulk"], &[]),
            rule("acme", &[], &["acme.test"]),
            rule("both", &["bulk"], &["acme.test"]),
        ];
        let table = RouteTable::new(rules, RouteName::Mx);
        let live = TenantId::DEFAULT;
        let route = |stream, sender| table.lookup(live, stream, sender, "example.test").to_string();
        assert_eq!(route("bulk", "ACME.test"), "relay:both");
        assert_eq!(route("transactional", "acme.test"), "relay:acme");
        assert_eq!(route("bulk", "other.test"), "relay:bulk");
        assert_eq!(route("transactional", "other.test"), "mx");
        assert_eq!(table.lookup(live, "bulk", "acme.test", simulator::DOMAIN), &RouteName::Simulator);
        assert_eq!(table.lookup(live.test(), "bulk", "acme.test", "example.test"), &RouteName::Simulator);
    }

    #[test]
    fn names_round_trip() {
        let inbound = RouteName::Inbound(InboundRouteId(uuid::Uuid::from_u128(7)));
        for name in [RouteName::Mx, RouteName::Relay, RouteName::Named("news-1".into()), inbound, RouteName::Simulator]
        {
            assert_eq!(RouteName::parse(&name.to_string()), Some(name));
        }
        assert_eq!((RouteName::parse("smtp"), RouteName::parse("inbound:x")), (None, None));
    }
}
