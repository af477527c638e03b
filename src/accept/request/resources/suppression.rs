//! Parses the bodies of `POST /v1/suppressions` and `POST /v1/suppressions/remove`, and lines of an import, which have
//! the fields of an export.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde_json_borrow::Value;

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::walk::{Node, one_line};
use crate::accept::request::message::{schedule, send};
use crate::accept::request::{Context, Rejection, json};
use crate::db::suppressions::list::Removal;
use crate::domain::address::Address;
use crate::domain::api::fault::{Code, Fault, Faults};
use crate::domain::suppression::{AddressKey, Reason, Suppression};

/// Maximum number of entries in one request.
pub const MAX_ENTRIES: usize = 1_000;

/// The fields of a new entry.
pub const FIELDS: &[&str] = &["address", "stream", "reason", "note", "expires_at"];
/// The fields of an imported line, in the order of an export.
pub const COLUMNS: &[&str] =
    &["address", "stream", "reason", "note", "created_at", "expires_at", "message_id", "recipient_id"];
/// The fields of an entry to remove.
pub const REMOVAL_FIELDS: &[&str] = &["address", "stream"];

/// Name that stands for the entry of all streams in requests that select entries by stream.
pub const ALL_STREAMS: &str = "*";

/// Parses new entries: one, or an array of them. A bare address is an entry too.
pub fn parse(body: &[u8], context: &Context<'_>) -> Result<Vec<Suppression>, Rejection> {
    let mut entries = Vec::new();
    list(body, |node, faults| {
        let entry = if matches!(node.value, Value::Str(_)) {
            address(node, faults).map(|address| manual(address, context.now))
        } else {
            let Node { value, at } = node;
            Fields::open(value, &at, FIELDS, faults).and_then(|mut fields| entry(&mut fields, context, faults))
        };
        entries.extend(entry);
    })?;
    Ok(entries)
}

/// Parses the entries to remove: one, or an array of them. A bare address means all of its entries.
pub fn parse_removal(body: &[u8]) -> Result<Vec<Removal>, Rejection> {
    let mut removals = Vec::new();
    list(body, |node, faults| {
        let removal = if matches!(node.value, Value::Str(_)) {
            address(node, faults).map(|address| Removal { address, stream: None })
        } else {
            let Node { value, at } = node;
            Fields::open(value, &at, REMOVAL_FIELDS, faults).and_then(|mut fields| {
                let address = fields.require("address", faults).and_then(|node| address(node, faults));
                let stream = fields.take("stream").and_then(|node| node.line(1..=64, faults));
                Some(Removal { address: address?, stream: stream.map(|stream| stored_stream(&stream)) })
            })
        };
        removals.extend(removal);
    })?;
    Ok(removals)
}

/// Returns the database form of a stream that selects an entry: the empty string for all streams.
pub fn stored_stream(stream: &str) -> String {
    if stream == ALL_STREAMS { String::new() } else { stream.to_owned() }
}

/// Parses a line of an import. Returns the first fault if it is not valid.
pub fn line(value: Value<'_>, context: &Context<'_>) -> Result<Suppression, Fault> {
    let (at, mut faults) = (Pointer::Root, Faults::default());
    let read = Fields::open(value, &at, COLUMNS, &mut faults).and_then(|mut fields| {
        let mut entry = entry(&mut fields, context, &mut faults)?;
        let created = schedule::time(fields.take("created_at"), &mut faults);
        if let Some((time, at)) = created {
            if time > context.now {
                at.fault(&mut faults, Code::InvalidTimestamp, "must not be in the future");
            } else if time < DateTime::UNIX_EPOCH {
                at.fault(&mut faults, Code::InvalidTimestamp, "must not be before 1970");
            }
            entry.created_at = time;
        }
        entry.message_id = fields.take("message_id").and_then(|node| id(node, &mut faults));
        entry.recipient_id = fields.take("recipient_id").and_then(|node| id(node, &mut faults));
        Some(entry)
    });
    match (read, faults.into_vec().into_iter().next()) {
        (Some(entry), None) => Ok(entry),
        (_, fault) => Err(fault.unwrap_or_else(|| Fault {
            pointer: String::new(),
            code: Code::InvalidValue.as_str(),
            message: "must be a suppression entry".into(),
        })),
    }
}

/// Visits the values in the body: one value, or an array of up to [`MAX_ENTRIES`].
fn list(body: &[u8], visit: impl FnMut(Node<'_, '_>, &mut Faults)) -> Result<(), Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let why = format_args!("at most {MAX_ENTRIES} entries are allowed in one request; use an import for more");
    Node::root(value).one_or_each(MAX_ENTRIES, why, &mut faults, visit);
    if faults.is_empty() { Ok(()) } else { Err(Rejection::Invalid(faults.into_vec())) }
}

fn manual(address: AddressKey, now: DateTime<Utc>) -> Suppression {
    Suppression {
        address,
        stream: None,
        reason: Reason::Manual,
        message_id: None,
        recipient_id: None,
        note: None,
        created_at: now,
        expires_at: None,
    }
}

/// Parses the fields that every entry has. Returns `None` only if there is no valid address.
fn entry(fields: &mut Fields<'_, '_>, context: &Context<'_>, faults: &mut Faults) -> Option<Suppression> {
    let address = fields.require("address", faults).and_then(|node| address(node, faults));
    let stream = fields.take("stream").map(|node| send::stream(Some(node), context.streams, faults));
    let reason = fields.take("reason").and_then(|node| reason(node, faults));
    let note = fields.take("note").and_then(|node| node.line(0..=Suppression::MAX_NOTE, faults));
    let expires_at = schedule::expires_at(fields.take("expires_at"), None, context, faults);
    Some(Suppression {
        stream: stream.map(Cow::into_owned),
        reason: reason.unwrap_or(Reason::Manual),
        // CSV cannot distinguish an empty note from a missing one.
        note: note.map(Cow::into_owned).filter(|note| !note.is_empty()),
        expires_at,
        ..manual(address?, context.now)
    })
}

/// Parses an address without a display name.
fn address(node: Node<'_, '_>, faults: &mut Faults) -> Option<AddressKey> {
    let at = node.at;
    let text = node.string(faults)?;
    if !one_line(&text, &at, 1..=usize::MAX, faults) {
        return None;
    }
    match text.trim_matches(' ').parse::<Address>() {
        Ok(address) => Some(AddressKey::from(&address)),
        Err(error) => {
            at.fault(faults, Code::InvalidAddress, error);
            None
        }
    }
}

fn reason(node: Node<'_, '_>, faults: &mut Faults) -> Option<Reason> {
    let at = node.at;
    let reason = node.string(faults)?.parse().ok();
    if reason.is_none() {
        at.fault(faults, Code::InvalidValue, "use `hard_bounce`, `complaint`, `unsubscribe` or `manual`");
    }
    reason
}

fn id<T: std::str::FromStr<Err = crate::domain::id::IdError>>(node: Node<'_, '_>, faults: &mut Faults) -> Option<T> {
    let at = node.at;
    node.string(faults)?.parse().map_err(|error| at.fault(faults, Code::InvalidValue, error)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::request::Limits;

    fn with_context<T>(work: impl FnOnce(&Context<'_>) -> T) -> T {
        let (limits, streams) = (Limits::default(), ["news".to_owned()]);
        work(&Context::new("2026-11-23T12:00:00Z".parse().unwrap(), &limits, &streams))
    }

    fn faults(body: &str) -> Vec<(String, &'static str)> {
        let Err(Rejection::Invalid(faults)) = with_context(|context| parse(body.as_bytes(), context)) else {
            panic!("{body} is accepted")
        };
        faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect()
    }

    #[test]
    fn body_is_an_entry_or_an_array_of_entries() {
        let read = |body: &str| with_context(|context| parse(body.as_bytes(), context)).unwrap();
        let one = read(r#""Ann@Example.test""#);
        assert_eq!((one.len(), one[0].address.as_str(), one[0].reason), (1, "ann@example.test", Reason::Manual));
        let full = read(
            r#"[{"address": "a@b.test", "stream": "news", "reason": "complaint", "note": "she called",
                 "expires_at": "2027-01-01T00:00:00Z"}, "c@d.test"]"#,
        );
        assert_eq!((full.len(), full[0].stream.as_deref(), full[0].reason), (2, Some("news"), Reason::Complaint));
        assert_eq!((full[0].note.as_deref(), full[1].stream.as_deref()), (Some("she called"), None));
        assert!(full[0].expires_at.is_some() && read("[]").is_empty());
    }

    #[test]
    fn every_fault_is_reported_with_its_pointer() {
        let body = r#"["x", 5, {"reason": "rude"}, {"address": "a@b.test", "stream": "no", "note": "a\nb",
                       "expires_at": "2020-01-01T00:00:00Z", "email": "x"}, {"address": "Ann <a@b.test>"}, ""]"#;
        let expected = [
            ("/0", "invalid_address"),
            ("/1", "invalid_type"),
            ("/2/address", "required"),
            ("/2/reason", "invalid_value"),
            ("/3/email", "unknown_field"),
            ("/3/stream", "unknown_stream"),
            ("/3/note", "control_character"),
            ("/3/expires_at", "invalid_timestamp"),
            ("/4/address", "invalid_address"),
            ("/5", "required"),
        ];
        assert_eq!(faults(body), expected.map(|(pointer, code)| (pointer.to_owned(), code)));
        let many = format!("[{}]", vec!["\"a@b.test\""; MAX_ENTRIES + 1].join(","));
        assert_eq!(faults(&many), [(String::new(), "too_many")]);
    }

    #[test]
    fn removal_selects_one_or_all_entries_of_an_address() {
        let body =
            br#"["A@b.test", {"address": "a@b.test", "stream": "*"}, {"address": "a@b.test", "stream": "news"}]"#;
        let removals = parse_removal(body).unwrap();
        let streams: Vec<Option<&str>> = removals.iter().map(|removal| removal.stream.as_deref()).collect();
        assert_eq!(streams, [None, Some(""), Some("news")]);
        assert!(removals.iter().all(|removal| removal.address.as_str() == "a@b.test"));
        assert!(parse_removal(br#"{"address": "a@b.test", "reason": "manual"}"#).is_err());
    }

    #[test]
    fn import_line_has_the_fields_of_an_export() {
        let read = |text: &str| with_context(|context| line(json::read(text.as_bytes(), 100).unwrap(), context));
        let entry = read(
            r#"{"address": "a@b.test", "stream": null, "reason": "hard_bounce", "note": null, "expires_at": null,
                "created_at": "2025-01-01T00:00:00Z", "message_id": "msg_0193661b3d007abc8def0123456789ab",
                "recipient_id": null}"#,
        );
        let entry = entry.unwrap();
        assert_eq!(
            (entry.created_at.to_rfc3339(), entry.reason),
            ("2025-01-01T00:00:00+00:00".into(), Reason::HardBounce)
        );
        assert_eq!(entry.message_id.unwrap().to_string(), "msg_0193661b3d007abc8def0123456789ab");
        for (text, pointer, code) in [
            (r#"{"address": "a@b.test", "created_at": "2027-01-01T00:00:00Z"}"#, "/created_at", "invalid_timestamp"),
            (r#"{"address": "a@b.test", "created_at": "1969-12-31T23:59:59Z"}"#, "/created_at", "invalid_timestamp"),
            (r#"{"address": "a@b.test", "created_at": "0000-01-01T00:00:00Z"}"#, "/created_at", "invalid_timestamp"),
            (
                r#"{"address": "a@b.test", "created_at": "9999-12-31T23:59:59-23:59"}"#,
                "/created_at",
                "invalid_timestamp",
            ),
            (r#"{"address": "a@b.test", "message_id": "5"}"#, "/message_id", "invalid_value"),
            (r#"{"address": "a.test"}"#, "/address", "invalid_address"),
            ("5", "", "invalid_type"),
        ] {
            let fault = read(text).unwrap_err();
            assert_eq!((fault.pointer.as_str(), fault.code), (pointer, code), "{text}");
        }
    }
}
