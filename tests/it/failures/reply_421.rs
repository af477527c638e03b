//! A server that closes with 421 at any stage gets the message later, once; nothing bounces.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::minutes;
use crate::support::smtp::{Action, Script};

/// The server's first reply at this stage is 421.
async fn closes_at(stage: impl Fn(&TestApp) -> Script<'_>) {
    let app = TestApp::start().await;
    stage(&app).does([Action::ReplyThenDrop("421 4.3.2 closing".into())]);
    let mail = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&mail.id).await, ["deferred", "deferred"]);
    assert_eq!(app.message(&mail.id).await["recipients"][0]["response"]["code"], 421);

    app.clock.advance(minutes(3));
    app.run_until_idle().await;
    assert_eq!(app.states(&mail.id).await, ["relayed", "relayed"]);
    let [copy] = app.smtp.mails().try_into().expect("one copy");
    assert_eq!(copy.to.len(), 2);
}

#[tokio::test]
async fn at_the_greeting() {
    closes_at(|app| app.smtp.greeting()).await;
}

#[tokio::test]
async fn at_ehlo() {
    closes_at(|app| app.smtp.ehlo()).await;
}

#[tokio::test]
async fn at_mail() {
    closes_at(|app| app.smtp.mail()).await;
}

#[tokio::test]
async fn at_rcpt() {
    closes_at(|app| app.smtp.rcpt("bo@example.test")).await;
}

#[tokio::test]
async fn at_data() {
    closes_at(|app| app.smtp.data()).await;
}

#[tokio::test]
async fn at_the_final_dot() {
    closes_at(|app| app.smtp.dot()).await;
}
