//! `Idempotency-Key`: requests are compared by what they mean, not by their bytes.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use futures_util::future::join_all;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::{Response, email, get, start};
use crate::support::app::TestApp;

async fn send(app: &TestApp, body: &str) -> Response {
    let request = app.request(Method::POST, "/emails").header("idempotency-key", "order-42");
    Response::to(request.header(CONTENT_TYPE, "application/json").body(body.to_owned())).await
}

/// Returns JSON whose members have the opposite order.
fn reversed(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: Vec<String> =
                members.iter().rev().map(|(name, value)| format!("{}: {}", json!(name), reversed(value))).collect();
            format!("{{ {} }}", members.join(",\n"))
        }
        other => other.to_string(),
    }
}

#[tokio::test]
async fn another_order_of_members_is_the_same_request() {
    let app = start().await;
    let body = email(json!({
        "html": "<p>Hello</p>", "text": null, "headers": {"X-A": "1", "X-B": "2", "X-C": "3"}, "scheduled_at": "in 1 hour",
        "attachments": [{"filename": "a.bin", "content": "aGk="}],
    }));
    let first = send(&app, &body.to_string()).await.id();
    app.clock.advance(TimeDelta::minutes(10));
    assert_eq!(send(&app, &reversed(&body)).await.id(), first);
    // The same file as a list of numbers.
    let mut bytes = body.clone();
    bytes["attachments"][0]["content"] = json!([104, 105]);
    bytes["cc"] = json!([]);
    assert_eq!(send(&app, &bytes.to_string()).await.id(), first);
    assert_eq!(get(&app, "/emails").await.ok()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn request_with_a_key_in_progress_is_a_conflict() {
    let app = start().await;
    let body = email(json!({})).to_string();
    let responses = join_all((0..20).map(|_| send(&app, &body))).await;
    let mut ids = BTreeSet::new();
    for response in responses {
        if response.status == 200 {
            ids.insert(response.id());
        } else {
            assert_eq!(response.error(), (409, "concurrent_idempotent_requests"));
        }
    }
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn another_request_with_the_key_is_a_conflict() {
    let app = start().await;
    let body = email(json!({"attachments": [{"filename": "a.bin", "content": "aGk="}]}));
    assert_eq!(send(&app, &body.to_string()).await.status, 200);
    for (pointer, value) in [
        ("/subject", json!("Other")),
        ("/attachments/0/content", json!("aG8=")),
        ("/attachments/0/filename", json!("b")),
        ("/text", json!("")),
    ] {
        let mut other = body.clone();
        *other.pointer_mut(pointer).unwrap() = value;
        assert_eq!(send(&app, &other.to_string()).await.error(), (409, "invalid_idempotent_request"), "{pointer}");
    }
}
