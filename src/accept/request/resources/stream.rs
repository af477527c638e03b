//! Parses the bodies of `POST /v1/streams` and `PATCH /v1/streams/{name}`.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::walk::Node;
use crate::accept::request::{Rejection, json};
use crate::domain::api::fault::{Code, Faults};
use crate::domain::limits::{CONCURRENCY, PRIORITY, RATE, StreamChange, WEIGHT};

/// The fields of a new stream: its name and its settings.
const FIELDS: &[&str] = &[
    "name",
    "priority",
    "weight",
    "concurrency",
    "rate",
    "retry_schedule",
    "retry_window",
    "greylist",
    "unsubscribe",
    "content_retention",
];
/// The fields of a stream's settings.
const SETTINGS: &[&str] = FIELDS.split_at(1).1;

/// Maximum number of delays in a schedule.
const MAX_DELAYS: usize = 50;
const SECOND: Duration = Duration::from_secs(1);
/// Ranges as in the configuration (`[delivery]`).
const DELAY: RangeInclusive<Duration> = SECOND..=Duration::from_hours(7 * 24);
const WINDOW: RangeInclusive<Duration> = SECOND..=Duration::from_hours(30 * 24);
const CONTENT: RangeInclusive<Duration> = Duration::from_hours(24)..=Duration::from_hours(3650 * 24);
const GREYLIST: RangeInclusive<Duration> = SECOND..=Duration::from_hours(24);

/// Parses a new stream: its name and its settings.
pub fn parse(body: &[u8]) -> Result<(String, StreamChange), Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let stream = Fields::open(value, &at, FIELDS, &mut faults).map(|mut fields| {
        let name = fields.require("name", &mut faults).and_then(|node| name(node, &mut faults));
        (name.unwrap_or_default(), settings(&mut fields, &mut faults))
    });
    match stream {
        Some(stream) if faults.is_empty() => Ok(stream),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

/// Parses changes to a stream: `null` resets a setting to the configured value, a missing field keeps it. `priority`,
/// `weight` and `unsubscribe` have no configured values and cannot be `null`.
pub fn parse_change(body: &[u8]) -> Result<StreamChange, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let change = Fields::open(value, &at, SETTINGS, &mut faults).map(|mut fields| {
        for name in ["priority", "weight", "unsubscribe"] {
            fields.not_null(name, &mut faults);
        }
        settings(&mut fields, &mut faults)
    });
    match change {
        Some(change) if faults.is_empty() => Ok(change),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

fn settings(fields: &mut Fields<'_, '_>, faults: &mut Faults) -> StreamChange {
    StreamChange {
        priority: fields.take("priority").and_then(|node| node.whole(PRIORITY, faults)),
        weight: fields.take("weight").and_then(|node| node.whole(WEIGHT, faults)),
        concurrency: fields.change("concurrency", |node| node.whole(CONCURRENCY, faults)),
        rate: fields.change("rate", |node| node.number(RATE, faults)),
        retry_schedule: fields.change("retry_schedule", |node| schedule(node, faults)),
        retry_window: fields.change("retry_window", |node| node.seconds(WINDOW, faults)),
        greylist: fields.change("greylist", |node| node.seconds(GREYLIST, faults)),
        unsubscribe: fields.take("unsubscribe").and_then(|node| node.boolean(faults)),
        content_retention: fields.change("content_retention", |node| content_retention(node, faults)),
    }
}

/// Parses a duration, or `forever`, which is 0.
fn content_retention(node: Node<'_, '_>, faults: &mut Faults) -> Option<i32> {
    if node.is_text("forever") { Some(0) } else { node.seconds(CONTENT, faults) }
}

fn schedule(node: Node<'_, '_>, faults: &mut Faults) -> Option<Vec<i32>> {
    let at = node.at;
    let before = faults.len();
    let mut delays = Vec::new();
    node.each(MAX_DELAYS, format_args!("at most {MAX_DELAYS} delays are allowed"), faults, |node, faults| {
        delays.extend(node.seconds(DELAY, faults));
    });
    if delays.is_empty() && faults.len() == before {
        at.fault(faults, Code::Required, "must have at least one delay, or be null for the configured schedule");
    }
    (faults.len() == before).then_some(delays)
}

/// Parses a stream's name: letters, digits, `-` and `_`, because it is part of URL paths.
fn name(node: Node<'_, '_>, faults: &mut Faults) -> Option<String> {
    let at = node.at;
    let name = node.line(1..=64, faults)?;
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Some(name.into_owned());
    }
    at.fault(faults, Code::InvalidValue, "use letters, digits, `-` and `_`");
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limits::Change;

    fn faults(rejection: Rejection) -> Vec<(String, &'static str)> {
        let Rejection::Invalid(faults) = rejection else { return Vec::new() };
        faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect()
    }

    #[test]
    fn durations_are_strings_or_seconds() {
        let body = br#"{"name": "news", "priority": 60, "retry_schedule": ["1m", 300, "1h30m"], "retry_window": "2d",
                        "greylist": 600}"#;
        let (name, settings) = parse(body).expect("valid");
        assert_eq!((name.as_str(), settings.priority, settings.weight), ("news", Some(60), None));
        assert_eq!(settings.retry_schedule, Change::Set(vec![60, 300, 5_400]));
        assert_eq!((settings.retry_window, settings.greylist), (Change::Set(172_800), Change::Set(600)));
        assert_eq!(settings.rate, Change::Keep);
    }

    #[test]
    fn content_is_kept_for_a_time_or_forever() {
        for (text, seconds) in
            [("\"7d\"", Change::Set(604_800)), ("\"forever\"", Change::Set(0)), ("null", Change::Clear)]
        {
            let change = parse_change(format!("{{\"content_retention\": {text}}}").as_bytes()).expect("valid");
            assert_eq!(change.content_retention, seconds, "{text}");
        }
        for text in ["\"1h\"", "\"ever\"", "0", "true"] {
            let body = format!("{{\"content_retention\": {text}}}");
            assert_eq!(faults(parse_change(body.as_bytes()).expect_err("not valid")).len(), 1, "{text}");
        }
    }

    #[test]
    fn every_fault_is_reported() {
        let body = br#"{"name": "a b", "priority": 101, "weight": 0, "concurrency": -1, "rate": 0,
                        "retry_schedule": ["1m", "0s", "250ms", true], "retry_window": "31d", "greylist": [], "x": 1}"#;
        let mut found = faults(parse(body).expect_err("not valid"));
        found.sort();
        let expected = [
            ("/concurrency", "invalid_value"),
            ("/greylist", "invalid_type"),
            ("/name", "invalid_value"),
            ("/priority", "invalid_value"),
            ("/rate", "invalid_value"),
            ("/retry_schedule/1", "invalid_value"),
            ("/retry_schedule/2", "invalid_value"),
            ("/retry_schedule/3", "invalid_type"),
            ("/retry_window", "invalid_value"),
            ("/weight", "invalid_value"),
            ("/x", "unknown_field"),
        ];
        assert_eq!(found, expected.map(|(pointer, code)| (pointer.to_owned(), code)));
        assert_eq!(faults(parse_change(br#"{"name": "b"}"#).expect_err("a name cannot change")).len(), 1);
        let null = faults(parse_change(br#"{"priority": null, "weight": null, "rate": null}"#).expect_err("not valid"));
        assert_eq!(null, ["/priority", "/weight"].map(|pointer| (pointer.to_owned(), "invalid_type")));
        let empty = faults(parse_change(br#"{"retry_schedule": []}"#).expect_err("no delays"));
        assert_eq!(empty, [("/retry_schedule".to_owned(), "required")]);
    }
}
