//! SMTP submission: applications sign in with an API key, and what is accepted is a message like any other.

mod accepted;
mod chunks;
mod headers;
mod idempotency;
mod kills;
mod limits;
mod outage;
mod python;
mod refused;
mod sign_in;
mod smuggling;

use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::inbound_client::Client;

/// A message from `billing@acme.test` to `ann@example.test`.
const MESSAGE: &str = "From: billing@acme.test\r\nTo: ann@example.test\r\nSubject: Hi\r\n\r\nHello.\r\n";
const FROM: &str = "billing@acme.test";
const ANN: &str = "ann@example.test";

async fn start() -> TestApp {
    TestApp::builder().with_submission(None).start().await
}

/// Connects and signs in.
async fn signed_in(app: &TestApp, api: &Api) -> Client {
    let mut client = Client::connect(app.submission()).await;
    let reply = client.sign_in(&api.key).await;
    assert!(reply.starts_with("235 2.7.0 "), "{reply}");
    client
}

/// Sends a message of a client that has signed in, and returns its id.
async fn submit(client: &mut Client, to: &[&str], mime: &str) -> String {
    id(&client.submit(FROM, to, mime).await)
}

/// Returns the id in a final reply.
fn id(reply: &str) -> String {
    let id = reply.strip_prefix("250 2.0.0 queued as ").unwrap_or_else(|| panic!("{reply}")).trim_end();
    assert!(id.starts_with("msg_"), "{reply}");
    id.to_owned()
}

/// Returns the number of messages that the key sees.
async fn count(api: &Api) -> usize {
    api.get("/v1/messages?limit=100").await.body["data"].as_array().unwrap().len()
}
