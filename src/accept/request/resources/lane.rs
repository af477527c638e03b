//! Parses the bodies of `PUT /v1/lanes` and `PATCH /v1/lanes/{id}`.

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::walk::Node;
use crate::accept::request::message::send;
use crate::accept::request::{Context, Rejection, json};
use crate::domain::address::Address;
use crate::domain::api::fault::{Code, Faults};
use crate::domain::limits::{CONNECTIONS, LaneChange, LaneLimits, MESSAGES_PER_CONNECTION, RATE};
use crate::domain::routing::RouteName;

/// The fields of a lane's limits.
const LIMITS: &[&str] = &["connections", "rate", "messages_per_connection"];
/// The fields of a lane.
const FIELDS: &[&str] = &["stream", "route", "domain", "connections", "rate", "messages_per_connection"];

/// A lane with its limits.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneRequest {
    /// The lane's stream.
    pub stream: String,
    /// The lane's route.
    pub route: RouteName,
    /// The recipients' domain as A-labels; `*` for all domains of a relay route.
    pub domain: String,
    /// The lane's limits. A limit that is `None` is not set for the lane.
    pub limits: LaneLimits,
}

/// Parses a lane. Its route must be one of `routes`.
pub fn parse(body: &[u8], routes: &[RouteName], context: &Context<'_>) -> Result<LaneRequest, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let request = Fields::open(value, &at, FIELDS, &mut faults).and_then(|mut fields| {
        let node = fields.require("stream", &mut faults);
        let stream = send::stream(node, context.streams, &mut faults).into_owned();
        let route = fields.require("route", &mut faults).and_then(|node| route(node, routes, &mut faults));
        let domain = fields.require("domain", &mut faults).and_then(|node| domain(node, route.as_ref(), &mut faults));
        let change = limits(&mut fields, &mut faults);
        let limits = LaneLimits {
            connections: change.connections.value(),
            rate: change.rate.value(),
            messages_per_connection: change.messages_per_connection.value(),
        };
        Some(LaneRequest { stream, route: route?, domain: domain?, limits })
    });
    match request {
        Some(request) if faults.is_empty() => Ok(request),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

/// Parses changes to a lane's limits: `null` removes a limit, a missing field keeps it.
pub fn parse_change(body: &[u8]) -> Result<LaneChange, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let change = Fields::open(value, &at, LIMITS, &mut faults).map(|mut fields| limits(&mut fields, &mut faults));
    match change {
        Some(change) if faults.is_empty() => Ok(change),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

fn limits(fields: &mut Fields<'_, '_>, faults: &mut Faults) -> LaneChange {
    LaneChange {
        connections: fields.change("connections", |node| node.whole(CONNECTIONS, faults)),
        rate: fields.change("rate", |node| node.number(RATE, faults)),
        messages_per_connection: fields
            .change("messages_per_connection", |node| node.whole(MESSAGES_PER_CONNECTION, faults)),
    }
}

fn route(node: Node<'_, '_>, routes: &[RouteName], faults: &mut Faults) -> Option<RouteName> {
    let at = node.at;
    let text = node.string(faults)?;
    let route = RouteName::parse(&text).filter(|route| routes.contains(route));
    if route.is_none() {
        let names: Vec<String> = routes.iter().map(ToString::to_string).collect();
        at.fault(faults, Code::InvalidValue, format_args!("unknown route; use one of {}", names.join(", ")));
    }
    route
}

fn domain(node: Node<'_, '_>, route: Option<&RouteName>, faults: &mut Faults) -> Option<String> {
    let at = node.at;
    let text = node.string(faults)?;
    if text == "*" {
        if route.is_some_and(RouteName::is_mx) {
            at.fault(faults, Code::InvalidValue, "must be a domain: on the route `mx`, each domain has its own lane");
        }
        return Some("*".into());
    }
    // A valid domain forms a valid address.
    match format!("postmaster@{text}").parse::<Address>() {
        Ok(address) if !text.contains('@') => Some(address.domain().to_owned()),
        _ => {
            at.fault(faults, Code::InvalidValue, "must be a domain name, or `*` for all domains through a relay");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::accept::request::Limits;
    use crate::domain::limits::Change;

    fn read(body: &str) -> Result<LaneRequest, Vec<(String, &'static str)>> {
        let (limits, streams) = (Limits::default(), ["bulk".to_owned()]);
        let context = Context::new(DateTime::UNIX_EPOCH, &limits, &streams);
        let routes = [RouteName::Mx, RouteName::Named("news".into())];
        parse(body.as_bytes(), &routes, &context).map_err(faults)
    }

    fn faults(rejection: Rejection) -> Vec<(String, &'static str)> {
        let Rejection::Invalid(faults) = rejection else { return Vec::new() };
        faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect()
    }

    #[test]
    fn a_lane_is_named_by_stream_route_and_domain() {
        let lane = read(r#"{"stream": "bulk", "route": "mx", "domain": "Bücher.test", "rate": 0.5}"#).expect("valid");
        assert_eq!((lane.domain.as_str(), lane.limits.rate), ("xn--bcher-kva.test", Some(0.5)));
        assert_eq!(lane.limits.connections, None);
        let lane = read(r#"{"stream": "bulk", "route": "relay:news", "domain": "*"}"#).expect("valid");
        assert_eq!((lane.route.to_string().as_str(), lane.domain.as_str()), ("relay:news", "*"));
    }

    #[test]
    fn every_fault_is_reported() {
        let body = r#"{"stream": "no", "route": "relay", "domain": "a@b", "connections": 0, "rate": "x",
                       "messages_per_connection": 1.5, "pace": 1}"#;
        let mut found = read(body).expect_err("not valid");
        found.sort();
        let expected = [
            ("/connections", "invalid_value"),
            ("/domain", "invalid_value"),
            ("/messages_per_connection", "invalid_value"),
            ("/pace", "unknown_field"),
            ("/rate", "invalid_type"),
            ("/route", "invalid_value"),
            ("/stream", "unknown_stream"),
        ];
        assert_eq!(found, expected.map(|(pointer, code)| (pointer.to_owned(), code)));
        let star = read(r#"{"stream": "bulk", "route": "mx", "domain": "*"}"#).expect_err("not valid");
        assert_eq!(star, [("/domain".to_owned(), "invalid_value")]);
    }

    #[test]
    fn null_clears_a_limit_and_a_missing_field_keeps_it() {
        let change = parse_change(br#"{"connections": 5, "rate": null}"#).expect("valid");
        let expected =
            LaneChange { connections: Change::Set(5), rate: Change::Clear, messages_per_connection: Change::Keep };
        assert_eq!(change, expected);
        for rate in ["0", "-1", "1e7", "1e-9"] {
            let body = format!(r#"{{"rate": {rate}}}"#);
            assert_eq!(faults(parse_change(body.as_bytes()).expect_err(rate)), [("/rate".to_owned(), "invalid_value")]);
        }
    }
}
