//! `message.received`, in the feed and at webhook endpoints.

use serde_json::json;

use super::{deliver, mime, received, route, start};
use crate::support::hooks::{self, Hook};
use crate::support::receiver::Receiver;

#[tokio::test]
async fn event_describes_the_message_without_its_content() {
    let app = start().await;
    let route = route(&app, "*@reply.acme.test", "webhook").await;
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    let message_id = app.message(&sent.id).await["message_id"].as_str().unwrap().to_owned();
    let mime = mime(&format!("Message-ID: <r@example.test>\r\nIn-Reply-To: {message_id}\r\n"));
    deliver(&app, "ann@example.test", &["x@reply.acme.test"], &mime).await;
    let events = app.get("/v1/events?type=message.received").await.body;
    let event = &events["data"][0];
    let one = &received(&app).await[0];
    let expected = json!({
        "id": one["id"], "route_id": route["id"], "from": "ann@example.test", "to": ["x@reply.acme.test"],
        "subject": "Hello", "internet_message_id": "<r@example.test>", "answers": sent.id, "is_auto_reply": false,
        "attachments": 0, "size": mime.len(),
    });
    assert_eq!(event["data"]["received"], expected, "{event}");
    assert_eq!((&event["data"]["message_id"], &event["data"]["subject"]), (&json!(null), &json!(null)));
    assert!(!event.to_string().contains("How are you"), "{event}");

    app.delete(&format!("/v1/received/{}", one["id"].as_str().unwrap())).await;
    let event = app.get("/v1/events?type=message.received").await.body["data"][0].clone();
    assert_eq!((&event["data"]["received"]["id"], &event["data"]["received"]["from"]), (&one["id"], &json!(null)));
}

#[tokio::test]
async fn event_is_posted_to_webhook_endpoints() {
    let app = hooks::builder().with_inbound().start().await;
    let receiver = Receiver::start().await;
    Hook::add(&app, &receiver.url("/hook"), "events = ARRAY['message.received']").await;
    route(&app, "*@reply.acme.test", "webhook").await;
    deliver(&app, "ann@example.test", &["x@reply.acme.test"], &mime("")).await;
    app.notify().await;
    let posts = receiver.posts("/hook");
    assert_eq!(posts.len(), 1);
    assert_eq!(posts[0].body["type"], "message.received");
    assert_eq!(posts[0].body["data"]["received"]["id"], received(&app).await[0]["id"]);
    assert!(posts[0].is_signed_with(&hooks::SECRET));
}

#[tokio::test]
async fn longest_fields_fit_into_a_post() {
    let app = hooks::builder().with_inbound().start().await;
    let receiver = Receiver::start().await;
    Hook::add(&app, &receiver.url("/hook"), "events = ARRAY['message.received']").await;
    route(&app, "*@reply.acme.test", "webhook").await;
    let long = "\u{1F600}".repeat(2_000);
    let mime = format!("From: ann@example.test\r\nSubject: {long}\r\n\r\nHi\r\n");
    let to: Vec<String> = (0..10).map(|n| format!("{}{n}@reply.acme.test", "a".repeat(60))).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let replies = deliver(&app, "ann@example.test", &to, &mime).await;
    assert!(replies.iter().all(|reply| reply.starts_with("250")), "{replies:?}");
    app.notify().await;
    let posts = receiver.posts("/hook");
    assert_eq!(posts.len(), 1);
    assert!(posts[0].size() < 20_000, "{}", posts[0].size());
}
