//! One idempotency key makes one message, with repeated and concurrent requests to any replica.

use std::collections::BTreeSet;

use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{Answer, Api, message};
use crate::support::clock::hours;

async fn send(api: &Api, key: &str, body: &Value) -> Answer {
    Answer::to(api.request(Method::POST, "/v1/messages").header("idempotency-key", key).json(body)).await
}

async fn count(app: &TestApp) -> usize {
    app.get("/v1/messages?limit=100").await.body["data"].as_array().unwrap().len()
}

#[tokio::test]
async fn the_same_request_gets_the_first_answer_again() {
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
async fn another_request_under_the_same_key_is_refused() {
    let app = TestApp::start().await;
    send(&app, "order-42", &message(json!({}))).await;
    let other = send(&app, "order-42", &message(json!({"subject": "Another"}))).await;
    assert_eq!(other.problem(), (422, "idempotency_key_reused"));
    assert_eq!(send(&app, "order-43", &message(json!({}))).await.status, 202);
    assert_eq!(count(&app).await, 2);
}

#[tokio::test]
async fn a_refused_request_uses_no_key_up() {
    let app = TestApp::start().await;
    assert_eq!(send(&app, "order-42", &message(json!({"to": null}))).await.status, 422);
    assert_eq!(send(&app, "order-42", &message(json!({}))).await.status, 202);
}

#[tokio::test]
async fn keys_have_1_to_256_characters() {
    let app = TestApp::start().await;
    for key in ["", "\"\"", &*"k".repeat(257)] {
        let answer = send(&app, key, &message(json!({}))).await;
        assert_eq!((answer.status, answer.faults()), (422, vec![("Idempotency-Key", "invalid_value")]), "{key}");
    }
    assert_eq!(send(&app, &"k".repeat(256), &message(json!({}))).await.status, 202);
}

/// Sends the same request concurrently through all of these, and checks that it made one message.
async fn send_at_once(app: &TestApp, through: &[&Api]) {
    let body = message(json!({}));
    let answers = futures_util::future::join_all(through.iter().map(|api| send(api, "order-42", &body))).await;
    let mut ids = BTreeSet::new();
    for answer in &answers {
        if answer.status == 202 {
            ids.insert(answer.body["id"].as_str().unwrap());
        } else {
            assert_eq!(answer.problem(), (409, "idempotency_key_in_flight"));
            assert!(answer.headers.contains_key("retry-after"));
        }
    }
    assert_eq!((ids.len(), count(app).await), (1, 1));
}

#[tokio::test]
async fn twenty_at_once_make_one_message() {
    let app = TestApp::start().await;
    send_at_once(&app, &[app.api(); 20]).await;
}

#[tokio::test]
async fn on_two_instances_too() {
    let app = TestApp::start().await;
    let (other, api) = app.another_api().await;
    send_at_once(&app, &[app.api(), &api].repeat(10)).await;
    let replayed = send(&api, "order-42", &message(json!({}))).await;
    assert_eq!((replayed.status, replayed.headers.contains_key("idempotent-replayed")), (202, true));
    drop(api);
    other.stop().await;
}

#[tokio::test]
async fn each_api_key_has_idempotency_keys_of_its_own() {
    let app = TestApp::start().await;
    let (shop, blog) = (app.allowed(&[Scope::Send]).await, app.allowed_from(&["blog.test"]).await);
    let body = message(json!({}));
    let first = send(&shop, "order-42", &body).await;
    assert_eq!(send(&blog, "order-42", &body).await.problem(), (403, "forbidden"), "not the other's answer");
    let of_blog = message(json!({"from": "a@blog.test"}));
    let other = send(&blog, "order-42", &of_blog).await;
    assert_eq!((other.status, other.headers.get("idempotent-replayed")), (202, None), "and not blocked by it");
    for (api, body, answer) in [(&shop, &body, &first), (&blog, &of_blog, &other)] {
        let again = send(api, "order-42", body).await;
        assert_eq!((again.status, &again.body["id"]), (202, &answer.body["id"]));
        let changed = send(api, "order-42", &message(json!({"from": body["from"], "subject": "x"}))).await;
        assert_eq!(changed.problem(), (422, "idempotency_key_reused"));
    }
    assert_eq!(count(&app).await, 2);
}

#[tokio::test]
async fn two_api_keys_with_one_key_at_once_make_two_messages() {
    let app = TestApp::start().await;
    let (shop, blog) = (app.allowed(&[Scope::Send]).await, app.allowed(&[Scope::Send]).await);
    let body = message(json!({}));
    let calls = [&shop, &blog].repeat(8).into_iter().map(|api| send(api, "order-42", &body));
    let answers = futures_util::future::join_all(calls).await;
    let ids: BTreeSet<&str> = answers.iter().filter_map(|answer| answer.body["id"].as_str()).collect();
    assert_eq!((ids.len(), count(&app).await), (2, 2));
    let replayed = send(&blog, "order-42", &body).await;
    assert!(ids.contains(replayed.body["id"].as_str().unwrap()) && count(&app).await == 2);
}

#[tokio::test]
async fn the_order_of_names_and_white_space_do_not_matter() {
    let app = TestApp::start().await;
    let raw = async |body: &'static str| {
        let request = app.request(Method::POST, "/v1/messages").header("idempotency-key", "order-42");
        Answer::to(request.header("content-type", "application/json").body(body)).await
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
async fn keys_of_the_version_before_hold_and_check_the_sender() {
    let app = TestApp::start().await;
    let body = message(json!({}));
    let first = send(&app, "order-42", &body).await;
    app.sql("UPDATE idempotency_keys SET api_key_id = NULL, request_digest = NULL").await;
    let shop = app.allowed(&[Scope::Send]).await;
    for api in [app.api(), &shop] {
        let again = send(api, "order-42", &body).await;
        assert_eq!((again.status, &again.body["id"]), (202, &first.body["id"]));
        assert_eq!(send(api, "order-42", &message(json!({"subject": "x"}))).await.status, 422);
    }
    let blog = app.allowed_from(&["blog.test"]).await;
    assert_eq!(send(&blog, "order-42", &body).await.problem(), (403, "forbidden"));
    assert_eq!(count(&app).await, 1);
}

#[tokio::test]
async fn a_repeated_request_is_answered_after_its_expiry() {
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
    let answer = Answer::to(request.header("idempotency-key", "a").header("idempotency-key", "b")).await;
    assert_eq!(answer.problem(), (400, "malformed_request"));
}
