//! `POST /v1/test/clock` moves what test messages wait for, and nothing else.

use chrono::{DateTime, TimeDelta, Utc};
use postrider::domain::key::Scope;
use serde_json::{Value, json};

use super::{address, run};
use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::clock::{hours, minutes};
use crate::support::hooks;
use crate::support::receiver::{Receiver, Reply};

/// Advances the clock of test messages, and returns what was moved.
async fn advance(test: &Api, by: &str) -> Value {
    let response = test.post("/v1/test/clock", &json!({"advance": by})).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.body
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn deferred_message_is_retried_when_the_clock_is_advanced() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    let id = test.send(json!({"to": address("defer-1", 0)})).await.id;
    app.run_until_idle().await;
    let before = test.recipient(&id).await["next_attempt_at"].clone();
    let moved = advance(&test, "30s").await;
    assert_eq!(moved, json!({"advanced": 30, "recipients": 1, "followups": 0, "webhook_deliveries": 0}));
    let after = test.recipient(&id).await["next_attempt_at"].clone();
    assert_eq!(time(&before) - time(&after), TimeDelta::seconds(30));
    app.run_until_idle().await;
    assert_eq!(test.status(&id).await, "deferred");
    advance(&test, "1h").await;
    app.another_worker().await.drain().await.unwrap();
    assert_eq!(test.events(&id).await, ["accepted", "deferred", "delivered"]);
}

#[tokio::test]
async fn message_expires_when_the_clock_passes_its_window() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    let window = test.send(json!({"to": address("expired", 0)})).await.id;
    let deadline = json!({"to": address("expired", 1), "expires_at": app.clock.text_in(hours(24))});
    let deadline = test.send(deadline).await.id;
    app.run_until_idle().await;
    let expires_at = test.message(&deadline).await["expires_at"].clone();
    advance(&test, "23h").await;
    app.run_until_idle().await;
    let states = [test.status(&window).await, test.status(&deadline).await];
    assert_eq!(states, ["deferred", "deferred"]);
    assert_eq!(time(&expires_at) - time(&test.message(&deadline).await["expires_at"]), hours(23));
    advance(&test, "61m").await;
    app.run_until_idle().await;
    assert_eq!(test.events(&deadline).await.last().unwrap(), "expired");
    assert_eq!(test.status(&window).await, "deferred");
    advance(&test, "3d").await;
    app.run_until_idle().await;
    assert_eq!(test.events(&window).await.last().unwrap(), "expired");
    assert!(!test.events(&window).await.contains(&"bounced".to_owned()));
}

#[tokio::test]
async fn scheduled_message_is_sent_when_the_clock_reaches_its_time() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    let id = test.send(json!({"scheduled_at": app.clock.text_in(hours(2))})).await.id;
    advance(&test, "1h").await;
    app.run_until_idle().await;
    assert_eq!(test.status(&id).await, "scheduled");
    advance(&test, "1h").await;
    app.run_until_idle().await;
    assert_eq!(test.status(&id).await, "delivered");
    assert!(time(&test.message(&id).await["scheduled_at"]) <= postrider::clock::Clock::now(&*app.clock));
}

#[tokio::test]
async fn greylisting_ends_a_minute_later_on_the_test_clock() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    let id = test.send(json!({"to": address("greylist", 0)})).await.id;
    app.run_until_idle().await;
    assert_eq!(test.status(&id).await, "deferred");
    advance(&test, "2m").await;
    app.run_until_idle().await;
    assert_eq!(test.events(&id).await, ["accepted", "deferred", "delivered"]);
}

#[tokio::test]
async fn complaint_comes_when_the_clock_passes_its_delay() {
    let app = TestApp::builder().with_inbound().start().await;
    let test = app.with_test_key().await;
    let id = test.send(json!({"to": address("complaint-1h", 0)})).await.id;
    run(&app).await;
    assert_eq!(test.events(&id).await, ["accepted", "delivered"]);
    assert_eq!(advance(&test, "1h").await["followups"], 1);
    run(&app).await;
    assert_eq!(test.events(&id).await, ["accepted", "delivered", "complained"]);
}

#[tokio::test]
async fn failed_webhook_delivery_is_repeated_on_the_test_clock() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let test = app.with_test_key().await;
    assert_eq!(test.post("/v1/webhooks", &json!({"url": receiver.url("/hook")})).await.status, 201);
    receiver.script("/hook", [Reply::Status(500), Reply::Status(500)]);
    test.send(json!({})).await;
    app.notify().await;
    for (attempts, by) in [(1, "10s"), (2, "10m")] {
        assert_eq!(receiver.posts("/hook").len(), attempts);
        assert_eq!(advance(&test, by).await["webhook_deliveries"], 1);
        app.notify().await;
    }
    let posts = receiver.posts("/hook");
    assert_eq!(posts.len(), 3);
    assert!(posts.iter().all(|post| post.id == posts[0].id));
}

#[tokio::test]
async fn failing_test_endpoint_is_disabled_after_five_days() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let test = app.with_test_key().await;
    let hook = test.post("/v1/webhooks", &json!({"url": receiver.url("/hook")})).await.body;
    let path = format!("/v1/webhooks/{}", hook["id"].as_str().unwrap());
    receiver.always("/hook", Reply::Status(500));
    // An endpoint counts as down after five different deliveries.
    for _ in 0..5 {
        test.send(json!({})).await;
    }
    app.notify().await;
    for _ in 0..6 {
        advance(&test, "1d").await;
        app.notify().await;
    }
    assert!(test.get(&path).await.body["disabled_at"].is_string());
}

#[tokio::test]
async fn live_messages_do_not_move() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
    let deferred = app.send(json!({})).await.id;
    let scheduled = app.send(json!({"scheduled_at": app.clock.text_in(hours(2))})).await.id;
    app.run_until_idle().await;
    let before = [app.message(&deferred).await, app.message(&scheduled).await];
    assert_eq!(advance(&test, "30d").await["recipients"], 0);
    app.run_until_idle().await;
    assert_eq!([app.message(&deferred).await, app.message(&scheduled).await], before);
}

#[tokio::test]
async fn paused_time_still_does_not_count_towards_the_window() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    let id = test.send(json!({"to": address("expired", 0)})).await.id;
    app.run_until_idle().await;
    assert_eq!(test.post("/v1/streams/transactional/pause", &json!({})).await.status, 200);
    advance(&test, "10d").await;
    assert_eq!(test.post("/v1/streams/transactional/resume", &json!({})).await.status, 200);
    // Workers read pauses every few seconds.
    app.clock.advance(minutes(1));
    app.run_until_idle().await;
    assert_eq!(test.status(&id).await, "deferred");
    advance(&test, "4d").await;
    app.run_until_idle().await;
    assert_eq!(test.status(&id).await, "expired");
}

#[tokio::test]
async fn clock_is_not_advanced_for_too_many_messages() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    app.sql(
        "INSERT INTO simulator_followups (tenant_id, message_id, recipient_id, due_at, report)
         SELECT id, gen_random_uuid(), gen_random_uuid(), '2030-01-01Z', ''
         FROM tenants, generate_series(1, 20001) WHERE test_of IS NOT NULL",
    )
    .await;
    let refused = test.post("/v1/test/clock", &json!({"advance": "2h"})).await;
    assert_eq!(refused.problem(), (409, "too_many_waiting"));
    let query = sqlx::query_scalar("SELECT count(*) FROM simulator_followups WHERE due_at < '2030-01-01Z'");
    let moved: i64 = query.fetch_one(&mut app.database.connect().await).await.unwrap();
    assert_eq!(moved, 0);
}

#[tokio::test]
async fn clock_of_live_messages_cannot_be_advanced() {
    let app = TestApp::start().await;
    let body = json!({"advance": "2h"});
    let refused = app.post("/v1/test/clock", &body).await;
    assert_eq!(refused.problem(), (403, "forbidden"));
    assert!(refused.body["detail"].as_str().unwrap().contains("Use a test key."), "{}", refused.body);
    let reader = app.with_test_scopes(&[Scope::Read]).await;
    assert_eq!(reader.post("/v1/test/clock", &body).await.problem(), (403, "forbidden"));
    let sender = app.with_test_scopes(&[Scope::Send]).await;
    assert_eq!(sender.post("/v1/test/clock", &body).await.status, 200);
    for body in [json!({}), json!({"advance": "0s"}), json!({"advance": "31d"}), json!({"advance": "soon"})] {
        let refused = sender.post("/v1/test/clock", &body).await;
        assert_eq!((refused.status, refused.faults()[0].0), (422, "/advance"), "{body}");
    }
}
