//! Message-IDs in the API, and replies to earlier messages.

use postrider::domain::key::Scope;
use serde_json::{Value, json};

use super::{field, send_mime};
use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::clock::minutes;
use crate::support::hooks::{self, Hook};
use crate::support::receiver::Receiver;

/// Returns the ids of the listed messages with this Message-ID.
async fn ids_by_message_id(app: &TestApp, message_id: &str) -> Vec<Value> {
    let message_id = message_id.replace('<', "%3C").replace('>', "%3E").replace('+', "%2B");
    let page = app.get(&format!("/v1/messages?message_id={message_id}")).await;
    assert_eq!(page.status, 200, "{}", page.body);
    page.body["data"].as_array().unwrap().iter().map(|message| message["id"].clone()).collect()
}

#[tokio::test]
async fn api_events_and_header_have_the_same_message_id() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    Hook::add(&app, &receiver.url("/hook"), "").await;
    let sent = app.send(json!({})).await;
    let header = format!("<{}@acme.test>", sent.id.strip_prefix("msg_").unwrap());
    app.run_until_idle().await;
    app.notify().await;
    assert_eq!(field(&app.smtp.messages()[0].raw, "Message-ID").as_deref(), Some(header.as_str()));
    assert_eq!(sent.body["message_id"], header);
    assert_eq!(app.message(&sent.id).await["message_id"], header);
    assert_eq!(app.get("/v1/messages").await.body["data"][0]["message_id"], header);
    let events = app.event_list(&sent.id).await;
    let posts = receiver.posts("/hook");
    let data = events.iter().map(|event| &event["data"]).chain(posts.iter().map(|post| &post.body["data"]));
    let data: Vec<&Value> = data.collect();
    assert!(data.len() == 4 && data.iter().all(|data| data["internet_message_id"] == header), "{data:?}");
    assert!(data.iter().all(|data| data["message_id"] == sent.id));
}

#[tokio::test]
async fn filter_finds_messages_by_their_message_id() {
    let app = TestApp::start().await;
    let own = "Message-ID: <same+1@x.test>\nFrom: a@acme.test\nTo: ann@example.test\n\nHello\n";
    let first = send_mime(&app, "", own).await;
    app.clock.advance(minutes(1));
    let second = send_mime(&app, "", own).await;
    let sent = app.send(json!({})).await;
    app.send(json!({})).await;
    let header = sent.body["message_id"].as_str().unwrap();
    for text in [header, header.trim_matches(['<', '>']), &header.replace("acme", "ACME")] {
        assert_eq!(ids_by_message_id(&app, text).await, [json!(sent.id)], "{text}");
    }
    for text in ["<same+1@x.test>", "same+1@x.test"] {
        assert_eq!(ids_by_message_id(&app, text).await, [json!(second), json!(first)], "{text}");
    }
    let derived = header.replace(&sent.id[4..], &first[4..]);
    for text in [derived.as_str(), &header.replace("acme", "other"), &sent.id, "<>", "x", &"x".repeat(5_000)] {
        assert_eq!(ids_by_message_id(&app, text).await, [""; 0], "{text:.80}");
    }
    let page = app.get("/v1/messages?message_id=same%2B1@x.test&limit=1").await.body;
    assert_eq!((page["data"].as_array().unwrap().len(), &page["has_more"]), (1, &json!(true)));
    app.run_until_idle().await;
}

#[tokio::test]
async fn in_reply_to_continues_the_thread() {
    let app = TestApp::start().await;
    let first = app.send(json!({"headers": {"References": "<root@x.test> <next@x.test>"}})).await;
    app.run_until_idle().await;
    let second = app.send(json!({"in_reply_to": first.id})).await;
    app.run_until_idle().await;
    let third = app.send(json!({"in_reply_to": second.id, "headers": {"X-A": "b"}})).await;
    app.run_until_idle().await;
    let sent = app.smtp.messages();
    let id = |sent: &crate::support::client::Sent| sent.body["message_id"].as_str().unwrap().to_owned();
    assert_eq!(field(&sent[1].raw, "In-Reply-To"), Some(id(&first)));
    assert_eq!(field(&sent[1].raw, "References"), Some(format!("<root@x.test> <next@x.test> {}", id(&first))));
    assert_eq!(field(&sent[2].raw, "In-Reply-To"), Some(id(&second)));
    assert_eq!(
        field(&sent[2].raw, "References"),
        Some(format!("<root@x.test> <next@x.test> {} {}", id(&first), id(&second)))
    );
    assert_eq!(app.get(&format!("/v1/messages/{}/raw", third.id)).await.bytes, sent[2].raw);
    let plan = app.post("/v1/messages?dry_run=true", &message(json!({"in_reply_to": third.id}))).await;
    assert!(plan.body["mime"]["content"].as_str().unwrap().contains(&format!("In-Reply-To: {}", id(&third))));
}

#[tokio::test]
async fn reply_to_finished_mime_uses_its_header_fields() {
    let app = TestApp::start().await;
    let mime =
        "Message-ID: <own@x.test>\nIn-Reply-To: <asked@x.test>\nFrom: a@acme.test\nTo: ann@example.test\n\nHello\n";
    let first = send_mime(&app, "", mime).await;
    app.run_until_idle().await;
    app.send(json!({"in_reply_to": first})).await;
    app.run_until_idle().await;
    let raw = app.smtp.messages().pop().unwrap().raw;
    assert_eq!(field(&raw, "In-Reply-To").as_deref(), Some("<own@x.test>"));
    assert_eq!(field(&raw, "References").as_deref(), Some("<asked@x.test> <own@x.test>"));
}

#[tokio::test]
async fn unknown_earlier_message_is_refused() {
    let app = TestApp::start().await;
    let sent = app.send(json!({"from": "a@blog.test"})).await;
    let fault = async |api: &crate::support::client::Api, fields: Value| {
        let response = api.post("/v1/messages", &message(fields)).await;
        assert_eq!(response.status, 422, "{}", response.body);
        let faults = response.faults().into_iter().map(|(pointer, code)| (pointer.to_owned(), code.to_owned()));
        faults.collect::<Vec<_>>()
    };
    let refused = |pointer: &str, code: &str| [(pointer.to_owned(), code.to_owned())];
    let unknown = format!("msg_{}", "0".repeat(32));
    assert_eq!(fault(&app, json!({"in_reply_to": unknown})).await, refused("/in_reply_to", "unknown_message"));
    assert_eq!(fault(&app, json!({"in_reply_to": "<a@b>"})).await, refused("/in_reply_to", "invalid_value"));
    assert_eq!(fault(&app, json!({"in_reply_to": 5})).await, refused("/in_reply_to", "invalid_type"));
    let both = json!({"in_reply_to": sent.id, "headers": {"references": "<a@b>"}});
    assert_eq!(fault(&app, both).await, refused("/headers/references", "forbidden_header"));
    let acme = app.with_sender_domains(&["acme.test"]).await;
    let other = json!({"in_reply_to": sent.id});
    assert_eq!(fault(&acme, other.clone()).await, refused("/in_reply_to", "unknown_message"));
    let sender = app.with_scopes(&[Scope::Send]).await;
    assert_eq!(sender.post("/v1/messages", &message(other)).await.status, 202);
    app.run_until_idle().await;
}
