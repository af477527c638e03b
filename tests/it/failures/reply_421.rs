//! A server that closes with 421 at any stage gets the message later, once; nothing bounces.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::minutes;
use crate::support::smtp::{Action, Script};

/// Asserts that a message is deferred if the server's first reply at this stage is 421, and relayed once later.
async fn assert_retried_after_421(stage: impl Fn(&TestApp) -> Script<'_>) {
    let app = TestApp::start().await;
    stage(&app).does([Action::ReplyThenDrop("421 4.3.2 closing".into())]);
    let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["deferred", "deferred"]);
    assert_eq!(app.message(&sent.id).await["recipients"][0]["response"]["code"], 421);

    app.clock.advance(minutes(3));
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["relayed", "relayed"]);
    let [copy] = app.smtp.messages().try_into().expect("one copy");
    assert_eq!(copy.to.len(), 2);
}

#[tokio::test]
async fn message_is_retried_after_421_at_the_greeting() {
    assert_retried_after_421(|app| app.smtp.greeting()).await;
}

#[tokio::test]
async fn message_is_retried_after_421_at_ehlo() {
    assert_retried_after_421(|app| app.smtp.ehlo()).await;
}

#[tokio::test]
async fn message_is_retried_after_421_at_mail() {
    assert_retried_after_421(|app| app.smtp.mail()).await;
}

#[tokio::test]
async fn message_is_retried_after_421_at_rcpt() {
    assert_retried_after_421(|app| app.smtp.rcpt("bo@example.test")).await;
}

#[tokio::test]
async fn message_is_retried_after_421_at_data() {
    assert_retried_after_421(|app| app.smtp.data()).await;
}

#[tokio::test]
async fn message_is_retried_after_421_at_the_final_dot() {
    assert_retried_after_421(|app| app.smtp.dot()).await;
}
