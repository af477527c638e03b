//! The events that were posted to a webhook endpoint, and their attempts.

use serde_json::{Value, json};

use super::{get, post, send};
use crate::support::app::TestApp;
use crate::support::hooks;
use crate::support::receiver::{Receiver, Reply};

/// Creates an endpoint, and returns the path of its events.
async fn create(app: &TestApp, url: &str) -> String {
    let id = post(app, "/webhooks", &json!({"endpoint": url, "events": ["email.sent"]})).await.id();
    format!("/webhooks/{id}/events")
}

async fn events(app: &TestApp, path: &str) -> Vec<Value> {
    get(app, path).await.ok()["data"].as_array().unwrap().clone()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap()
}

#[tokio::test]
async fn posted_events_have_a_status_and_attempts() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let path = create(&app, &receiver.url("/hook")).await;
    receiver.script("/hook", [Reply::Status(500)]);
    let id = send(&app, json!({})).await;
    app.notify().await;
    let pending = events(&app, &path).await.remove(0);
    assert_eq!((text(&pending, "type"), text(&pending, "status")), ("email.sent", "pending"));
    let one = format!("{path}/{}", text(&pending, "id"));
    let shown = get(&app, &one).await.ok();
    assert_eq!((text(&shown, "object"), text(&shown["payload"]["data"], "email_id")), ("webhook_event", id.as_str()));
    assert!(shown["next_attempt_at"].is_string(), "{shown}");

    app.notify_after(60).await;
    assert_eq!(text(&events(&app, &path).await[0], "status"), "success");
    let attempts = get(&app, &format!("{one}/attempts")).await.ok();
    let codes: Vec<u64> =
        attempts["data"].as_array().unwrap().iter().map(|one| one["http_status_code"].as_u64().unwrap()).collect();
    assert_eq!((codes, &attempts["has_more"]), (vec![200, 500], &json!(false)));
    assert_eq!(attempts["data"][1]["response"], "answer");
    assert_eq!(get(&app, &one).await.ok()["next_attempt_at"], Value::Null);
}

#[tokio::test]
async fn event_is_replayed() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let path = create(&app, &receiver.url("/hook")).await;
    for _ in 0..2 {
        send(&app, json!({})).await;
        app.notify_after(1).await;
    }
    let event = events(&app, &path).await.remove(1);
    let one = format!("{path}/{}", text(&event, "id"));
    let replayed = post(&app, &format!("{one}/replay"), &json!({})).await.ok();
    assert_eq!(replayed, json!({"object": "webhook_event", "id": event["id"]}));
    assert_eq!(text(&get(&app, &one).await.ok(), "status"), "pending");
    app.notify_after(1).await;
    let posts = receiver.posts("/hook");
    assert_eq!((posts.len(), &posts[2].id), (3, &posts[0].id), "the same `webhook-id` again");
    assert_eq!(text(&get(&app, &one).await.ok(), "status"), "success");
    assert_eq!(events(&app, &path).await.len(), 2);
}

#[tokio::test]
async fn events_are_paged_and_belong_to_their_endpoint() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let (path, other) = (create(&app, &receiver.url("/a")).await, create(&app, &receiver.url("/b")).await);
    for _ in 0..3 {
        send(&app, json!({})).await;
        app.notify_after(1).await;
    }
    let all = events(&app, &path).await;
    let first = get(&app, &format!("{path}?limit=2")).await.ok();
    assert_eq!((first["data"].as_array().unwrap(), &first["has_more"]), (&all[..2].to_vec(), &json!(true)));
    let rest = get(&app, &format!("{path}?after={}", text(&all[1], "id"))).await.ok();
    assert_eq!((&rest["data"], &rest["has_more"]), (&json!(all[2..]), &json!(false)));
    let id = text(&all[0], "id");
    for path in [format!("{other}/{id}"), format!("{path}/x"), format!("/webhooks/{id}/events")] {
        assert_eq!(get(&app, &path).await.error(), (404, "not_found"), "{path}");
    }
    assert_eq!(get(&app, &format!("{path}?before={id}")).await.error(), (422, "validation_error"));
    let reader = app.with_scopes(&[postrider::domain::key::Scope::Read]).await;
    assert_eq!(post(&reader, &format!("{path}/{id}/replay"), &json!({})).await.error(), (401, "restricted_api_key"));
}
