//! `POST /v1/lanes/{id}/trace` keeps the conversations of the lane's next attempts.

use serde_json::{Value, json};

use super::{assert_order, attempts, lines};
use crate::support::app::TestApp;

/// Returns the id of the only lane, which a message has created.
async fn lane(app: &TestApp) -> String {
    app.send(json!({"to": "first@example.test"})).await;
    let lanes = app.get("/v1/lanes").await.body;
    lanes["data"][0]["id"].as_str().unwrap().to_owned()
}

/// Returns whether the only attempt at a message has a conversation.
async fn is_traced(app: &TestApp, id: &str) -> bool {
    let attempts = attempts(app, id).await;
    assert_eq!(attempts.len(), 1);
    attempts[0]["conversation"].is_object()
}

#[tokio::test]
async fn next_two_attempts_of_a_lane_are_traced() {
    let app = TestApp::start().await;
    let lane = lane(&app).await;
    let traced = app.post(&format!("/v1/lanes/{lane}/trace"), &json!({"attempts": 2})).await;
    assert_eq!((traced.status, &traced.body), (200, &json!({"id": lane, "attempts": 2})));
    // The message that created the lane waits, and is the first attempt.
    for n in 0..3 {
        let sent = app.send(json!({"to": format!("user{n}@example.test")})).await;
        app.run_until_idle().await;
        if is_traced(&app, &sent.id).await {
            let lines = lines(&attempts(&app, &sent.id).await[0]);
            assert_order(&lines, &["> MAIL FROM:<", "> DATA", "< 354", "> (message of ", "> .", "< 250 "]);
        }
    }
    let all = "SELECT count(*) FROM smtp_conversations";
    let all: i64 = sqlx::query_scalar(all).fetch_one(&mut app.database.connect().await).await.unwrap();
    assert_eq!(all, 2);
}

#[tokio::test]
async fn trace_of_a_busy_lane_ends_after_its_attempts() {
    let app = TestApp::start().await;
    let lane = lane(&app).await;
    assert_eq!(app.post(&format!("/v1/lanes/{lane}/trace"), &json!({"attempts": 3})).await.status, 200);
    // The first attempt lets the worker know of the trace.
    app.run_until_idle().await;
    futures_util::future::join_all((0..30).map(|_| app.send(json!({})))).await;
    app.run_until_idle().await;
    let found = "SELECT (SELECT count(*) FROM smtp_conversations), (SELECT remaining FROM lane_traces)";
    let found: (i64, i32) = sqlx::query_as(found).fetch_one(&mut app.database.connect().await).await.unwrap();
    assert_eq!(found, (3, 0));
}

#[tokio::test]
async fn trace_with_zero_attempts_ends_it() {
    let app = TestApp::start().await;
    let lane = lane(&app).await;
    for attempts in [100, 0] {
        let path = format!("/v1/lanes/{lane}/trace");
        assert_eq!(app.post(&path, &json!({"attempts": attempts})).await.status, 200);
    }
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    assert!(!is_traced(&app, &sent.id).await);
}

#[tokio::test]
async fn other_lanes_are_not_traced() {
    let app = TestApp::start().await;
    let lane = lane(&app).await;
    assert_eq!(app.post(&format!("/v1/lanes/{lane}/trace"), &json!({"attempts": 10})).await.status, 200);
    let other = app.send(json!({"stream": "bulk"})).await;
    app.run_until_idle().await;
    assert!(!is_traced(&app, &other.id).await);
}

#[tokio::test]
async fn invalid_traces_are_refused() {
    let app = TestApp::start().await;
    let lane = lane(&app).await;
    for body in [json!({}), json!({"attempts": 101}), json!({"attempts": "many"}), json!({"attempts": -1})] {
        let refused = app.post(&format!("/v1/lanes/{lane}/trace"), &body).await;
        assert_eq!((refused.status, refused.faults()[0].0), (422, "/attempts"), "{body}");
    }
    assert_eq!(app.post("/v1/lanes/lane_999999/trace", &json!({"attempts": 1})).await.status, 404);
    let rows = "SELECT count(*) FROM lane_traces";
    let rows: i64 = sqlx::query_scalar(rows).fetch_one(&mut app.database.connect().await).await.unwrap();
    assert_eq!(Value::from(rows), 0);
}
