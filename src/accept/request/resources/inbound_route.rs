//! Parses the bodies of `POST /v1/inbound-routes` and `PATCH /v1/inbound-routes/{id}`.

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::walk::Node;
use crate::accept::request::{Rejection, json};
use crate::domain::api::fault::{Code, Faults};
use crate::domain::inbound::relay::RelayTarget;
use crate::domain::inbound::{InboundAction, RouteMatch};

/// Maximum length of a match, in characters.
const MAX_MATCH: usize = 320;

/// Maximum length of the URL of a server, in characters.
const MAX_URL: usize = 1_000;

/// What happens with a message, and for [`InboundAction::Relay`] the server to which it is passed on.
#[derive(Debug, Clone)]
pub struct NewAction {
    /// The action.
    pub kind: InboundAction,
    /// The server.
    pub to: Option<RelayTarget>,
}

/// Parses a new route: its match and its action.
pub fn parse(body: &[u8]) -> Result<(RouteMatch, NewAction), Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let route = Fields::open(value, &at, &["match", "action"], &mut faults).and_then(|mut fields| {
        let route = fields.require("match", &mut faults).and_then(|node| route_match(node, &mut faults));
        let action = fields.require("action", &mut faults).and_then(|node| action(node, &mut faults));
        Some((route?, action?))
    });
    match route {
        Some(route) if faults.is_empty() => Ok(route),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

/// Parses the new action of a route.
pub fn parse_change(body: &[u8]) -> Result<NewAction, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let action = Fields::open(value, &at, &["action"], &mut faults)
        .and_then(|mut fields| fields.require("action", &mut faults).and_then(|node| action(node, &mut faults)));
    match action {
        Some(action) if faults.is_empty() => Ok(action),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

fn route_match(node: Node<'_, '_>, faults: &mut Faults) -> Option<RouteMatch> {
    let at = node.at;
    match node.line(1..=MAX_MATCH, faults)?.parse() {
        Ok(route) => Some(route),
        Err(error) => {
            at.fault(faults, Code::InvalidValue, format_args!("{error}"));
            None
        }
    }
}

fn action(node: Node<'_, '_>, faults: &mut Faults) -> Option<NewAction> {
    let at = node.at;
    let mut fields = Fields::open(node.value, &at, &["type", "to"], faults)?;
    let node = fields.require("type", faults)?;
    let type_at = node.at;
    let Ok(kind) = node.string(faults)?.parse() else {
        type_at.fault(faults, Code::InvalidValue, "use `webhook`, `store` or `relay`");
        return None;
    };
    if kind == InboundAction::Relay {
        let node = fields.require("to", faults)?;
        return target(node, faults).map(|to| NewAction { kind, to: Some(to) });
    }
    if let Some(to) = fields.take("to") {
        to.at.fault(faults, Code::InvalidValue, "only the action `relay` has a target");
    }
    Some(NewAction { kind, to: None })
}

fn target(node: Node<'_, '_>, faults: &mut Faults) -> Option<RelayTarget> {
    let at = node.at;
    match RelayTarget::parse(&node.line(1..=MAX_URL, faults)?) {
        Ok(target) => Some(target),
        Err(error) => {
            at.fault(faults, Code::InvalidValue, format_args!("{error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults<T>(result: Result<T, Rejection>) -> Vec<(String, &'static str)> {
        match result {
            Err(Rejection::Invalid(faults)) => faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn route_has_a_match_and_an_action() {
        let (route, action) = parse(br#"{"match": "Reply+*@Acme.test", "action": {"type": "webhook"}}"#).unwrap();
        assert_eq!((route.to_string().as_str(), action.kind), ("reply+*@acme.test", InboundAction::Webhook));
        assert_eq!(parse_change(br#"{"action": {"type": "store"}}"#).unwrap().kind, InboundAction::Store);
        let relay = parse_change(br#"{"action": {"type": "relay", "to": "smtp://mail.acme.test"}}"#).unwrap();
        let to = relay.to.map(|to| to.relay.to_string());
        assert_eq!(
            (relay.kind, to.as_deref()),
            (InboundAction::Relay, Some("smtp://mail.acme.test:25?tls=opportunistic"))
        );
    }

    #[test]
    fn all_faults_are_reported() {
        let both = vec![("/match".to_owned(), "required"), ("/action".to_owned(), "required")];
        assert_eq!(faults(parse(b"{}")), both);
        let body = br#"{"match": "x", "action": {"type": "forward"}, "to": 1}"#;
        let expected = [("/to", "unknown_field"), ("/match", "invalid_value"), ("/action/type", "invalid_value")];
        assert_eq!(faults(parse(body)), expected.map(|(pointer, code)| (pointer.to_owned(), code)));
        let line = br#"{"match": "a\r\n@b.test", "action": null}"#;
        let expected = [("/match", "control_character"), ("/action", "required")];
        assert_eq!(faults(parse(line)), expected.map(|(pointer, code)| (pointer.to_owned(), code)));
        for (to, code) in
            [("", "required"), (r#", "to": "http://a.test""#, "invalid_value"), (r#", "to": 1"#, "invalid_type")]
        {
            let relay = format!(r#"{{"action": {{"type": "relay"{to}}}}}"#);
            assert_eq!(faults(parse_change(relay.as_bytes())), [("/action/to".to_owned(), code)], "{to}");
        }
        let target = br#"{"action": {"type": "store", "to": "smtp://10.0.0.1"}}"#;
        assert_eq!(faults(parse_change(target)), [("/action/to".to_owned(), "invalid_value")]);
    }
}
