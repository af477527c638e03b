//! Tests of the translation.

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::*;

const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

const OPTIONS: Options = Options { now: NOW, max: 1 << 20, is_keyed: true, downloads: None };

fn translated(body: &Value) -> Translation {
    message(body.to_string().as_bytes(), &OPTIONS).unwrap().unwrap()
}

fn translated_batch(body: &Value) -> Translation {
    batch(body.to_string().as_bytes(), &OPTIONS, Validation::Permissive).unwrap().unwrap()
}

/// Returns the JSON without members that are `null`.
fn json_of(bytes: &[u8]) -> Value {
    let mut value: Value = serde_json::from_slice(bytes).unwrap();
    value.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    value
}

fn faults(body: &Value) -> Vec<(String, &'static str)> {
    match message(body.to_string().as_bytes(), &OPTIONS) {
        Err(Rejection::Invalid(faults)) => faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn empty_and_unknown_members_count_as_missing() {
    let body = json!({
        "from": "", "to": ["a@b.test"], "cc": null, "bcc": [], "subject": "", "text": "", "html": "", "topic_id": "x",
        "attachments": null, "template": null, "scheduled_at": "", "tags": [],
    });
    assert_eq!(json_of(&translated(&body).json), json!({"to": ["a@b.test"]}));
}

#[test]
fn text_is_derived_unless_one_is_given() {
    let with_text = |body: &Value| {
        let Translation { json, htmls, .. } = translated(body);
        json_of(&with_texts(&json, &htmls))
    };
    let derived = with_text(&json!({"html": "<p>Hello <b>you</b></p>", "subject": "x"}));
    assert_eq!(derived["text"].as_str().map(str::trim), Some("Hello you"));
    assert_eq!((&derived["html"], &derived["subject"]), (&json!("<p>Hello <b>you</b></p>"), &json!("x")));
    for body in [
        json!({"html": "<p>Hello</p>", "text": ""}),
        json!({"html": "<p>Hello</p>", "template": {"id": "x"}}),
        json!({"subject": "x"}),
    ] {
        assert_eq!(with_text(&body).get("text"), None, "{body}");
    }
    let canonical = json_of(&translated(&json!({"html": "<p>Hello</p>"})).canonical);
    assert_eq!(canonical, json!({"html": "<p>Hello</p>"}));
    let empty = json_of(&translated(&json!({"html": "<p>Hello</p>", "text": ""})).canonical);
    assert_eq!(empty, json!({"html": "<p>Hello</p>", "text": ""}));
}

#[test]
fn texts_are_derived_for_each_message_of_a_batch() {
    let body = json!([{"html": "<p>One</p>"}, {"text": "Two", "html": "<p>2</p>"}, {"html": "<p>Three</p>"}]);
    let Translation { json, htmls, .. } = translated_batch(&body);
    let value: Value = serde_json::from_slice(&with_texts(&json, &htmls)).unwrap();
    let texts = value["messages"].as_array().unwrap().iter().map(|one| one["text"].as_str().unwrap().trim());
    assert_eq!(texts.collect::<Vec<_>>(), ["One", "Two", "Three"]);
}

#[test]
fn translation_larger_than_a_body_of_v1_is_refused() {
    let options = Options { max: 100_000, is_keyed: false, ..OPTIONS };
    let translate = |body: &Value| message(body.to_string().as_bytes(), &options).unwrap();
    for body in [
        json!({"text": "x".repeat(200_000)}),
        json!({"template": {"id": "x".repeat(200_000)}}),
        json!({"attachments": [{"content": vec![7; 200_000]}]}),
        json!({"attachments": [{"content": {"type": "Buffer", "data": vec![7; 200_000]}}]}),
        json!({"attachments": [{"content": "a".repeat(200_000)}]}),
    ] {
        assert!(translate(&body).is_none());
    }
    let file = translate(&json!({"attachments": [{"content": vec![100; 100_000]}]})).unwrap();
    assert_eq!((file.parts["0.0"].size, file.canonical.len()), (100_000, 0));
    let many = json!(vec![json!({"text": "x".repeat(10_000)}); 20]).to_string();
    assert!(batch(many.as_bytes(), &options, Validation::Permissive).unwrap().is_none());
}

#[test]
fn words_of_the_time_stay_in_the_canonical_form() {
    let translation = translated(&json!({"scheduled_at": "in 1 hour"}));
    let time = json_of(&translation.json)["scheduled_at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    assert_eq!(time - NOW, TimeDelta::hours(1));
    assert_eq!(json_of(&translation.canonical), json!({"scheduled_at": "in 1 hour"}));
    assert_eq!(faults(&json!({"scheduled_at": "tomorrow"})), [("/scheduled_at".to_owned(), "invalid_timestamp")]);
    assert_eq!(faults(&json!({"scheduled_at": 5})), [("/scheduled_at".to_owned(), "invalid_type")]);
}

#[test]
fn template_ids_may_be_uuids_or_aliases() {
    let of = |id: &str| json_of(&translated(&json!({"template": {"id": id, "variables": {"A": 1}}})).json);
    let uuid = of("019a8f3c-2b7d-7c4e-8a1b-2c3d4e5f6a7b");
    assert_eq!(uuid["template"], json!({"id": "tpl_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b", "variables": {"A": 1}}));
    assert_eq!(of("welcome")["template"]["id"], "welcome");
}

#[test]
fn files_become_parts_of_a_form() {
    let body = json!({"attachments": [
        {"filename": "a.txt", "content": "aGk=", "content_type": "text/plain", "path": ""},
        {"filename": false, "content": [104, 105], "inline_content_id": "logo"},
    ]});
    let translation = translated(&body);
    let expected = json!({"attachments": [
        {"part": "0.0", "filename": "a.txt", "content_type": "text/plain"},
        {"part": "0.1", "filename": "attachment", "content_id": "logo"},
    ]});
    assert_eq!(json_of(&translation.json), expected);
    assert!(translation.parts.values().all(|part| part.data == b"hi" && part.size == 2));
    for (attachment, pointer, code) in [
        (json!({"filename": "a", "path": "https://x.test/a"}), "/attachments/0/path", "not_available"),
        (json!({"filename": "a", "content": "", "path": "https://x.test/a"}), "/attachments/0/path", "not_available"),
        (json!({"filename": "a"}), "/attachments/0/content", "required"),
        (json!({"content": "data:a/b;base64,aGk="}), "/attachments/0/content", "invalid_base64"),
    ] {
        assert_eq!(faults(&json!({"attachments": [attachment]})), [(pointer.to_owned(), code)]);
    }
}

#[test]
fn files_at_urls_become_parts_to_download() {
    let options = Options { downloads: Some(2), ..OPTIONS };
    let url = |n: usize| format!("https://files.test/{n}.pdf");
    let files: Vec<Value> = (0..3).map(|n| json!({"path": url(n), "content": null})).collect();
    let body = json!([{"attachments": files, "scheduled_at": "someday"}, {"attachments": files}]).to_string();
    let translation = batch(body.as_bytes(), &options, Validation::Permissive).unwrap().unwrap();
    let download = |n: usize| Download { part: format!("1.{n}"), url: url(n) };
    assert_eq!(translation.downloads, [download(0), download(1)], "only those that a message may have");
    let attachments = |bytes: &[u8], message: &str| json_of(bytes).pointer(message).unwrap()["attachments"].clone();
    let parts = attachments(&translation.json, "/messages/0");
    assert_eq!(parts[0], json!({"part": "1.0", "filename": "0.pdf"}));
    let canonical = attachments(&translation.canonical, "/messages/1");
    assert_eq!(canonical[0], json!({"path": url(0), "filename": "0.pdf"}));
}

#[test]
fn batch_is_an_object_with_the_messages() {
    let email = json!({"subject": "x", "attachments": [{"content": "aGk="}]});
    let body = json!([email, {"subject": "y"}, email]);
    let translation = translated_batch(&body);
    let value: Value = serde_json::from_slice(&translation.json).unwrap();
    assert_eq!(value["validation"], "permissive");
    let subjects: Vec<&str> =
        value["messages"].as_array().unwrap().iter().map(|one| one["subject"].as_str().unwrap()).collect();
    assert_eq!(subjects, ["x", "y", "x"]);
    assert_eq!(translation.parts.keys().collect::<Vec<_>>(), ["0.0", "2.0"]);
    let many = json!(vec![json!({}); MAX_BATCH + 1]).to_string();
    assert!(matches!(batch(many.as_bytes(), &OPTIONS, Validation::Strict), Err(Rejection::Invalid(_))));
}

#[test]
fn messages_with_faults_are_left_out_of_a_permissive_batch() {
    let file = json!([{"content": "aGk="}]);
    let body = json!([
        {"scheduled_at": "someday", "html": "<p>x</p>", "attachments": file}, {"subject": "y", "attachments": file}, 5,
        {"subject": "z"}, {"attachments": [{"filename": "a"}]},
    ]);
    let translation = translated_batch(&body);
    let value: Value = serde_json::from_slice(&translation.json).unwrap();
    let messages = value["messages"].as_array().unwrap();
    let subjects: Vec<&str> = messages.iter().map(|one| one["subject"].as_str().unwrap()).collect();
    assert_eq!(subjects, ["y", "z"]);
    assert_eq!(translation.indexes, [1, 3]);
    assert_eq!(translation.parts.keys().collect::<Vec<_>>(), ["1.0"]);
    assert!(translation.htmls.is_empty());
    let refused: Vec<(usize, &str)> =
        translation.refused.iter().map(|refused| (refused.index, refused.errors[0].pointer.as_str())).collect();
    let pointers = ["/messages/0/scheduled_at", "/messages/2", "/messages/4/attachments/0/content"];
    assert_eq!(refused, [(0, pointers[0]), (2, pointers[1]), (4, pointers[2])]);
    let canonical = |body: &Value| serde_json::from_slice::<Value>(&translated_batch(body).canonical).unwrap();
    assert_eq!(canonical(&body)["messages"].as_array().unwrap().len(), 5);
    let mut other = body.clone();
    other[2] = json!(6);
    assert_ne!(canonical(&other), canonical(&body), "refused messages count too");
    let strict = batch(body.to_string().as_bytes(), &OPTIONS, Validation::Strict);
    assert!(matches!(strict, Err(Rejection::Invalid(faults)) if faults.len() == 3));
    let none = translated_batch(&json!([5, "x"]));
    assert_eq!((none.indexes.len(), none.refused.len()), (0, 2));
}

#[test]
fn body_of_another_type_is_not_valid() {
    for body in ["[]", "5", "\"x\"", r#"{"attachments": 5}"#, r#"{"attachments": [{"content": [256]}]}"#] {
        assert!(matches!(message(body.as_bytes(), &OPTIONS), Err(Rejection::Invalid(_))), "{body}");
    }
    for body in ["", "{", "{\"a\":}", "\u{1}"] {
        assert!(matches!(message(body.as_bytes(), &OPTIONS), Err(Rejection::Malformed { .. })), "{body}");
    }
}
