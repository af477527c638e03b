//! What `postrider.send` refuses, at the call.

use serde_json::{Value, json};

use super::{accepted, execute, problem, send, sender};
use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::postgres::until_waiting_for_lock;

/// Returns an alternative of a type.
fn alternative(content_type: &str) -> Value {
    json!({"content_type": content_type, "content": "x"})
}

/// Returns the fields of a message with alternatives of these types.
fn alternatives(types: &[&str]) -> Value {
    json!({"alternatives": types.iter().map(|kind| alternative(kind)).collect::<Vec<_>>()})
}

/// Returns the messages that are refused, with the pointer and the code of their only fault.
fn refused() -> Vec<(Value, &'static str, &'static str)> {
    let digest = "00".repeat(32);
    vec![
        (json!({"from": null}), "/from", "required"),
        (json!({"from": "acme.test"}), "/from", "invalid_address"),
        (json!({"from": {"name": "Acme"}}), "/from/email", "required"),
        (json!({"from": {"email": "a@acme.test", "nam": "Acme"}}), "/from/nam", "unknown_field"),
        (json!({"to": []}), "/to", "required"),
        (json!({"to": ["ann@example.test", "ann@-example.test"]}), "/to/1", "invalid_address"),
        (json!({"to": "\"a b\"@example.test"}), "/to", "invalid_address"),
        (json!({"to": "ann@bücher.test"}), "/to", "invalid_address"),
        (json!({"to": "ann@xn--bcher-kva.test"}), "/to", "invalid_address"),
        (json!({"to": "ann@192.0.2.1"}), "/to", "invalid_address"),
        (json!({"to": "Ann, Lee <ann@example.test>"}), "/to", "invalid_address"),
        (json!({"to": "ann@example.test\r\nBcc: bo@example.test"}), "/to", "control_character"),
        (json!({"to": 5}), "/to", "invalid_type"),
        (json!({"to": vec!["ann@example.test"; 51]}), "/to", "too_many"),
        (json!({"to": "unknown@simulator.postrider.test"}), "/to", "invalid_value"),
        (json!({"reply_to": ["x"]}), "/reply_to/0", "invalid_address"),
        (json!({"subject": null}), "/subject", "required"),
        (json!({"subject": "a\nb"}), "/subject", "control_character"),
        (json!({"subject": "a".repeat(999)}), "/subject", "too_long"),
        (json!({"text": null}), "/text", "required"),
        (json!({"text": null, "html": " \u{a0}"}), "/text", "required"),
        (json!({"html": 5}), "/html", "invalid_type"),
        (json!({"headers": {"To": "x"}}), "/headers/To", "forbidden_header"),
        (json!({"headers": {"X A": "x"}}), "/headers/X A", "invalid_header"),
        (json!({"headers": {"X-A": "a\nb"}}), "/headers/X-A", "control_character"),
        (json!({"headers": {"X-A/~": "a\nb"}}), "/headers/X-A~1~0", "control_character"),
        (json!({"headers": {"References": "<ü@x>"}}), "/headers/References", "invalid_header"),
        (json!({"headers": {"X-A": "a", "x-a": "b"}}), "/headers", "duplicate_field"),
        (json!({"attachments": [{"content": "YQ=="}]}), "/attachments/0/filename", "required"),
        (json!({"attachments": [{"filename": "a"}]}), "/attachments/0/content", "required"),
        (json!({"attachments": [{"filename": "a", "content": "YR=="}]}), "/attachments/0/content", "invalid_base64"),
        (json!({"attachments": [{"filename": "a", "sha256": digest}]}), "/attachments/0/sha256", "unknown_blob"),
        (
            json!({"attachments": [{"filename": "a", "content": "", "content_type": "message/rfc822"}]}),
            "/attachments/0/content_type",
            "invalid_content_type",
        ),
        (json!({"attachments": [{"filename": "a", "content": "A".repeat(1_400_000)}]}), "/attachments", "too_large"),
        (json!({"in_reply_to": 5}), "/in_reply_to", "invalid_type"),
        (json!({"in_reply_to": "<a@b>"}), "/in_reply_to", "invalid_value"),
        (json!({"in_reply_to": format!("msg_{}", "0".repeat(32))}), "/in_reply_to", "unknown_message"),
        (json!({"alternatives": {}}), "/alternatives", "invalid_type"),
        (json!({"alternatives": vec![alternative("text/x"); 6]}), "/alternatives", "too_many"),
        (json!({"alternatives": [{"content_type": "text/x"}]}), "/alternatives/0/content", "required"),
        (json!({"alternatives": [{"content": "x"}]}), "/alternatives/0/content_type", "required"),
        (alternatives(&["image/png"]), "/alternatives/0/content_type", "invalid_content_type"),
        (alternatives(&["Text/Plain; charset=utf-8"]), "/alternatives/0/content_type", "invalid_content_type"),
        (alternatives(&["text/calendar"]), "/alternatives/0/content_type", "invalid_content_type"),
        (alternatives(&["text/x; charset=latin1"]), "/alternatives/0/content_type", "invalid_content_type"),
        (alternatives(&["text/x; a=1; A=2"]), "/alternatives/0/content_type", "invalid_content_type"),
        (alternatives(&["text/\u{212a}"]), "/alternatives/0/content_type", "invalid_content_type"),
        (alternatives(&["text/x", "TEXT/X; a=1"]), "/alternatives/1/content_type", "duplicate_value"),
        (json!({"tags": [{"name": "a"}]}), "/tags/0/value", "required"),
        (json!({"tags": [{"name": "a", "value": "b c"}]}), "/tags/0/value", "invalid_value"),
        (json!({"metadata": {"a": 5}}), "/metadata/a", "invalid_type"),
        (json!({"metadata": {"a": "x".repeat(17_000)}}), "/metadata", "too_large"),
        (json!({"stream": "none"}), "/stream", "unknown_stream"),
        (json!({"scheduled_at": "tomorrow"}), "/scheduled_at", "invalid_timestamp"),
        (json!({"scheduled_at": "2999-01-01T00:00:00Z"}), "/scheduled_at", "invalid_timestamp"),
        (json!({"scheduled_at": "2026-02-30T00:00:00Z"}), "/scheduled_at", "invalid_timestamp"),
        (json!({"expires_at": "2020-01-01T00:00:00Z"}), "/expires_at", "invalid_timestamp"),
        (json!({"on_uncertain": "x"}), "/on_uncertain", "invalid_value"),
        (json!({"text": null, "template": {"id": "none"}, "from": "a@acme.test"}), "/template/id", "unknown_template"),
        (json!({"texts": "x"}), "/texts", "unknown_field"),
        (json!({"ignore_suppression": true}), "/ignore_suppression", "unknown_field"),
    ]
}

#[tokio::test]
async fn every_fault_has_a_pointer_and_a_code() {
    let app = TestApp::start().await;
    let mut sql = sender(&app.database).await;
    for (fields, pointer, code) in refused() {
        let error = send(&mut sql, &message(fields.clone()), None).await.expect_err(pointer);
        let expected = ("PR422".to_owned(), vec![(pointer.to_owned(), code.to_owned())]);
        assert_eq!(problem(&error), expected, "{:.200}: {error}", fields.to_string());
    }
    let all = json!({"from": "x", "to": "y", "subject": 5, "text": 6, "more": 7});
    let (_, faults) = problem(&send(&mut sql, &all, None).await.unwrap_err());
    let pointers: Vec<&str> = faults.iter().map(|(pointer, _)| pointer.as_str()).collect();
    assert_eq!(pointers, ["/more", "/from", "/to", "/subject", "/text"]);
    for value in [json!([]), json!("x"), json!(null)] {
        assert_eq!(problem(&send(&mut sql, &value, None).await.unwrap_err()).0, "PR422");
    }
    let large = message(json!({"text": "a".repeat(2 << 20)}));
    let too_large = ("PR422".to_owned(), vec![(String::new(), "too_large".to_owned())]);
    assert_eq!(problem(&send(&mut sql, &large, None).await.unwrap_err()), too_large);
}

#[tokio::test]
async fn repeated_key_returns_the_first_message() {
    let app = TestApp::start().await;
    let mut sql = sender(&app.database).await;
    execute(&mut sql, "BEGIN").await;
    let first = send(&mut sql, &message(json!({})), Some("k")).await.unwrap();
    assert_eq!(send(&mut sql, &message(json!({"cc": null})), Some("k")).await.unwrap(), first);
    execute(&mut sql, "COMMIT").await;
    accepted(&app, &first).await;
    assert_eq!(send(&mut sql, &message(json!({})), Some("k")).await.unwrap(), first);
    let error = send(&mut sql, &message(json!({"subject": "Another"})), Some("k")).await.unwrap_err();
    let expected = vec![("/idempotency_key".to_owned(), "idempotency_key_reused".to_owned())];
    assert_eq!(problem(&error), ("PR409".to_owned(), expected));
    assert_ne!(send(&mut sql, &message(json!({})), Some("other")).await.unwrap(), first);
    // The API's keys are others.
    let request = app.request(reqwest::Method::POST, "/v1/messages").header("idempotency-key", "k");
    let response = crate::support::client::ApiResponse::to(request.json(&message(json!({"subject": "By HTTP"})))).await;
    assert_eq!(response.status, 202, "{}", response.body);
    super::inbox_is_empty(&app.database).await;
}

#[tokio::test]
async fn concurrent_calls_with_a_key_make_one_message() {
    let app = TestApp::start().await;
    let (mut one, mut two) = (sender(&app.database).await, sender(&app.database).await);
    execute(&mut one, "BEGIN").await;
    let first = send(&mut one, &message(json!({})), Some("k")).await.unwrap();
    let waiting = tokio::spawn(async move { send(&mut two, &message(json!({})), Some("k")).await });
    let mut observer = app.database.connect().await;
    until_waiting_for_lock(&mut observer, "postrider.send").await;
    execute(&mut one, "COMMIT").await;
    assert_eq!(waiting.await.unwrap().unwrap(), first);
    super::inbox_is_empty(&app.database).await;
}
