//! The events that were posted to a webhook endpoint, and their attempts.

use std::time::Duration;

use serde_json::{Value, json};

use super::{delete, get, post, send};
use crate::support::app::TestApp;
use crate::support::hooks;
use crate::support::receiver::{Receiver, Reply};
use crate::support::smtp::Gate;
use crate::support::until::until;

const LIMIT: Duration = Duration::from_secs(20);

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

#[tokio::test]
async fn events_of_a_deleted_endpoint_do_not_exist() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let path = create(&app, &receiver.url("/hook")).await;
    send(&app, json!({})).await;
    app.notify().await;
    let one = format!("{path}/{}", text(&events(&app, &path).await[0], "id"));
    delete(&app, path.strip_suffix("/events").unwrap()).await.ok();
    for path in [&path, &one, &format!("{one}/attempts")] {
        assert_eq!(get(&app, path).await.error(), (404, "not_found"), "{path}");
    }
    assert_eq!(post(&app, &format!("{one}/replay"), &json!({})).await.error(), (404, "not_found"));
    let retries = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM webhook_retries");
    assert_eq!(retries.fetch_one(&mut app.database.connect().await).await.unwrap(), 0);
}

#[tokio::test]
async fn replay_interrupts_a_session_that_is_busy() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let path = create(&app, &receiver.url("/hook")).await;
    send(&app, json!({})).await;
    app.notify_after(1).await;
    let one = format!("{path}/{}", text(&events(&app, &path).await[0], "id"));
    let gate = Gate::default();
    receiver.script("/hook", [Reply::Held(gate.clone())]);
    send(&app, json!({})).await;
    let working = tokio::spawn({
        let worker = app.worker.clone();
        async move { worker.notify().await.unwrap() }
    });
    gate.reached().await;
    post(&app, &format!("{one}/replay"), &json!({})).await.ok();
    // The session records the outcome of this event, and finds that it has lost the lease.
    send(&app, json!({})).await;
    until("the event is posted again", LIMIT, async || {
        let posts = receiver.posts("/hook");
        let count = posts.iter().filter(|post| post.id == posts[0].id).count();
        if count == 2 { Ok(()) } else { Err(posts.len()) }
    })
    .await;
    gate.open();
    working.await.unwrap();
    assert_eq!(text(&get(&app, &one).await.ok(), "status"), "success");
}

#[tokio::test]
async fn event_that_resend_lacks_is_not_replayed() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = json!({"url": receiver.url("/hook"), "events": ["message.relayed"]});
    let created = app.post("/v1/webhooks", &hook).await.body["id"].as_str().unwrap().to_owned();
    send(&app, json!({})).await;
    app.run_until_idle().await;
    app.notify().await;
    let path = format!("/webhooks/{created}/events");
    let replay = format!("{path}/{}/replay", text(&events(&app, &path).await[0], "id"));
    assert_eq!(app.patch(&format!("/v1/webhooks/{created}"), &json!({"format": "resend"})).await.status, 200);
    let refused = post(&app, &replay, &json!({})).await;
    assert_eq!(refused.error(), (422, "validation_error"));
    assert!(refused.message().contains("`message.relayed` is not posted"), "{}", refused.message());
    assert_eq!(app.patch(&format!("/v1/webhooks/{created}"), &json!({"format": "postrider"})).await.status, 200);
    post(&app, &replay, &json!({})).await.ok();
    app.notify_after(1).await;
    assert_eq!(receiver.posts("/hook").len(), 2);
}
