//! One idempotency key creates one message, with repeated and concurrent requests to any replica.

use std::collections::BTreeSet;

use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse, message};
use crate::support::clock::hours;

async fn send(api: &Api, key: &str, body: &Value) -> ApiResponse {
    ApiResponse::to(api.request(Method::POST, "/v1/messages").header("idempotency-key", key).json(body)).await
}

async fn count(app: &TestApp) -> usize {
    app.get("/v1/messages?limit=100").await.body["data"].as_array().unwrap().len()
}

#[tokio::test]
async fn repeated_request_returns_the_first_response() {
    let app = TestApp::start().await;
    let body = message(json!({"to": ["ann@example.test", "bo@example.test"]}));
    let first = send(&app, "order-42", &body).await;
    assert_eq!((first.status, first.headers.get("idempotent-replayed")), (202, None));
    app.run_until_idle().await;
    app.clock.advance(hours(20));

    for key in ["order-42", "\"order-42\""] {
        let again = send(&app, key, &body).await;
        assert_eq!((again.status, &again.headers["idempotent-replayed"]), (202, &"true".parse().unwrap()));
        assert_eq!((&again.body, &again.headers["location"]), (&first.body, &first.headers["location"]));
    }
    assert_eq!(count(&app).await, 1);
}

#[tokio::test]
async fn different_request_with_the_same_key_is_refused() {
    let app = TestApp::start().await;
    send(&app, "order-42", &message(json!({}))).await;
    let other = send(&app, "order-42", &message(json!({"subject": "Another"}))).await;
    assert_eq!(other.problem(), (422, "idempotency_key_reused"));
    assert_eq!(send(&app, "order-43", &message(json!({}))).await.status, 202);
    assert_eq!(count(&app).await, 2);
}

#[tokio::test]
async fn refused_request_does_not_use_its_key() {
    let app = TestApp::start().await;
    assert_eq!(send(&app, "order-42", &message(json!({"to": null}))).await.status, 422);
    assert_eq!(send(&app, "order-42", &message(json!({}))).await.status, 202);
}

#[tokio::test]
async fn keys_have_1_to_256_characters() {
    let app = TestApp::start().await;
    for key in ["", "\"\"", &*"k".repeat(257)] {
        let response = send(&app, key, &message(json!({}))).await;
        assert_eq!((response.status, response.faults()), (422, vec![("Idempotency-Key", "invalid_value")]), "{key}");
    }
    assert_eq!(send(&app, &"k".repeat(256), &message(json!({}))).await.status, 202);
}

/// Sends the same request concurrently through all of these clients, and checks that exactly one message was created.
async fn send_at_once(app: &TestApp, through: &[&Api]) {
    let body = message(json!({}));
    let responses = futures_util::future::join_all(through.iter().map(|api| send(api, "order-42", &body))).await;
    let mut ids = BTreeSet::new();
    for response in &responses {
        if response.status == 202 {
            ids.insert(response.body["id"].as_str().unwrap());
        } else {
            assert_eq!(response.problem(), (409, "idempotency_key_in_flight"));
            assert!(response.headers.contains_key("retry-after"));
        }
    }
    assert_eq!((ids.len(), count(app).await), (1, 1));
}

#[tokio::test]
async fn concurrent_requests_create_one_message() {
    let app = TestApp::start().await;
    send_at_once(&app, &[app.api(); 20]).await;
}

#[tokio::test]
async fn concurrent_requests_to_two_replicas_create_one_message() {
    let app = TestApp::start().await;
    let (other, api) = app.another_api().await;
    send_at_once(&app, &[app.api(), &api].repeat(10)).await;
    let replayed = send(&api, "order-42", &message(json!({}))).await;
    assert_eq!((replayed.status, replayed.headers.contains_key("idempotent-replayed")), (202, true));
    drop(api);
    other.stop().await;
}

#[tokio::test]
async fn idempotency_keys_are_scoped_to_the_api_key() {
    let app = TestApp::start().await;
    let (shop, blog) = (app.with_scopes(&[Scope::Send]).await, app.with_sender_domains(&["blog.test"]).await);
    let body = message(json!({}));
    let first = send(&shop, "order-42", &body).await;
    assert_eq!(
        send(&blog, "order-42", &body).await.problem(),
        (403, "forbidden"),
        "a key never returns the response of another API key"
    );
    let blog_message = message(json!({"from": "a@blog.test"}));
    let other = send(&blog, "order-42", &blog_message).await;
    assert_eq!(
        (other.status, other.headers.get("idempotent-replayed")),
        (202, None),
        "the other API key's use does not matter"
    );
    for (api, body, response) in [(&shop, &body, &first), (&blog, &blog_message, &other)] {
        let again = send(api, "order-42", body).await;
        assert_eq!((again.status, &again.body["id"]), (202, &response.body["id"]));
        let changed = send(api, "order-42", &message(json!({"from": body["from"], "subject": "x"}))).await;
        assert_eq!(changed.problem(), (422, "idempotency_key_reused"));
    }
    assert_eq!(count(&app).await, 2);
}

#[tokio::test]
async fn same_key_of_two_api_keys_creates_two_messages() {
    let app = TestApp::start().await;
    let (shop, blog) = (app.with_scopes(&[Scope::Send]).await, app.with_scopes(&[Scope::Send]).await);
    let body = message(json!({}));
    let calls = [&shop, &blog].repeat(8).into_iter().map(|api| send(api, "order-42", &body));
    let responses = futures_util::future::join_all(calls).await;
    let ids: BTreeSet<&str> = responses.iter().filter_map(|response| response.body["id"].as_str()).collect();
    assert_eq!((ids.len(), count(&app).await), (2, 2));
    let replayed = send(&blog, "order-42", &body).await;
    assert!(ids.contains(replayed.body["id"].as_str().unwrap()) && count(&app).await == 2);
}

#[tokio::test]
async fn field_order_and_white_space_do_not_matter() {
    let app = TestApp::start().await;
    let raw = async |body: &'static str| {
        let request = app.request(Method::POST, "/v1/messages").header("idempotency-key", "order-42");
        ApiResponse::to(request.header("content-type", "application/json").body(body)).await
    };
    let first =
        raw(r#"{"from":"a@acme.test","to":"b@x.test","subject":"s","text":"t","metadata":{"a":"1","b":"2"}}"#).await;
    for same in [
        r#"{"text":"t", "metadata":{"b":"2","a":"1"}, "subject":"s", "to":"b@x.test", "from":"a@acme.test"}"#,
        r#"{"from":"a\u0040acme.test","to":"b@x.test","subject":"s","text":"t","metadata":{"a":"1","b":"2"},"cc":null}"#,
    ] {
        let again = raw(same).await;
        assert_eq!((again.status, &again.body["id"]), (202, &first.body["id"]), "{same}");
    }
    let other =
        raw(r#"{"from":"a@acme.test","to":"b@x.test","subject":"s","text":"t","metadata":{"a":"2","b":"1"}}"#).await;
    assert_eq!(other.problem(), (422, "idempotency_key_reused"));
}

#[tokio::test]
async fn keys_of_earlier_version_apply_and_check_the_sender() {
    let app = TestApp::start().await;
    let body = message(json!({}));
    let first = send(&app, "order-42", &body).await;
    app.sql("UPDATE idempotency_keys SET api_key_id = NULL, request_digest = NULL").await;
    let shop = app.with_scopes(&[Scope::Send]).await;
    for api in [app.api(), &shop] {
        let again = send(api, "order-42", &body).await;
        assert_eq!((again.status, &again.body["id"]), (202, &first.body["id"]));
        assert_eq!(send(api, "order-42", &message(json!({"subject": "x"}))).await.status, 422);
    }
    let blog = app.with_sender_domains(&["blog.test"]).await;
    assert_eq!(send(&blog, "order-42", &body).await.problem(), (403, "forbidden"));
    assert_eq!(count(&app).await, 1);
}

#[tokio::test]
async fn repeated_request_succeeds_after_message_expiry() {
    let app = TestApp::start().await;
    let body = message(json!({"expires_at": app.clock.text_in(hours(1))}));
    let first = send(&app, "order-42", &body).await;
    app.clock.advance(hours(2));
    let again = send(&app, "order-42", &body).await;
    assert_eq!((again.status, &again.body["id"]), (202, &first.body["id"]));
}

#[tokio::test]
async fn two_idempotency_keys_in_one_request_are_refused() {
    let app = TestApp::start().await;
    let request = app.request(Method::POST, "/v1/messages").json(&message(json!({})));
    let response = ApiResponse::to(request.header("idempotency-key", "a").header("idempotency-key", "b")).await;
    assert_eq!(response.problem(), (400, "malformed_request"));
}
