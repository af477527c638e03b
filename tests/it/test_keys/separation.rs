//! Test and live keys do not see each other's data.

use reqwest::Method;
use serde_json::{Value, json};

use super::address;
use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};
use crate::support::hooks;
use crate::support::receiver::Receiver;

/// Returns the values of a field of the items of a page.
async fn listed(api: &Api, path: &str, field: &str) -> Vec<Value> {
    let page = api.get(path).await;
    assert_eq!(page.status, 200, "{path}: {}", page.body);
    page.body["data"].as_array().unwrap().iter().map(|item| item[field].clone()).collect()
}

/// Creates a webhook endpoint, and returns its id.
async fn webhook(api: &Api, url: &str) -> String {
    let created = api.post("/v1/webhooks", &json!({"url": url})).await;
    assert_eq!(created.status, 201, "{}", created.body);
    created.body["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn message_exists_only_for_keys_of_its_mode() {
    let app = TestApp::start().await;
    let (live, test) = (app.api(), &app.with_test_key().await);
    let file = json!([{"filename": "a.txt", "content": "YQ=="}]);
    for (own, other) in [(live, test), (test, live)] {
        let id = own.send(json!({"attachments": file, "scheduled_at": app.clock.text_in(chrono::TimeDelta::hours(1))}));
        let id = id.await.id;
        for path in ["", "/events", "/explain", "/raw", "/attachments/0"] {
            let path = format!("/v1/messages/{id}{path}");
            assert_eq!((own.get(&path).await.status, other.get(&path).await.status), (200, 404), "{path}");
        }
        for action in ["cancel", "retry"] {
            assert_eq!(other.post(&format!("/v1/messages/{id}/{action}"), &json!({})).await.status, 404, "{action}");
        }
        let later = json!({"scheduled_at": app.clock.text_in(chrono::TimeDelta::hours(2))});
        assert_eq!(other.patch(&format!("/v1/messages/{id}"), &later).await.status, 404);
        assert_eq!(own.message(&id).await["test"], own.key.starts_with("pr_test_"));
        assert_eq!(listed(own, "/v1/messages", "id").await, [json!(id)]);
    }
}

#[tokio::test]
async fn each_mode_has_a_feed_without_gaps() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    for _ in 0..2 {
        app.send(json!({})).await;
        test.send(json!({"to": address("bounce", 0)})).await;
    }
    app.run_until_idle().await;
    for (api, is_test) in [(app.api(), false), (&test, true)] {
        let page = api.get("/v1/events?limit=3").await.body;
        let next = page["next"].as_str().map_or_else(|| page["next"].to_string(), str::to_owned);
        let rest = api.get(&format!("/v1/events?after={next}")).await.body;
        let events: Vec<&Value> =
            [&page, &rest].into_iter().flat_map(|page| page["data"].as_array().unwrap()).collect();
        let seqs: Vec<i64> = events.iter().map(|event| event["seq"].as_i64().unwrap()).collect();
        assert_eq!(seqs, [1, 2, 3, 4], "is_test: {is_test}");
        assert!(events.iter().all(|event| (event["data"]["test"] == true) == is_test), "{events:?}");
    }
}

#[tokio::test]
async fn event_stream_has_only_events_of_the_keys_mode() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    app.send(json!({})).await;
    let id = test.send(json!({})).await.id;
    let request = test.request(Method::GET, "/v1/events").header("accept", "text/event-stream");
    let mut stream = request.send().await.unwrap();
    let mut text = String::new();
    while !text.contains("message.accepted") {
        text.push_str(&String::from_utf8_lossy(&stream.chunk().await.unwrap().expect("an event")));
    }
    assert!(text.contains(&id) && text.contains("\"seq\":1,"), "{text}");
}

#[tokio::test]
async fn webhook_gets_only_events_of_its_mode() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let test = app.with_test_key().await;
    let (live_hook, test_hook) =
        (webhook(&app, &receiver.url("/live")).await, webhook(&test, &receiver.url("/test")).await);
    let (live_id, test_id) = (app.send(json!({})).await.id, test.send(json!({})).await.id);
    app.run_until_idle().await;
    app.notify().await;
    for (path, id, flag) in [("/live", &live_id, json!(null)), ("/test", &test_id, json!(true))] {
        let posts = receiver.posts(path);
        assert_eq!(posts.len(), 2, "{path}");
        for post in posts {
            let data = &post.body["data"];
            assert_eq!((&data["message_id"], &data["test"]), (&json!(id), &flag), "{path}");
        }
    }
    assert_eq!(listed(&app, "/v1/webhooks", "id").await, [json!(live_hook)]);
    assert_eq!(listed(&test, "/v1/webhooks", "id").await, [json!(test_hook)]);
    assert_eq!(app.get(&format!("/v1/webhooks/{test_hook}")).await.status, 404);
    assert_eq!(app.delete(&format!("/v1/webhooks/{test_hook}")).await.status, 404);
}

#[tokio::test]
async fn ledger_and_lanes_have_their_own_sums() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    app.send(json!({})).await;
    test.send(json!({"to": ["ann@example.test", "bo@other.test"]})).await;
    app.run_until_idle().await;
    for (api, accepted, relayed, delivered, route) in [(app.api(), 1, 1, 0, "relay"), (&test, 2, 0, 2, "simulator")] {
        let ledger = api.get("/v1/ledger").await.body;
        assert_eq!((&ledger["accepted"], &ledger["relayed"]), (&json!(accepted), &json!(relayed)), "{ledger}");
        assert_eq!((&ledger["delivered"], &ledger["balanced"]), (&json!(delivered), &json!(true)), "{ledger}");
        assert_eq!(listed(api, "/v1/lanes", "route").await, [json!(route)]);
    }
}

#[tokio::test]
async fn suppressions_are_exported_for_the_keys_mode() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    for (api, address) in [(app.api(), "live@example.test"), (&test, "test@example.test")] {
        assert_eq!(api.post("/v1/suppressions", &json!([{"address": address}])).await.status, 200);
    }
    for (api, own, other) in
        [(app.api(), "live@example.test", "test@example.test"), (&test, "test@example.test", "live@example.test")]
    {
        let exported = ApiResponse::to(api.request(Method::GET, "/v1/suppressions/export")).await;
        let text = String::from_utf8(exported.bytes).unwrap();
        assert!(text.contains(own) && !text.contains(other), "{text}");
        assert_eq!(api.status(&api.send(json!({"to": own})).await.id).await, "suppressed");
        assert_eq!(api.status(&api.send(json!({"to": other})).await.id).await, "queued");
    }
}

#[tokio::test]
async fn uploaded_file_exists_only_for_keys_of_its_mode() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    // The SHA-256 of `a`.
    let path = "/v1/blobs/ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
    let stored = ApiResponse::to(test.request(Method::PUT, path).body("a")).await;
    assert!(matches!(stored.status, 200 | 201), "{}", stored.body);
    let head = async |api: &Api| api.request(Method::HEAD, path).send().await.unwrap().status().as_u16();
    assert_eq!((head(&test).await, head(&app).await), (200, 404));
}
