//! Is anything sent, what waits, and how is it started or stopped?

use std::time::Duration;

use serde_json::{Value, json};

use super::answer;
use crate::support::app::TestApp;
use crate::support::clock::hours;
use crate::support::until::until;

const LIMIT: Duration = Duration::from_secs(30);

/// Waits until the action that a response names has ended.
async fn action_ended(app: &TestApp, response: &str) {
    let action: Value = serde_json::from_str(response).unwrap_or_else(|_| panic!("{response}"));
    let path = format!("/v1/actions/{}", action["id"].as_str().unwrap_or_else(|| panic!("{response}")));
    until("the action", LIMIT, async || {
        let action = app.get(&path).await.body;
        if action["status"] == "done" { Ok(()) } else { Err(action) }
    })
    .await;
}

#[tokio::test]
async fn doctor_says_that_no_worker_runs() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.sql("UPDATE workers SET heartbeat_at = now() - interval '1 day'").await;
    let Some(output) = answer(1, &app, "").await else { return };
    assert!(output.contains("BAD   workers: none is running, and messages are due"), "{output}");
    app.sql("UPDATE workers SET heartbeat_at = now()").await;
}

#[tokio::test]
async fn lanes_say_what_waits_and_why() {
    let app = TestApp::start().await;
    app.send(json!({"stream": "bulk"})).await;
    // Question 8: the stream is paused.
    let Some(paused) = answer(8, &app, "").await else { return };
    assert!(paused.contains("\"wrong campaign\""), "{paused}");
    let lanes: Value = serde_json::from_str(&answer(2, &app, "").await.unwrap()).unwrap();
    let lane = &lanes["data"][0];
    assert_eq!((&lane["state"], &lane["stream"]), (&json!("paused"), &json!("bulk")), "{lanes}");
    assert!(lane["reason"].as_str().unwrap().contains("wrong campaign"), "{lane}");
    assert_eq!(app.smtp.messages().len(), 0);
}

#[tokio::test]
async fn lanes_say_since_when_urgent_messages_are_late() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    let due = app.clock.text_in(hours(0));
    app.clock.advance(hours(1));
    let Some(output) = answer(5, &app, "").await else { return };
    let lanes: Value = serde_json::from_str(&output).unwrap();
    assert!(lanes["data"][0]["oldest_due_at"].as_str().unwrap()[..16] == due[..16], "{lanes}");
}

#[tokio::test]
async fn old_deferred_messages_are_listed() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.0 later"]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    let Some(output) = answer(4, &app, "").await else { return };
    let list: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(list["data"][0]["id"], sent.id.as_str(), "{list}");
}

#[tokio::test]
async fn deferred_messages_of_a_provider_are_sent_now() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.0 later"]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "deferred");
    let Some(output) = answer(6, &app, "").await else { return };
    action_ended(&app, &output).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "relayed");
}

#[tokio::test]
async fn messages_of_a_campaign_are_canceled() {
    let app = TestApp::start().await;
    let wrong = app.send(json!({"tags": [{"name": "campaign", "value": "spring"}]})).await;
    let other = app.send(json!({"tags": [{"name": "campaign", "value": "summer"}]})).await;
    let Some(output) = answer(7, &app, "").await else { return };
    action_ended(&app, &output).await;
    assert_eq!(app.status(&wrong.id).await, "canceled");
    assert_eq!(app.status(&other.id).await, "queued");
}

#[tokio::test]
async fn messages_in_the_queue_are_listed_after_a_restore() {
    let app = TestApp::start().await;
    let queued = app.send(json!({})).await;
    let scheduled = app.send(json!({"scheduled_at": app.clock.text_in(hours(1))})).await;
    let Some(output) = answer(10, &app, "").await else { return };
    assert!(output.contains(&queued.id) && output.contains(&scheduled.id), "{output}");
}
