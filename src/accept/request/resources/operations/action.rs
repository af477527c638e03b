//! Parses the body of `POST /v1/messages/actions`.

use std::borrow::Cow;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::walk::Node;
use crate::accept::request::message::{schedule, send};
use crate::accept::request::{Context, Rejection, json};
use crate::domain::api::fault::{Code, Faults};
use crate::domain::delivery::Status;
use crate::domain::message::action::{ActionFilter, ActionKind};
use crate::domain::message::template::TemplateName;

/// The fields of the body.
const FIELDS: &[&str] = &["action", "filter", "all", "dry_run"];
/// The fields of the filter.
const FILTER: &[&str] = &[
    "stream",
    "tag",
    "to",
    "to_domain",
    "from",
    "subject",
    "lane",
    "status",
    "template",
    "bulk",
    "key",
    "created_after",
    "created_before",
];
/// Maximum length of a text in a filter, in characters.
const MAX_TEXT: usize = 998;

/// The requested action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionRequest {
    /// What to do.
    pub kind: ActionKind,
    /// Which recipients; `template` is missing.
    pub filter: ActionFilter,
    /// The template of the filter, whose alias has to be looked up.
    pub template: Option<TemplateName>,
    /// Whether only the number of recipients is asked for.
    pub is_dry_run: bool,
}

/// Parses an action. A filter without fields is refused, unless the body says `"all": true`.
pub fn parse(body: &[u8], context: &Context<'_>) -> Result<ActionRequest, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let request = Fields::open(value, &at, FIELDS, &mut faults).and_then(|mut fields| {
        let kind = fields.require("action", &mut faults).and_then(|node| kind(node, &mut faults));
        let all = fields.take("all").and_then(|node| node.boolean(&mut faults)).unwrap_or_default();
        let is_dry_run = fields.take("dry_run").and_then(|node| node.boolean(&mut faults)).unwrap_or_default();
        let before = faults.len();
        let (filter, template) =
            fields.take("filter").map(|node| filter(node, kind, context, &mut faults)).unwrap_or_default();
        let is_empty = filter.is_empty() && template.is_none();
        let field = Pointer::Field(&at, "filter");
        if is_empty && !all && faults.len() == before {
            let message = "must have at least one field; pass `\"all\": true` instead to select all recipients";
            field.fault(&mut faults, Code::Required, message);
        } else if !is_empty && all {
            field.fault(&mut faults, Code::InvalidValue, "use `filter` or `\"all\": true`, not both");
        }
        Some(ActionRequest { kind: kind?, filter, template, is_dry_run })
    });
    match request {
        Some(request) if faults.is_empty() => Ok(request),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

fn kind(node: Node<'_, '_>, faults: &mut Faults) -> Option<ActionKind> {
    let at = node.at;
    let kind = node.string(faults)?.parse().ok();
    if kind.is_none() {
        at.fault(faults, Code::InvalidValue, "use `cancel`, `retry` or `release`");
    }
    kind
}

fn filter(
    node: Node<'_, '_>,
    kind: Option<ActionKind>,
    context: &Context<'_>,
    faults: &mut Faults,
) -> (ActionFilter, Option<TemplateName>) {
    let (value, at) = (node.value, node.at);
    let Some(mut fields) = Fields::open(value, &at, FILTER, faults) else { return Default::default() };
    let text = |node: Option<Node<'_, '_>>, faults: &mut Faults| {
        node.and_then(|node| node.line(1..=MAX_TEXT, faults)).map(Cow::into_owned)
    };
    let stream = fields.take("stream");
    let stream = stream.is_some().then(|| send::stream(stream, context.streams, faults).into_owned());
    let filter = ActionFilter {
        stream,
        tag: fields.take("tag").and_then(|node| tag(node, faults)),
        to: text(fields.take("to"), faults),
        to_domain: text(fields.take("to_domain"), faults),
        from: text(fields.take("from"), faults),
        subject: text(fields.take("subject"), faults),
        lane: parsed(fields.take("lane"), "must be a lane's id, such as `lane_42`", faults),
        status: fields.take("status").and_then(|node| status(node, kind, faults)),
        template: None,
        bulk: parsed(fields.take("bulk"), "must be a bulk's id, such as `blk_…`", faults),
        key: parsed(fields.take("key"), "must be an API key's id, such as `key_…`", faults),
        created_after: time(fields.take("created_after"), faults),
        created_before: time(fields.take("created_before"), faults),
    };
    (filter, parsed(fields.take("template"), "must be a template's id or alias", faults))
}

fn parsed<T: FromStr>(node: Option<Node<'_, '_>>, hint: &str, faults: &mut Faults) -> Option<T> {
    let node = node?;
    let at = node.at;
    let value = node.string(faults)?.parse().ok();
    if value.is_none() {
        at.fault(faults, Code::InvalidValue, hint);
    }
    value
}

fn tag(node: Node<'_, '_>, faults: &mut Faults) -> Option<String> {
    let at = node.at;
    let text = node.line(1..=MAX_TEXT, faults)?;
    if text.split_once(':').is_none_or(|(name, _)| name.is_empty()) {
        at.fault(faults, Code::InvalidValue, "must be a tag as `name:value`");
        return None;
    }
    Some(text.into_owned())
}

fn status(node: Node<'_, '_>, kind: Option<ActionKind>, faults: &mut Faults) -> Option<Status> {
    let at = node.at;
    let status = node.string(faults)?.parse::<Status>().ok();
    let Some(kind) = kind else { return status };
    let applicable = status.filter(|status| kind.applies_to(*status));
    if applicable.is_none() {
        let names: Vec<&str> =
            Status::ALL.into_iter().filter(|status| kind.applies_to(*status)).map(Status::as_str).collect();
        let message = format_args!("`{}` applies only to {}", kind.as_str(), names.join(", "));
        at.fault(faults, Code::InvalidValue, message);
    }
    applicable
}

/// Parses a time that Postgres and the ids can express.
fn time(node: Option<Node<'_, '_>>, faults: &mut Faults) -> Option<DateTime<Utc>> {
    let (time, at) = schedule::time(node, faults)?;
    if !(1970..9999).contains(&chrono::Datelike::year(&time)) {
        at.fault(faults, Code::InvalidTimestamp, "must be from 1970 on, and before 9999");
        return None;
    }
    Some(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::request::Limits;
    use crate::domain::id::LaneId;

    fn parsed_body(body: &str) -> Result<ActionRequest, Vec<(String, &'static str)>> {
        let (limits, streams) = (Limits::default(), ["bulk".to_owned()]);
        let context = Context::new(DateTime::UNIX_EPOCH, &limits, &streams);
        parse(body.as_bytes(), &context).map_err(|rejection| {
            let Rejection::Invalid(faults) = rejection else { panic!("{rejection:?}") };
            faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect()
        })
    }

    #[test]
    fn action_with_a_filter_is_parsed() {
        let body = r#"{"action": "cancel", "dry_run": true, "filter": {"stream": "bulk", "tag": "kind:a:b",
                       "lane": "lane_7", "status": "deferred", "template": "news", "created_before": "2026-12-01T00:00:00Z"}}"#;
        let request = parsed_body(body).unwrap();
        assert_eq!((request.kind, request.is_dry_run), (ActionKind::Cancel, true));
        assert_eq!(request.filter.tag(), Some(("kind", "a:b")));
        assert_eq!((request.filter.lane, request.filter.status), (Some(LaneId(7)), Some(Status::Deferred)));
        assert_eq!(request.template, Some(TemplateName::Alias("news".into())));
    }

    #[test]
    fn all_recipients_must_be_named_explicitly() {
        for body in
            [r#"{"action": "retry"}"#, r#"{"action": "retry", "filter": {}}"#, r#"{"action": "retry", "all": false}"#]
        {
            assert_eq!(parsed_body(body), Err(vec![("/filter".into(), "required")]), "{body}");
        }
        assert!(parsed_body(r#"{"action": "retry", "all": true}"#).is_ok_and(|request| request.filter.is_empty()));
        let both = r#"{"action": "retry", "all": true, "filter": {"stream": "bulk"}}"#;
        assert_eq!(parsed_body(both), Err(vec![("/filter".into(), "invalid_value")]));
    }

    #[test]
    fn every_fault_is_reported() {
        let body = r#"{"action": "stop", "filter": {"stream": "none", "tag": "kind", "lane": "7", "bulk": "x", "key": 1,
                       "template": "-", "created_after": "today", "color": "red", "to": "a\nb"}}"#;
        let mut faults = parsed_body(body).unwrap_err();
        faults.sort();
        let expected = [
            ("/action", "invalid_value"),
            ("/filter/bulk", "invalid_value"),
            ("/filter/color", "unknown_field"),
            ("/filter/created_after", "invalid_timestamp"),
            ("/filter/key", "invalid_type"),
            ("/filter/lane", "invalid_value"),
            ("/filter/stream", "unknown_stream"),
            ("/filter/tag", "invalid_value"),
            ("/filter/template", "invalid_value"),
            ("/filter/to", "control_character"),
        ];
        assert_eq!(faults, expected.map(|(pointer, code)| (pointer.to_owned(), code)));
    }

    #[test]
    fn status_must_fit_the_action() {
        for (action, status) in
            [("retry", "scheduled"), ("cancel", "uncertain"), ("release", "sending"), ("cancel", "x")]
        {
            let body = format!(r#"{{"action": "{action}", "filter": {{"status": "{status}"}}}}"#);
            assert_eq!(parsed_body(&body), Err(vec![("/filter/status".into(), "invalid_value")]), "{body}");
        }
    }
}
