//! Retries deferred messages, and releases held ones.

use chrono::TimeDelta;
use serde_json::json;

use super::{count, run};
use crate::support::app::TestApp;
use crate::support::clock::minutes;

#[tokio::test]
async fn deferred_messages_of_a_lane_are_retried_now() {
    let app = TestApp::start().await;
    let mut ids = Vec::new();
    for n in 0..3 {
        app.smtp.rcpt(&format!("u{n}@example.test")).replies(["451 4.2.0 later"]);
        ids.push(app.send(json!({"to": format!("u{n}@example.test")})).await.id);
    }
    let scheduled = app.send(json!({"scheduled_at": app.clock.text_in(TimeDelta::hours(9))})).await.id;
    app.run_until_idle().await;
    for id in &ids {
        assert_eq!(app.status(id).await, "deferred");
    }
    let lane = app.get("/v1/lanes").await.body["data"][0]["id"].clone();
    assert_eq!(run(&app, "retry", json!({"lane": lane})).await, [3, 3, 0]);
    app.run_until_idle().await;
    for id in &ids {
        assert_eq!(app.status(id).await, "relayed");
    }
    assert_eq!(app.status(&scheduled).await, "scheduled");
}

#[tokio::test]
async fn held_messages_are_released_and_not_retried() {
    let app = TestApp::start().await;
    let held = app.send(json!({})).await.id;
    app.sql("UPDATE queue SET held = 'held: a test', due_at = 'infinity', crashes = 3").await;
    assert_eq!(count(&app, "retry", json!({"stream": "transactional"})).await, 0);
    assert_eq!(run(&app, "release", json!({"stream": "transactional"})).await, [1, 1, 0]);
    app.run_until_idle().await;
    assert_eq!(app.status(&held).await, "relayed");
}

#[tokio::test]
async fn uncertain_messages_on_hold_are_released() {
    let app = TestApp::start().await;
    let to = "drop-after-dot@simulator.postrider.test";
    let hold = app.send(json!({"to": to, "on_uncertain": "hold"})).await.id;
    let fail = app.send(json!({"to": to, "on_uncertain": "fail"})).await.id;
    app.run_until_idle().await;
    assert_eq!([app.status(&hold).await, app.status(&fail).await], ["uncertain", "uncertain"]);
    assert_eq!(count(&app, "release", json!({"status": "uncertain"})).await, 1);
    assert_eq!(count(&app, "release", json!({"from": "nobody@acme.test"})).await, 0);
    assert_eq!(run(&app, "release", json!({"status": "uncertain"})).await, [1, 1, 0]);
    assert_eq!([app.status(&hold).await, app.status(&fail).await], ["deferred", "uncertain"]);
    app.run_until_idle().await;
    assert_eq!(app.status(&hold).await, "delivered");
    assert_eq!(app.events(&hold).await, ["accepted", "uncertain", "deferred", "delivered"]);
}

#[tokio::test]
async fn messages_of_a_paused_bulk_stay_held() {
    let app = TestApp::start().await;
    let body =
        json!({"from": "news@acme.test", "subject": "News", "text": "Hi", "recipients": [{"to": "bo@example.test"}]});
    let bulk = app.post("/v1/messages/bulk", &body).await.body["id"].as_str().unwrap().to_owned();
    crate::support::until::until("there is no message", super::LIMIT, async || {
        let listed = app.get(&format!("/v1/messages?bulk={bulk}")).await.body["data"].as_array().unwrap().len();
        if listed == 1 { Ok(()) } else { Err(listed) }
    })
    .await;
    assert_eq!(app.post(&format!("/v1/bulks/{bulk}/pause"), &json!({})).await.status, 200);
    assert_eq!(run(&app, "release", json!({"stream": "bulk"})).await, [0, 0, 0]);
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 0);
    // It can be canceled.
    assert_eq!(run(&app, "cancel", json!({"stream": "bulk"})).await, [1, 1, 0]);
}

#[tokio::test]
async fn message_that_cannot_be_prepared_is_retried() {
    let app = TestApp::start().await;
    let id = app.send(json!({})).await.id;
    app.sql(
        "UPDATE queue SET due_at = due_at + interval '1 day', preparation_error = 'a test', preparation_failed_at = due_at",
    )
    .await;
    app.clock.advance(minutes(1));
    assert_eq!(run(&app, "retry", json!({"to": "ann@example.test"})).await, [1, 1, 0]);
    app.run_until_idle().await;
    assert_eq!(app.status(&id).await, "relayed");
}
