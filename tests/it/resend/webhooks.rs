//! Webhook endpoints, and deliveries in Resend's form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{delete, get, patch, post, send};
use crate::support::app::TestApp;
use crate::support::hooks;
use crate::support::receiver::{Receiver, Reply};
use crate::support::smtp::Gate;

/// Creates an endpoint, and returns its id and its secret.
async fn create(app: &TestApp, url: &str, events: Value) -> (String, Vec<u8>) {
    let response = post(app, "/webhooks", &json!({"endpoint": url, "events": events})).await;
    assert_eq!((response.status, &response.body["object"]), (201, &json!("webhook")), "{}", response.body);
    let secret = response.body["signing_secret"].as_str().unwrap().strip_prefix("whsec_").unwrap().to_owned();
    (response.id(), STANDARD.decode(secret).unwrap())
}

#[tokio::test]
async fn deliveries_have_the_payload_and_headers_of_resend() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let events = json!(["email.sent", "email.bounced", "email.delivery_delayed", "email.opened"]);
    let (_, secret) = create(&app, &receiver.url("/hook"), events).await;
    app.smtp.rcpt("bounced@example.test").replies(["550 5.1.1 no such user"]);
    app.smtp.rcpt("later@example.test").replies(["451 4.3.0 later"]);
    let tags = json!([{"name": "kind", "value": "invoice"}]);
    let id = send(&app, json!({"to": ["bounced@example.test", "later@example.test", "ok@example.test"], "tags": tags}))
        .await;
    app.run_until_idle().await;
    app.notify().await;

    let posts = receiver.posts("/hook");
    let mut kinds: Vec<&str> = posts.iter().map(|post| post.body["type"].as_str().unwrap()).collect();
    assert_eq!(kinds.remove(0), "email.sent");
    kinds.sort_unstable();
    assert_eq!(kinds, ["email.bounced", "email.delivery_delayed"], "relayed recipients have no event");
    for post in &posts {
        assert!(post.is_signed_with(&secret));
        for (svix, standard) in [
            ("svix-id", "webhook-id"),
            ("svix-timestamp", "webhook-timestamp"),
            ("svix-signature", "webhook-signature"),
        ] {
            assert_eq!(post.headers[svix], post.headers[standard]);
        }
        let data = &post.body["data"];
        assert_eq!((&data["email_id"], &data["tags"]), (&json!(id), &json!({"kind": "invoice"})));
        assert_eq!((&data["from"], &data["subject"]), (&json!("Acme <billing@acme.test>"), &json!("Your invoice")));
    }
    assert_eq!(posts[0].body["data"]["to"].as_array().unwrap().len(), 3);
    let bounced = posts.iter().find(|post| post.body["type"] == "email.bounced").unwrap();
    let bounce = &bounced.body["data"]["bounce"];
    assert_eq!((&bounce["type"], &bounce["subType"]), (&json!("Permanent"), &json!("NoEmail")));
    assert_eq!(bounced.body["data"]["to"], json!(["bounced@example.test"]));
}

#[tokio::test]
async fn endpoint_of_v1_may_have_the_form_too() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let mut body = json!({"url": receiver.url("/hook"), "format": "resend", "batch": 10});
    let refused = app.post("/v1/webhooks", &body).await;
    assert_eq!((refused.status, &refused.body["errors"][0]["pointer"]), (422, &json!("/batch")));
    body["batch"] = json!(1);
    let created = app.post("/v1/webhooks", &body).await;
    assert_eq!((created.status, &created.body["format"]), (201, &json!("resend")), "{}", created.body);
    send(&app, json!({})).await;
    app.notify().await;
    assert_eq!(receiver.posts("/hook")[0].body["type"], "email.sent", "one event in each delivery");
    let path = format!("/v1/webhooks/{}", created.body["id"].as_str().unwrap());
    assert_eq!(app.patch(&path, &json!({"batch": 10})).await.status, 422);
    let changed = app.patch(&path, &json!({"format": "postrider", "batch": 10})).await;
    assert_eq!(changed.body["format"], "postrider");
    send(&app, json!({})).await;
    app.notify().await;
    assert_eq!(receiver.posts("/hook")[1].body["type"], "webhook.batch");
    assert!(!receiver.posts("/hook")[1].headers.contains_key("svix-id"));
    for change in [json!({"format": "xml"}), json!({"format": "resend"})] {
        assert_eq!(app.patch(&path, &change).await.status, 422, "{change}");
    }
    assert_eq!(app.patch(&path, &json!({"format": "resend", "batch": 1})).await.status, 200);
}

#[tokio::test]
async fn failed_batch_is_retried_in_the_new_form() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let created = app.post("/v1/webhooks", &json!({"url": receiver.url("/hook"), "batch": 10})).await;
    let path = format!("/v1/webhooks/{}", created.body["id"].as_str().unwrap());
    receiver.script("/hook", [Reply::Status(500)]);
    let ids = [send(&app, json!({})).await, send(&app, json!({})).await];
    app.run_until_idle().await;
    app.notify().await;
    let failed = receiver.posts("/hook").remove(0).body;
    assert_eq!((&failed["type"], failed["events"].as_array().unwrap().len()), (&json!("webhook.batch"), 4));

    assert_eq!(app.patch(&path, &json!({"format": "resend", "batch": 1})).await.status, 200);
    app.notify_after(60).await;
    let posts = receiver.posts("/hook").split_off(1);
    let sent: Vec<(&str, &str)> = posts
        .iter()
        .map(|post| (post.body["type"].as_str().unwrap(), post.body["data"]["email_id"].as_str().unwrap()))
        .collect();
    assert_eq!(sent, ids.each_ref().map(|id| ("email.sent", id.as_str())), "Resend has no event for `relayed`");
    assert!(posts.iter().all(|post| post.headers.contains_key("svix-id")));
    assert_eq!(app.get(&path).await.body["pending_retries"], 0);

    receiver.script("/hook", [Reply::Status(500)]);
    send(&app, json!({})).await;
    app.notify().await;
    assert_eq!(app.patch(&path, &json!({"format": "postrider"})).await.status, 200);
    app.notify_after(60).await;
    let last = receiver.posts("/hook").pop().unwrap();
    assert_eq!((&last.body["type"], last.headers.contains_key("svix-id")), (&json!("message.accepted"), false));
}

#[tokio::test]
async fn event_read_in_the_old_form_is_posted_in_the_new_one() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let created = app.post("/v1/webhooks", &json!({"url": receiver.url("/hook"), "concurrency": 1})).await;
    let path = format!("/v1/webhooks/{}", created.body["id"].as_str().unwrap());
    let gate = Gate::default();
    receiver.script("/hook", [Reply::Held(gate.clone())]);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(send(&app, json!({})).await);
    }
    ids.sort_unstable();
    let working = tokio::spawn({
        let worker = app.worker.clone();
        async move { worker.notify().await.unwrap() }
    });
    // The worker has read all events, and waits for the response to the first one.
    gate.reached().await;
    assert_eq!(app.patch(&path, &json!({"format": "resend"})).await.status, 200);
    gate.open();
    working.await.unwrap();
    app.notify().await;
    let posts = receiver.posts("/hook");
    let mut sent: Vec<&str> = posts.iter().filter_map(|post| post.body["data"]["email_id"].as_str()).collect();
    sent.sort_unstable();
    assert_eq!(sent, ids, "each is posted in the new form; those that were in flight a second time");
    assert_eq!(posts[0].body["type"], "message.accepted");
}

#[tokio::test]
async fn relayed_may_count_as_delivered() {
    let app = hooks::builder().config(|config| config.resend.relayed_as_delivered = true).start().await;
    let receiver = Receiver::start().await;
    create(&app, &receiver.url("/hook"), json!(["email.delivered", "email.bounced"])).await;
    let id = send(&app, json!({})).await;
    app.run_until_idle().await;
    app.notify().await;
    let posts = receiver.posts("/hook");
    assert_eq!(posts.len(), 1, "{posts:?}");
    assert_eq!((&posts[0].body["type"], &posts[0].body["data"]["email_id"]), (&json!("email.delivered"), &json!(id)));
    assert_eq!(posts[0].body["data"]["to"], json!(["ann@example.test"]));
    assert_eq!(get(&app, &format!("/emails/{id}")).await.ok()["last_event"], "delivered");
    assert_eq!(get(&app, "/emails").await.ok()["data"][0]["last_event"], "delivered");
}

#[tokio::test]
async fn endpoints_are_listed_changed_and_deleted() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let (id, secret) = create(&app, &receiver.url("/hook"), json!(["email.delivered", "contact.created"])).await;
    let path = format!("/webhooks/{id}");
    let shown = get(&app, &path).await.ok();
    let expected = json!({
        "object": "webhook", "id": id, "created_at": shown["created_at"], "status": "enabled",
        "endpoint": receiver.url("/hook"), "events": ["email.delivered"],
    });
    assert_eq!(shown, expected);
    let list = get(&app, "/webhooks").await.ok();
    assert_eq!((&list["has_more"], &list["data"]), (&json!(false), &json!([shown])));

    let changed = patch(&app, &path, &json!({"events": ["email.sent"], "status": "disabled"})).await.ok();
    assert_eq!(changed, json!({"object": "webhook", "id": id}));
    let shown = get(&app, &path).await.ok();
    assert_eq!((&shown["status"], &shown["events"]), (&json!("disabled"), &json!(["email.sent"])));
    let rotated = post(&app, &format!("{path}/signing-secret/rotate"), &json!({})).await.ok();
    assert_ne!(rotated["signing_secret"], format!("whsec_{}", STANDARD.encode(secret)));

    for (body, message) in [
        (json!({"endpoint": "ftp://x.test", "events": ["email.sent"]}), "Invalid `endpoint` field"),
        (json!({"events": ["email.sent"]}), "Missing `endpoint` field"),
        (json!({"endpoint": receiver.url("/x"), "events": ["email.opened"]}), "Invalid `events` field"),
        (json!({"endpoint": receiver.url("/x"), "events": ["nonsense"]}), "Invalid `events[0]` field"),
    ] {
        let refused = post(&app, "/webhooks", &body).await;
        assert_eq!(refused.status, 422);
        assert!(refused.message().starts_with(message), "{}", refused.message());
    }
    assert_eq!(delete(&app, &path).await.ok(), json!({"object": "webhook", "id": id, "deleted": true}));
    assert_eq!(get(&app, &path).await.error(), (404, "not_found"));
}
