//! A wrong script is refused when the message is accepted.

use reqwest::Method;
use serde_json::json;

use super::address;
use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};

#[tokio::test]
async fn unknown_script_is_refused_with_the_list() {
    let app = TestApp::start().await;
    let body =
        message(json!({"to": ["ann@example.test", address("bouncee", 0)], "bcc": {"email": address("defer", 1)}}));
    let refused = app.post("/v1/messages", &body).await;
    assert_eq!((refused.status, refused.faults()), (422, vec![("/to/1", "invalid_value"), ("/bcc", "invalid_value")]));
    let text = refused.body["errors"][0]["message"].as_str().unwrap();
    assert!(text.starts_with("`bouncee` is not a script") && text.contains("`bounce-550-5.7.1`"), "{text}");
    for (script, why) in [
        ("bounce.delivered", "no step can follow"),
        ("greylist.defer-1", "`greylist` must be the last step"),
        ("bounce-450", "is not a script"),
    ] {
        let refused = app.post("/v1/messages", &message(json!({"to": address(script, 0)}))).await;
        assert_eq!(refused.status, 422);
        assert!(refused.body["errors"][0]["message"].as_str().unwrap().contains(why), "{}", refused.body);
    }
}

#[tokio::test]
async fn batches_bulks_and_finished_messages_are_checked() {
    let app = TestApp::start().await;
    let batch = json!({"messages": [message(json!({})), message(json!({"to": address("nope", 0)}))]});
    assert_eq!(app.post("/v1/messages/batch", &batch).await.faults(), [("/messages/1/to", "invalid_value")]);
    let recipients = [json!({"to": address("nope", 0)})];
    let bulk = json!({"from": "news@acme.test", "subject": "News", "text": "Hello.", "recipients": recipients});
    assert_eq!(app.post("/v1/messages/bulk", &bulk).await.faults(), [("/recipients/0/to", "invalid_value")]);
    let mime = format!("From: billing@acme.test\r\nTo: {}\r\nSubject: Hi\r\n\r\nHello.\r\n", address("nope", 0));
    let request = app.request(Method::POST, "/v1/messages").header("content-type", "message/rfc822").body(mime);
    assert_eq!(ApiResponse::to(request).await.faults(), [("To", "invalid_value")]);
}

#[tokio::test]
async fn finished_message_plays_its_script() {
    let app = TestApp::start().await;
    let mime = format!("From: billing@acme.test\r\nTo: {}\r\nSubject: Hi\r\n\r\nHello.\r\n", address("bounce-data", 0));
    let request = app.request(Method::POST, "/v1/messages").header("content-type", "message/rfc822").body(mime);
    let sent = ApiResponse::to(request).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    app.run_until_idle().await;
    assert_eq!(app.status(sent.body["id"].as_str().unwrap()).await, "bounced");
}

#[tokio::test]
async fn disabled_simulator_refuses_its_addresses() {
    let app = TestApp::builder().config(|config| config.simulator.enabled = false).start().await;
    let refused = app.post("/v1/messages", &message(json!({"to": address("delivered", 0)}))).await;
    assert_eq!((refused.status, refused.faults()), (422, vec![("/to", "not_configured")]));
    assert!(refused.body["errors"][0]["message"].as_str().unwrap().contains("`simulator.enabled`"), "{}", refused.body);
}
