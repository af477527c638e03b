//! A received message is tied to the message that it answers.

use serde_json::{Value, json};

use super::{deliver, mime, received, route, start};
use crate::support::app::TestApp;

/// Sends a message, and returns its id, its Message-ID and its return path.
async fn sent(app: &TestApp) -> (String, String, String) {
    let id = app.send(json!({})).await.id;
    app.run_until_idle().await;
    let message_id = app.message(&id).await["message_id"].as_str().unwrap().to_owned();
    (id, message_id, app.smtp.messages().last().unwrap().from.clone())
}

async fn answers(app: &TestApp, to: &str, fields: &str) -> Value {
    let replies = deliver(app, "ann@example.test", &[to], &mime(fields)).await;
    assert!(replies[1].starts_with("250"), "{replies:?}");
    received(app).await[0]["answers"].clone()
}

#[tokio::test]
async fn reply_is_tied_to_the_message_that_it_answers() {
    let app = start().await;
    route(&app, "*@reply.acme.test", "webhook").await;
    let (first, first_id, _) = sent(&app).await;
    let (second, second_id, path) = sent(&app).await;
    let to = "x@reply.acme.test";
    assert_eq!(answers(&app, to, &format!("In-Reply-To: {first_id}\r\n")).await, first);
    assert_eq!(answers(&app, to, &format!("References: {first_id} {second_id} <other@x>\r\n")).await, second);
    let both = format!("In-Reply-To: {first_id}\r\nReferences: <a@b>\r\n {second_id}\r\n");
    assert_eq!(answers(&app, to, &both).await, first);
    assert_eq!(answers(&app, to, "In-Reply-To: <unknown@acme.test>\r\nReferences: <a@b>\r\n").await, json!(null));
    assert_eq!(answers(&app, to, "In-Reply-To: no id\r\n").await, json!(null));
    // The token of the return path may be in the address.
    let token = path.split(['+', '@']).nth(1).unwrap();
    assert_eq!(answers(&app, &format!("reply+{token}@reply.acme.test"), "").await, second);
    let forged = format!("{}{}", &token[..47], if token.ends_with('a') { 'b' } else { 'a' });
    assert_eq!(answers(&app, &format!("reply+{forged}@reply.acme.test"), "").await, json!(null));

    let of_first = app.get(&format!("/v1/received?answers={first}")).await.body;
    assert_eq!(of_first["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn own_message_id_of_finished_mime_is_found() {
    let app = start().await;
    route(&app, "*@reply.acme.test", "store").await;
    let raw = "From: a@acme.test\r\nTo: ann@example.test\r\nMessage-ID: <own.1@acme.test>\r\nSubject: x\r\n\r\nHi\r\n";
    let request = app.request(reqwest::Method::POST, "/v1/messages").header("content-type", "message/rfc822");
    let sent = crate::support::client::ApiResponse::to(request.body(raw)).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    app.run_until_idle().await;
    assert_eq!(answers(&app, "x@reply.acme.test", "In-Reply-To: <own.1@acme.test>\r\n").await, sent.body["id"]);
}
