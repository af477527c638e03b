//! Messages that are received for inbound routes.

mod authentication;
mod conversation;
mod events;
mod failures;
mod greylisting;
mod hostile;
mod open_relay;
mod parsed;
pub(crate) mod relay;
mod replicas;
mod routes;
mod srs;
mod tenants;
mod threads;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::clock::seconds;
use crate::support::inbound_client::Client;

/// Starts the service with an SMTP server for incoming messages.
async fn start() -> TestApp {
    TestApp::builder().with_inbound().start().await
}

/// Creates an inbound route, and returns it.
pub(crate) async fn route(api: &Api, matches: &str, action: &str) -> Value {
    let created = api.post("/v1/inbound-routes", &json!({"match": matches, "action": {"type": action}})).await;
    assert_eq!(created.status, 201, "{}", created.body);
    created.body
}

/// Sends a message over SMTP to these recipients, and returns the replies to RCPT and to the final dot. A second has passed since
/// the last one, so that lists have an order.
pub(crate) async fn deliver(app: &TestApp, from: &str, to: &[&str], mime: &str) -> Vec<String> {
    app.clock.advance(seconds(1));
    let mut client = Client::connect(app.inbound()).await;
    client.send(&format!("EHLO mx.example.test\r\nMAIL FROM:<{from}>\r\n")).await;
    assert_eq!(client.codes(2).await, [250, 250]);
    let mut replies = Vec::new();
    for to in to {
        replies.push(client.say(&format!("RCPT TO:<{to}>\r\n")).await);
    }
    if replies.iter().any(|reply| reply.starts_with("250")) {
        assert_eq!(client.code("DATA\r\n").await, 354);
        replies.push(client.say(&format!("{mime}.\r\n")).await);
    }
    replies
}

/// Returns a short message with these header fields.
fn mime(fields: &str) -> String {
    format!(
        "From: Ann <ann@example.test>\r\nTo: support@reply.acme.test\r\nSubject: Hello\r\n{fields}\r\nHow are you?\r\n"
    )
}

/// Returns all received messages, newest first.
pub(crate) async fn received(api: &Api) -> Vec<Value> {
    let listed = api.get("/v1/received?limit=100").await;
    assert_eq!(listed.status, 200, "{}", listed.body);
    listed.body["data"].as_array().unwrap().clone()
}
