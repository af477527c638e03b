//! Batches: what is accepted, the faults with their pointers, and the hashes.

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde_json::{Value, json};
use utoipa::PartialSchema as _;

use super::{Batch, FIELDS, Layout, MAX_FAULTS, MAX_MESSAGES, Rejection, Validation, all_faults, hashes, parse};
use crate::accept::request::files::{FilePart, Files, NO_FILES};
use crate::accept::request::message::send;
use crate::accept::request::schema::{BatchInput, BatchMessageInput};
use crate::accept::request::{Context, Limits, RequestHashes, parse_keyed};

fn now() -> DateTime<Utc> {
    "2026-11-23T12:00:00Z".parse().expect("a time")
}

fn with_context<T>(work: impl FnOnce(&Context<'_>) -> T) -> T {
    let (limits, streams) = (Limits::default(), ["transactional".to_owned()]);
    work(&Context::new(now(), &limits, &streams))
}

fn parse_bytes(body: &[u8]) -> Result<(Batch, Layout), Rejection> {
    parse_form(body, &NO_FILES)
}

fn parse_form(body: &[u8], files: &Files) -> Result<(Batch, Layout), Rejection> {
    let layout = Layout::read(body)?;
    let batch = with_context(|context| parse(body, &layout, &Context { files, ..*context }, true))?;
    assert_eq!(batch.hashes, hashes(body, &layout, files).ok(), "both ways give the same hashes");
    Ok((batch, layout))
}

fn parsed(body: &Value) -> (Batch, Layout) {
    parse_bytes(body.to_string().as_bytes()).expect("a batch")
}

fn digest(body: &Value) -> [u8; 32] {
    parsed(body).0.hashes.expect("hashes").digest
}

/// Returns the pointers and codes of a body that is refused as a whole.
fn refused(body: &str) -> Vec<(String, &'static str)> {
    match parse_bytes(body.as_bytes()) {
        Err(Rejection::Invalid(faults)) => faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect(),
        other => panic!("{body}: {other:?}"),
    }
}

/// Returns a valid message with this subject.
fn message(subject: &str) -> Value {
    json!({"from": "a@acme.test", "to": "ann@example.test", "subject": subject, "text": "Hello"})
}

/// Returns a valid message with this idempotency key.
fn keyed(key: &Value) -> Value {
    let mut message = message("a");
    message["idempotency_key"] = key.clone();
    message
}

#[test]
fn object_and_bare_array_are_the_same_batch() {
    let messages = json!([message("a"), message("b")]);
    let (bare, layout) = parsed(&messages);
    assert_eq!((layout.count(), layout.list(), layout.validation), (2, "", Validation::Strict));
    let subjects: Vec<&str> = bare.messages.iter().map(|one| one.message.subject.as_str()).collect();
    assert_eq!((subjects, bare.messages[1].index), (vec!["a", "b"], 1));
    let (object, layout) = parsed(&json!({"validation": "strict", "messages": messages}));
    assert_eq!((layout.list(), object.messages.len()), ("/messages", 2));
    assert_eq!(bare.hashes.unwrap().digest, object.hashes.unwrap().digest);
    assert_eq!(digest(&json!({"messages": messages, "validation": null})), digest(&messages));
}

#[test]
fn digest_depends_on_messages_keys_order_and_validation() {
    let (one, two) = (message("a"), message("b"));
    let all = [
        json!([one, two]),
        json!([two, one]),
        json!([one]),
        json!([one, one]),
        json!({"messages": [one, two], "validation": "permissive"}),
        json!([keyed(&json!("k")), two]),
        json!([keyed(&json!("l")), two]),
    ];
    let digests: std::collections::HashSet<_> = all.iter().map(digest).collect();
    assert_eq!(digests.len(), all.len());
}

#[test]
fn message_key_is_not_part_of_the_messages_digest() {
    let (batch, _) = parsed(&json!([keyed(&json!("order-42")), keyed(&json!(null))]));
    let key = batch.messages[0].key.as_ref().expect("a key");
    let alone = message("a").to_string();
    let (_, RequestHashes { digest, .. }) = with_context(|context| parse_keyed(alone.as_bytes(), context)).unwrap();
    assert_eq!((key.value.as_str(), key.digest), ("order-42", digest));
    assert_eq!(batch.messages[1].key, None);
}

#[test]
fn bodies_without_a_valid_list_are_refused() {
    let too_many = json!(vec![1; MAX_MESSAGES + 1]).to_string();
    for (body, pointer, code) in [
        ("{}", "/messages", "required"),
        ("null", "", "invalid_type"),
        ("7", "", "invalid_type"),
        ("\"x\"", "", "invalid_type"),
        ("[]", "", "required"),
        ("{\"messages\": []}", "/messages", "required"),
        ("{\"messages\": null}", "/messages", "required"),
        ("{\"messages\": {\"a\": [1]}}", "/messages", "invalid_type"),
        ("{\"messages\": \"x\"}", "/messages", "invalid_type"),
        ("{\"messages\": 1.5}", "/messages", "invalid_type"),
        (too_many.as_str(), "", "too_many"),
        (&format!("{{\"messages\": {too_many}}}"), "/messages", "too_many"),
    ] {
        assert_eq!(refused(body), [(pointer.to_owned(), code)], "{body:.60}");
    }
}

#[test]
fn faults_beside_and_in_messages_are_reported_together() {
    let body =
        r#"{"validation": "loose", "mesages": 1, "messages": [{"subject": 1}], "messages": [7], "validation": 1}"#;
    let expected = [
        ("/mesages", "unknown_field"),
        ("/messages", "duplicate_field"),
        ("/validation", "duplicate_field"),
        ("/validation", "invalid_value"),
        ("/messages/0/from", "required"),
        ("/messages/0/to", "required"),
        ("/messages/0/subject", "invalid_type"),
        ("/messages/0/text", "required"),
    ];
    assert_eq!(refused(body), expected.map(|(pointer, code)| (pointer.to_owned(), code)));
}

#[test]
fn each_message_has_its_own_faults() {
    let body = json!({
        "validation": "permissive",
        "messages": [message("a"), 7, keyed(&json!("")), message("b"), {"to": ["ann@example.test", "x"], "subject": "s", "text": "t"}],
    });
    let (batch, _) = parsed(&body);
    assert_eq!(batch.messages.iter().map(|one| one.index).collect::<Vec<_>>(), [0, 3]);
    let faults = |refused: &super::Refused| {
        let faults = refused.errors.iter().map(|fault| (fault.pointer.clone(), fault.code));
        (refused.index, faults.collect::<Vec<_>>())
    };
    let expected = [
        (1, vec![("/messages/1".to_owned(), "invalid_type")]),
        (2, vec![("/messages/2/idempotency_key".to_owned(), "invalid_value")]),
        (4, vec![("/messages/4/from".to_owned(), "required"), ("/messages/4/to/1".to_owned(), "invalid_address")]),
    ];
    assert_eq!(batch.refused.iter().map(faults).collect::<Vec<_>>(), expected);
    let bare = parsed(&json!([message("a"), {"subject": 1}])).0;
    assert_eq!(bare.refused[0].errors[0].pointer, "/1/from");
}

#[test]
fn idempotency_keys_of_messages_are_checked() {
    for (key, code) in [
        (json!("k".repeat(257)), "invalid_value"),
        (json!("a\u{1f}b"), "invalid_value"),
        (json!("ä"), "invalid_value"),
        (json!(7), "invalid_type"),
    ] {
        let (batch, _) = parsed(&json!([keyed(&key)]));
        let faults: Vec<_> = batch.refused[0].errors.iter().map(|fault| (&*fault.pointer, fault.code)).collect();
        assert_eq!(faults, [("/0/idempotency_key", code)], "{key}");
    }
    assert_eq!(parsed(&json!([keyed(&json!("k".repeat(256)))])).0.refused, []);
    let twice =
        message("a").to_string().replacen('{', "[{\"idempotency_key\":\"a\",\"idempotency_key\":\"a\",", 1) + "]";
    let (batch, _) = parse_bytes(twice.as_bytes()).unwrap();
    assert_eq!(batch.refused[0].errors[0].code, "duplicate_field");
}

/// Returns the files of a form, given by the names of their parts and their digests.
fn form(parts: &[(&str, &str)]) -> Files {
    let part = |(name, sha256): &(&str, &str)| {
        ((*name).to_owned(), FilePart { sha256: (*sha256).to_owned(), size: 3, data: Vec::new() })
    };
    Files { parts: Some(parts.iter().map(part).collect()), ..Files::default() }
}

/// Returns a valid message that attaches this part.
fn with_part(name: &str) -> Value {
    let mut message = message("a");
    message["attachments"] = json!([{"filename": "a.bin", "part": name}]);
    message
}

#[test]
fn every_part_of_a_form_is_used_by_some_message() {
    let files = form(&[("a", "11"), ("b", "22"), ("c", "33")]);
    let messages = json!([with_part("a"), with_part("a"), message("b"), with_part("c"), {"to": 1}]);
    for validation in ["strict", "permissive"] {
        let body = json!({"messages": messages, "validation": validation}).to_string();
        let Err(Rejection::Invalid(faults)) = parse_form(body.as_bytes(), &files) else { panic!("{validation}") };
        let first: Vec<_> = faults.iter().take(2).map(|fault| (&*fault.pointer, fault.code)).collect();
        assert_eq!(first, [("b", "unused_part"), ("/messages/4/from", "required")]);
    }
    let all = json!([with_part("a"), with_part("b"), with_part("c"), with_part("d")]).to_string();
    let (batch, _) = parse_form(all.as_bytes(), &files).expect("a batch");
    assert_eq!((batch.messages.len(), batch.messages[1].message.attachments[0].description.sha256.as_str()), (3, "22"));
    let fault = &batch.refused[0].errors[0];
    assert_eq!((batch.refused[0].index, &*fault.pointer, fault.code), (3, "/3/attachments/0/part", "unknown_part"));
}

#[test]
fn hashes_of_a_form_depend_on_the_files_only() {
    let hashes = |name: &str, sha256: &str| {
        let mut keyed = with_part(name);
        keyed["idempotency_key"] = json!("k");
        let body = json!([with_part(name), keyed]).to_string();
        let (batch, _) = parse_form(body.as_bytes(), &form(&[(name, sha256)])).expect("a batch");
        (batch.hashes.expect("hashes"), batch.messages[1].key.clone().expect("a key"))
    };
    let first = hashes("a", "11");
    assert_eq!((first.0.fingerprint, &first), (first.0.digest, &hashes("b", "11")));
    let other = hashes("a", "22");
    assert!(other.0.digest != first.0.digest && other.1 != first.1);
}

#[test]
fn number_of_listed_faults_is_bounded() {
    let bad = json!({"from": "a@acme.test", "subject": "s", "text": "t", "to": vec!["x"; 50]});
    let (batch, _) = parsed(&json!(vec![bad; MAX_MESSAGES]));
    assert_eq!(batch.refused.len(), MAX_MESSAGES);
    let counts: Vec<usize> = batch.refused.iter().map(|refused| refused.errors.len()).collect();
    assert_eq!((counts[0], counts[MAX_MESSAGES - 1]), (50, 4), "a message lists three faults and a note at least");
    let note = batch.refused[500].errors.last().unwrap();
    assert_eq!((note.pointer.as_str(), note.code), ("/500", "too_many_faults"));
    let all = all_faults(Vec::new(), batch.refused);
    assert_eq!((all.len(), all[MAX_FAULTS].code), (MAX_FAULTS + 1, "too_many_faults"));
}

#[test]
fn malformed_message_is_reported_with_its_position_in_the_body() {
    let deep = format!("[{}{}]", "[".repeat(200), "]".repeat(200));
    for (body, line, column, reason) in [
        ("[{\"a\": 1},\n {\"b\": tru}]", 2, 11, "expected ident"),
        ("[{\"a\": 1},\n {\"b\": \"\\ud800\"}]", 2, 15, "surrogate"),
        ("[{},]", 1, 5, "trailing comma"),
        ("[{}] x", 1, 6, "trailing characters"),
        ("{\"messages\": [{}]", 1, 17, "EOF"),
        (" ", 1, 1, "empty"),
        (&deep, 1, 129, "127 levels"),
    ] {
        match parse_bytes(body.as_bytes()) {
            Err(Rejection::Malformed { line: at_line, column: at_column, message }) => {
                assert!(message.contains(reason), "{message}");
                assert_eq!((at_line, at_column), (line, column), "{body:.40}: {message}");
            }
            other => panic!("{body:.40}: {other:?}"),
        }
    }
}

#[test]
fn memory_is_bounded_before_the_messages_are_parsed() {
    let recipients: Vec<String> = (0..50).map(|n| format!("{n}@b")).collect();
    let small = json!({"from": "a@b", "to": recipients, "subject": "", "text": "."});
    for body in [json!([small]), json!(vec![small; 300]), json!([message("a")])] {
        let (batch, layout) = parsed(&body);
        let size = body.to_string().len();
        let most = Batch::max_memory(size, layout.count(), Limits::default().recipients);
        assert!(batch.messages.len() == layout.count() && batch.memory(size) <= most, "{} {most}", batch.memory(size));
    }
}

#[test]
fn parser_fields_are_the_documented_ones() {
    let properties = |schema: Value| {
        let mut names: Vec<String> = schema["properties"].as_object().expect("an object").keys().cloned().collect();
        names.sort();
        assert_eq!(schema["additionalProperties"], false);
        names
    };
    let sorted = |fields: &[&str]| {
        let mut names: Vec<String> = fields.iter().map(ToString::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(properties(serde_json::to_value(BatchInput::schema()).unwrap()), sorted(FIELDS));
    assert_eq!(properties(serde_json::to_value(BatchMessageInput::schema()).unwrap()), sorted(send::BATCH_FIELDS));
}

/// A part of a body.
fn part() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(message("a")),
        any::<String>().prop_map(|key| keyed(&json!(key))),
    ];
    let name = prop_oneof![
        4 => proptest::sample::select(&["messages", "validation", "from", "to", "idempotency_key"][..]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    leaf.prop_recursive(4, 60, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((name.clone(), inner), 0..5)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn parsing_any_bytes_does_not_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_bytes(&body);
    }

    #[test]
    fn every_message_is_accepted_or_refused(body in part()) {
        if let Ok((batch, layout)) = parse_bytes(body.to_string().as_bytes()) {
            let mut indexes: Vec<usize> = batch.messages.iter().map(|one| one.index).collect();
            indexes.extend(batch.refused.iter().map(|refused| refused.index));
            indexes.sort_unstable();
            prop_assert_eq!(indexes, (0..layout.count()).collect::<Vec<_>>());
            prop_assert!(batch.refused.iter().all(|refused| !refused.errors.is_empty()));
        }
    }
}
