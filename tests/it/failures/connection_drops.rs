//! The connection drops. Before the final dot the message is deferred; after it, `on_uncertain` decides.

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::Sent;
use crate::support::clock::minutes;
use crate::support::smtp::Action;

#[tokio::test]
async fn before_the_final_dot_it_is_tried_again() {
    let app = TestApp::start().await;
    app.smtp.data().does([Action::DropAfterReading(10, "")]);
    // More than fits into the buffers between the two, so that the final dot is not on its way yet.
    let mail = app.send(json!({"text": "A line of the mail.\n".repeat(1 << 20)})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&mail.id).await, "deferred");
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(app.events(&mail.id).await, ["accepted", "deferred", "relayed"]);
}

/// A message whose connection dropped after the final dot.
async fn uncertain(app: &TestApp, choice: Value) -> Sent {
    app.smtp.dot().does([Action::Drop]);
    let mail = app.send(json!({"on_uncertain": choice})).await;
    app.run_until_idle().await;
    mail
}

#[tokio::test]
async fn after_the_final_dot_the_same_mail_goes_again() {
    let app = TestApp::start().await;
    let mail = uncertain(&app, json!(null)).await;
    assert_eq!(app.status(&mail.id).await, "deferred");
    let first = app.get(&format!("/v1/messages/{}/raw", mail.id)).await.octets;
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(app.events(&mail.id).await, ["accepted", "uncertain", "relayed"]);
    assert_eq!(is_final(&app, &mail).await, [json!(null), json!(false), json!(null)]);
    assert_eq!(app.smtp.mails()[0].raw, first, "the same Message-ID and all the rest");
}

/// The field `final` of each of its events.
async fn is_final(app: &TestApp, mail: &Sent) -> Vec<Value> {
    let events = app.get(&format!("/v1/messages/{}/events", mail.id)).await.body;
    events["data"].as_array().expect("events").iter().map(|event| event["data"]["final"].clone()).collect()
}

#[tokio::test]
async fn hold_leaves_it_to_an_operator() {
    let app = TestApp::start().await;
    let mail = uncertain(&app, json!("hold")).await;
    assert_eq!(app.status(&mail.id).await, "uncertain");
    assert_eq!(is_final(&app, &mail).await, [json!(null), json!(true)]);
    app.clock.advance(minutes(60));
    app.run_until_idle().await;
    assert_eq!((app.status(&mail.id).await.as_str(), app.smtp.mails().len()), ("uncertain", 0));

    let again = app.post(&format!("/v1/messages/{}/retry", mail.id), &json!({})).await;
    assert_eq!((again.status, &again.body["status"]), (200, &json!("deferred")));
    app.run_until_idle().await;
    assert_eq!(app.events(&mail.id).await, ["accepted", "uncertain", "deferred", "relayed"]);
    assert_eq!(app.recipient(&mail.id).await["attempts"], 2);
}

#[tokio::test]
async fn fail_never_sends_a_second_copy() {
    let app = TestApp::start().await;
    let mail = uncertain(&app, json!("fail")).await;
    assert_eq!(app.status(&mail.id).await, "uncertain");
    let again = app.post(&format!("/v1/messages/{}/retry", mail.id), &json!({})).await;
    assert_eq!(again.problem(), (409, "nothing_to_retry"));
    app.run_until_idle().await;
    assert_eq!(app.events(&mail.id).await, ["accepted", "uncertain"]);
}
