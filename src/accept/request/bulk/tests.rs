//! Bulks: what is accepted, and the hashes.

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde_json::{Value, json};
use utoipa::PartialSchema as _;

use super::{Bulk, FIELDS, Layout, RECIPIENT_FIELDS, RECIPIENTS, hashes, parse};
use crate::accept::request::files::{FilePart, Files, NO_FILES};
use crate::accept::request::schema::{BulkRecipientInput, BulkRequest};
use crate::accept::request::{Context, Limits, Rejection};

fn parse_bytes(body: &[u8], streams: &[&str]) -> Result<Bulk, Rejection> {
    parse_form(body, streams, &NO_FILES)
}

fn parse_form(body: &[u8], streams: &[&str], files: &Files) -> Result<Bulk, Rejection> {
    let now: DateTime<Utc> = "2026-11-23T12:00:00Z".parse().expect("a time");
    let (limits, streams) = (Limits::default(), streams.iter().map(ToString::to_string).collect::<Vec<_>>());
    let layout = Layout::read(body)?;
    let context = Context { files, ..Context::new(now, &limits, &streams) };
    let bulk = parse(body, &layout, &context, true)?;
    assert_eq!(bulk.hashes, hashes(body, &layout, files).ok(), "both ways give the same hashes");
    Ok(bulk)
}

fn parsed(body: &Value) -> Bulk {
    parse_bytes(body.to_string().as_bytes(), &["transactional", "bulk"]).expect("a bulk")
}

fn digest(body: &Value) -> [u8; 32] {
    parsed(body).hashes.expect("hashes").digest
}

fn bulk(recipients: &Value) -> Value {
    json!({"from": "News <news@acme.test>", "subject": "News", "text": "Hello", "recipients": recipients})
}

#[test]
fn default_stream_is_bulk_if_it_exists() {
    let body = bulk(&json!([{"to": "ann@example.test"}])).to_string();
    for (streams, stream) in [(&["transactional", "bulk"][..], "bulk"), (&["transactional"], "transactional")] {
        assert_eq!(parse_bytes(body.as_bytes(), streams).expect("a bulk").message.stream, stream);
    }
}

#[test]
fn recipients_keep_their_positions() {
    let bulk = parsed(&bulk(
        &json!([{"to": "no"}, {"to": "Ann <ann@example.test>", "metadata": {"a": "1"}}, {}, {"to": "bo@example.test"}]),
    ));
    let valid: Vec<_> = bulk.recipients.iter().map(|one| (one.index, one.mailbox.address.to_string())).collect();
    assert_eq!(valid, [(1, "ann@example.test".to_owned()), (3, "bo@example.test".to_owned())]);
    assert_eq!(bulk.refused.iter().map(|one| one.index).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(bulk.recipients[0].metadata.as_deref(), Some("{\"a\":\"1\"}"));
    assert_eq!((bulk.recipients[1].metadata.as_deref(), bulk.from_domain.as_deref()), (None, Some("acme.test")));
}

#[test]
fn digest_depends_on_the_message_and_the_recipients() {
    let (ann, bo) = (json!({"to": "ann@example.test"}), json!({"to": "bo@example.test"}));
    let mut other = bulk(&json!([ann, bo]));
    other["text"] = json!("Other");
    let all = [bulk(&json!([ann, bo])), bulk(&json!([bo, ann])), bulk(&json!([ann])), bulk(&json!([ann, ann])), other];
    let digests: std::collections::BTreeSet<_> = all.iter().map(digest).collect();
    assert_eq!(digests.len(), all.len());
    // Neither the order of fields nor white space matters.
    let text = r#"{ "recipients": [ {"to": "ann@example.test"} ], "text": "Hello", "subject": "News", "from": "News <news@acme.test>", "html": null }"#;
    let same = parse_bytes(text.as_bytes(), &["transactional"]).expect("a bulk").hashes.expect("hashes").digest;
    assert_eq!(same, digest(&bulk(&json!([ann]))));
}

#[test]
fn hashes_of_a_form_depend_on_the_files_only() {
    let hashes = |name: &str, sha256: &str| {
        let part = FilePart { sha256: sha256.to_owned(), size: 3, data: Vec::new() };
        let files = Files { parts: Some([(name.to_owned(), part)].into()), ..Files::default() };
        let mut body = bulk(&json!([{"to": "ann@example.test", "idempotency_key": "k"}]));
        body["attachments"] = json!([{"filename": "a.bin", "part": name}]);
        let mut bulk = parse_form(body.to_string().as_bytes(), &["bulk"], &files).expect("a bulk");
        (bulk.hashes.expect("hashes"), bulk.recipients.remove(0).key.expect("a key"))
    };
    let first = hashes("a", "11");
    assert_eq!((first.0.fingerprint, &first), (first.0.digest, &hashes("b", "11")));
    let other = hashes("a", "22");
    assert!(other.0.digest != first.0.digest && other.1 != first.1);
}

#[test]
fn keys_of_equal_recipients_of_equal_messages_are_equal() {
    let keyed = |key: &str, text: &str| {
        let mut body = bulk(&json!([{"to": "bo@example.test"}, {"to": "ann@example.test", "idempotency_key": key}]));
        body["text"] = json!(text);
        parsed(&body).recipients.remove(1).key.expect("a key")
    };
    assert_eq!(keyed("k", "Hello"), keyed("k", "Hello"));
    assert_ne!(keyed("k", "Hello").digest, keyed("k", "Other").digest);
}

#[test]
fn documented_fields_are_those_that_are_parsed() {
    let names = |schema: utoipa::openapi::RefOr<utoipa::openapi::Schema>| {
        let schema = serde_json::to_value(schema).expect("JSON");
        let mut names: Vec<String> = schema["properties"].as_object().expect("an object").keys().cloned().collect();
        names.sort();
        names
    };
    let sorted = |fields: &[&str]| {
        let mut fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
        fields.sort();
        fields
    };
    assert_eq!(names(BulkRequest::schema()), sorted(&[FIELDS, &[RECIPIENTS]].concat()));
    assert_eq!(names(BulkRecipientInput::schema()), sorted(RECIPIENT_FIELDS));
}

proptest! {
    #[test]
    fn any_body_is_parsed_or_refused(body in "[\\[\\]{}\",:a-z0-9 ]{0,60}") {
        let whole = format!("{{\"recipients\":{body}}}");
        for text in [&body, &whole] {
            let _ = parse_bytes(text.as_bytes(), &["bulk"]);
        }
    }
}
