//! A key with sender domains reads only the data of these domains, through every operation.

use std::time::Duration;

use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{TestApp, make_key};
use crate::support::client::Api;

async fn limited(app: &TestApp) -> Api {
    app.with_key(&make_key(&app.db, &*app.clock, &[Scope::Send, Scope::Read], Some(&["acme.test"])).await)
}

fn messages(page: &Value) -> Vec<&str> {
    page["data"].as_array().unwrap().iter().map(|event| event["data"]["message_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn event_feed_and_long_poll_omit_other_domains() {
    let app = TestApp::start().await;
    let shop = limited(&app).await;
    let other = app.send(json!({"from": "a@other.test"})).await;
    let own = app.send(json!({})).await;
    let page = shop.get("/v1/events").await.body;
    assert_eq!((messages(&page), &page["next"], &page["has_more"]), (vec![&*own.id], &json!("2"), &json!(false)));
    let other_events = shop.get(&format!("/v1/events?message_id={}", other.id)).await.body;
    assert_eq!(messages(&other_events), Vec::<&str>::new());
    let poll = tokio::spawn({
        let shop = shop.clone();
        async move { shop.get("/v1/events?after=2&wait=50").await.body }
    });
    app.send(json!({"from": "a@other.test"})).await;
    let next = app.send(json!({})).await;
    assert_eq!(messages(&poll.await.unwrap()), [&*next.id]);
}

#[tokio::test]
async fn event_stream_omits_other_domains() {
    let app = TestApp::start().await;
    let shop = limited(&app).await;
    app.send(json!({"from": "a@other.test"})).await;
    let own = app.send(json!({})).await;
    let request = shop.request(Method::GET, "/v1/events").header("accept", "text/event-stream");
    let mut response = request.send().await.unwrap();
    let mut text = String::new();
    while !text.contains("data:") {
        let chunk = tokio::time::timeout(Duration::from_secs(30), response.chunk()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(text.contains("id: 2") || text.contains("id:2"), "{text}");
    assert!(text.contains(&own.id) && text.matches("data:").count() == 1, "{text}");
}

#[tokio::test]
async fn message_of_another_domain_is_not_found() {
    let app = TestApp::start().await;
    let shop = limited(&app).await;
    let id = app.send(json!({"from": "a@other.test"})).await.id;
    for path in ["", "/raw", "/explain", "/events", "/attachments/0"] {
        assert_eq!(shop.get(&format!("/v1/messages/{id}{path}")).await.problem(), (404, "not_found"), "{path}");
    }
    for call in ["cancel", "retry"] {
        assert_eq!(shop.post(&format!("/v1/messages/{id}/{call}"), &json!({})).await.status, 404, "{call}");
    }
    assert_eq!(app.status(&id).await, "queued", "the message was not canceled");
    for query in ["", "?from=a@other.test", "?to=ann@example.test", "?status=queued"] {
        assert_eq!(shop.get(&format!("/v1/messages{query}")).await.body["data"], json!([]), "{query}");
    }
}

#[tokio::test]
async fn notes_on_shared_resources_are_hidden() {
    let app = TestApp::start().await;
    let shop = limited(&app).await;
    let note = json!([{"address": "ann@example.test", "note": "private note"}]);
    assert_eq!(app.post("/v1/suppressions", &note).await.status, 200);
    let id = shop.send(json!({})).await.id;
    let explained = shop.get(&format!("/v1/messages/{id}/explain")).await;
    assert_eq!((explained.status, explained.body["status"].as_str()), (200, Some("suppressed")));
    assert!(!explained.body.to_string().contains("private note"), "{}", explained.body);
    let whole = app.get(&format!("/v1/messages/{id}/explain")).await;
    assert!(whole.body.to_string().contains("private note"), "{}", whole.body);
    let paused = app.post("/v1/streams/bulk/pause", &json!({"reason": "private note"})).await;
    assert_eq!(paused.status, 200, "{paused:?}");
    for path in ["/v1/streams", "/v1/streams/bulk"] {
        let (limited, whole) = (shop.get(path).await.body.to_string(), app.get(path).await.body.to_string());
        assert!(!limited.contains("private note") && whole.contains("private note"), "{path}: {limited}");
    }
    let id = shop.send(json!({"to": "bo@example.test", "stream": "bulk"})).await.id;
    let path = format!("/v1/messages/{id}/explain");
    let (limited, whole) = (shop.get(&path).await.body.to_string(), app.get(&path).await.body.to_string());
    assert!(!limited.contains("private note") && whole.contains("private note"), "{limited}");
    let refused = shop.get("/v1/lanes").await;
    assert_eq!(refused.problem(), (403, "forbidden"));
    assert!(refused.body["detail"].as_str().unwrap().contains("acme.test"), "{}", refused.body);
}

#[tokio::test]
async fn admin_scope_with_sender_domains_is_refused() {
    let app = TestApp::start().await;
    let both = json!({"name": "ops", "scopes": ["send", "admin"], "sender_domains": ["acme.test"]});
    let refused = app.post("/v1/keys", &both).await;
    assert_eq!((refused.status, refused.faults()), (422, vec![("/sender_domains", "invalid_value")]));
    // Earlier versions could create such a key.
    let old_key = app.with_key(&make_key(&app.db, &*app.clock, &[Scope::Admin], Some(&["acme.test"])).await);
    assert_eq!(old_key.post("/v1/keys", &json!({"name": "free"})).await.problem(), (403, "forbidden"));
    let id = old_key.send(json!({})).await.id;
    assert_eq!(old_key.status(&id).await, "queued", "it may send and read within its domains");
}
