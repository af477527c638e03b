//! The connection drops. Before the final dot the message is deferred; after it, `on_uncertain` decides.

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::Sent;
use crate::support::clock::minutes;
use crate::support::smtp::Action;

#[tokio::test]
async fn message_is_retried_after_a_drop_before_the_final_dot() {
    let app = TestApp::start().await;
    app.smtp.data().does([Action::DropAfterReading(10, "")]);
    // Larger than the buffers of the connection, so that the final dot has not been sent when it drops.
    let message = app.send(json!({"text": "A line of the message.\n".repeat(1 << 20)})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&message.id).await, "deferred");
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(app.events(&message.id).await, ["accepted", "deferred", "relayed"]);
}

/// Sends a message whose connection drops after the final dot.
async fn uncertain(app: &TestApp, on_uncertain: Value) -> Sent {
    app.smtp.dot().does([Action::Drop]);
    let message = app.send(json!({"on_uncertain": on_uncertain})).await;
    app.run_until_idle().await;
    message
}

#[tokio::test]
async fn same_message_is_retried_after_a_drop_after_the_dot() {
    let app = TestApp::start().await;
    let message = uncertain(&app, json!(null)).await;
    assert_eq!(app.status(&message.id).await, "deferred");
    let first = app.get(&format!("/v1/messages/{}/raw", message.id)).await.bytes;
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(app.events(&message.id).await, ["accepted", "uncertain", "relayed"]);
    assert_eq!(final_fields(&app, &message).await, [json!(null), json!(false), json!(null)]);
    assert_eq!(app.smtp.messages()[0].raw, first, "the same bytes, including Message-ID");
}

/// Returns the field `final` of each event of the message.
async fn final_fields(app: &TestApp, message: &Sent) -> Vec<Value> {
    let events = app.get(&format!("/v1/messages/{}/events", message.id)).await.body;
    events["data"].as_array().expect("events").iter().map(|event| event["data"]["final"].clone()).collect()
}

#[tokio::test]
async fn hold_waits_for_an_operator() {
    let app = TestApp::start().await;
    let message = uncertain(&app, json!("hold")).await;
    assert_eq!(app.status(&message.id).await, "uncertain");
    assert_eq!(final_fields(&app, &message).await, [json!(null), json!(true)]);
    app.clock.advance(minutes(60));
    app.run_until_idle().await;
    assert_eq!((app.status(&message.id).await.as_str(), app.smtp.messages().len()), ("uncertain", 0));

    let again = app.post(&format!("/v1/messages/{}/retry", message.id), &json!({})).await;
    assert_eq!((again.status, &again.body["status"]), (200, &json!("deferred")));
    app.run_until_idle().await;
    assert_eq!(app.events(&message.id).await, ["accepted", "uncertain", "deferred", "relayed"]);
    assert_eq!(app.recipient(&message.id).await["attempts"], 2);
}

#[tokio::test]
async fn fail_never_sends_a_second_copy() {
    let app = TestApp::start().await;
    let message = uncertain(&app, json!("fail")).await;
    assert_eq!(app.status(&message.id).await, "uncertain");
    let again = app.post(&format!("/v1/messages/{}/retry", message.id), &json!({})).await;
    assert_eq!(again.problem(), (409, "nothing_to_retry"));
    app.run_until_idle().await;
    assert_eq!(app.events(&message.id).await, ["accepted", "uncertain"]);
}
