//! Changes of streams take effect at once on the replica that makes them, and on the others within a second.

use std::time::Duration;

use postrider::app::App;
use postrider::config::SecretKey;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse, message};
use crate::support::until::until;

/// A second, and another one for a busy machine.
const LIMIT: Duration = Duration::from_secs(2);

/// Starts two replicas with unsubscribe links, and a stream `news`. Both have cached the streams of live and test messages.
async fn two_replicas() -> (TestApp, App, Api) {
    let app = TestApp::builder().config(|config| {
        config.public_url = Some("https://mail.acme.test".parse().unwrap());
        config.secret_key = Some(SecretKey::from("0123456789abcdef0123456789abcdef".to_owned()));
    });
    let app = app.start().await;
    assert_eq!(app.post("/v1/streams", &json!({"name": "news", "priority": 60})).await.status, 201);
    let (other, api) = app.another_api().await;
    let test = app.with_test_key().await;
    for api in [app.api(), &api, &test, &api.with_key(&test.key)] {
        assert_eq!(send(api, "news").await.status, 202);
    }
    (app, other, api)
}

/// Sends a message to two recipients.
async fn send(api: &Api, stream: &str) -> ApiResponse {
    let to = ["ann@example.test", "bo@example.test"];
    api.post("/v1/messages", &message(json!({"stream": stream, "to": to}))).await
}

/// Returns the code of the first warning about a message of the stream `news`: whether it would carry a link.
async fn warning(api: &Api) -> Value {
    let sent = send(api, "news").await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    let codes = sent.body["warnings"].as_array().into_iter().flatten().map(|warning| warning["code"].clone());
    codes.filter(|code| code == "unsubscribe_needs_one_recipient").collect()
}

/// Returns the message about an unknown stream, which lists those of the tenant, most urgent first.
async fn list(api: &Api) -> String {
    let refused = send(api, "unknown").await;
    assert_eq!(refused.faults(), [("/stream", "unknown_stream")]);
    refused.body["errors"][0]["message"].as_str().unwrap().to_owned()
}

/// Waits until a value is the expected one.
async fn becomes<T: PartialEq + std::fmt::Debug>(expected: T, value: impl AsyncFn() -> T) {
    until("the change takes effect", LIMIT, async || {
        let value = value().await;
        if value == expected { Ok(()) } else { Err(format!("{value:?}")) }
    })
    .await;
}

#[tokio::test]
async fn new_stream_is_used_by_the_other_replica_within_1_s() {
    let (app, other, api) = two_replicas().await;
    assert_eq!(send(&api, "alerts").await.status, 422);
    assert_eq!(app.post("/v1/streams", &json!({"name": "alerts"})).await.status, 201);
    assert_eq!(send(app.api(), "alerts").await.status, 202, "at once");
    becomes(202, async || send(&api, "alerts").await.status).await;
    other.stop().await;
}

#[tokio::test]
async fn unsubscribe_links_change_on_the_other_replica_within_1_s() {
    let (app, other, api) = two_replicas().await;
    let test = api.with_key(&app.with_test_key().await.key);
    let (linked, none) = (json!(["unsubscribe_needs_one_recipient"]), json!([]));
    assert_eq!(warning(&api).await, none);
    for (unsubscribe, expected) in [(true, &linked), (false, &none)] {
        let changed = app.patch("/v1/streams/news", &json!({"unsubscribe": unsubscribe})).await;
        assert_eq!(changed.status, 200, "{}", changed.body);
        assert_eq!(warning(app.api()).await, *expected, "at once");
        becomes(expected.clone(), async || warning(&api).await).await;
        becomes(expected.clone(), async || warning(&test).await).await;
    }
    other.stop().await;
}

#[tokio::test]
async fn priority_changed_by_hand_takes_effect_within_1_s() {
    let (app, other, api) = two_replicas().await;
    assert_eq!(list(&api).await, "unknown stream; use one of transactional, bulk, news");
    app.sql("UPDATE streams SET priority = 5 WHERE name = 'news'").await;
    for api in [app.api(), &api] {
        becomes("unknown stream; use one of news, transactional, bulk".to_owned(), async || list(api).await).await;
    }
    other.stop().await;
}

#[tokio::test]
async fn stream_deleted_by_hand_is_unknown_within_1_s() {
    let (app, other, api) = two_replicas().await;
    assert_eq!(app.post("/v1/streams", &json!({"name": "unused"})).await.status, 201);
    becomes(200, async || dry_run(&api, "unused").await).await;
    app.sql("DELETE FROM streams WHERE name = 'unused'").await;
    for api in [app.api(), &api] {
        becomes(422, async || dry_run(api, "unused").await).await;
    }
    other.stop().await;
}

/// Returns the status of a message that is not stored.
async fn dry_run(api: &Api, stream: &str) -> u16 {
    api.post("/v1/messages?dry_run=true", &message(json!({"stream": stream}))).await.status
}

#[tokio::test]
async fn change_of_a_rolled_back_transaction_is_not_noted() {
    let app = TestApp::start().await;
    let noted = async || -> i64 {
        let version = sqlx::query_scalar("SELECT version FROM tenant_change_counter");
        version.fetch_one(&mut app.database.connect().await).await.unwrap()
    };
    let before = noted().await;
    app.sql("BEGIN; UPDATE streams SET priority = 5 WHERE name = 'bulk'; ROLLBACK").await;
    // What workers change, and what is not cached.
    app.sql("UPDATE streams SET open_at = now(), next_turn_at = now(), weight = 20, priority = priority").await;
    assert_eq!(noted().await, before);
    app.sql("UPDATE streams SET priority = 6 WHERE name = 'bulk'").await;
    assert_eq!(noted().await, before + 1);
}
