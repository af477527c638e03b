//! A message keeps the version that it was accepted with, whatever happens to the template.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{greeting, publish};
use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};
use crate::support::clock::hours;
use crate::support::until::until;

/// A second, and another one for a busy machine.
const LIMIT: Duration = Duration::from_secs(2);

async fn send(api: &Api, fields: Value) -> Value {
    let mut body = json!({"to": "ann@example.test", "template": {"id": "greeting", "variables": {"name": "Ann"}}});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let sent = api.post("/v1/messages", &body).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    sent.body
}

#[tokio::test]
async fn scheduled_message_keeps_its_version() {
    let app = TestApp::start().await;
    greeting(&app).await;
    let scheduled = send(&app, json!({"scheduled_at": app.clock.text_in(hours(1))})).await;
    app.patch("/v1/templates/greeting", &json!({"subject": "Changed", "html": "<p>Changed</p>"})).await;
    publish(&app, "greeting").await;
    assert_eq!(app.message(send(&app, json!({})).await["id"].as_str().unwrap()).await["subject"], "Changed");
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    let message = app.message(scheduled["id"].as_str().unwrap()).await;
    assert_eq!((&message["subject"], &message["template"]["version"]), (&json!("Hello Ann"), &json!(1)));
    let mails = app.smtp.messages().into_iter().map(|mail| String::from_utf8(mail.raw.clone()).unwrap());
    let scheduled: Vec<String> = mails.filter(|raw| raw.contains("Subject: Hello Ann")).collect();
    assert!(scheduled.len() == 1 && scheduled[0].contains("Dear Ann"), "{scheduled:?}");
    assert!(!scheduled[0].contains("Changed"), "{scheduled:?}");
}

#[tokio::test]
async fn template_of_scheduled_messages_is_not_deleted() {
    let app = TestApp::start().await;
    let id = greeting(&app).await;
    let due = send(&app, json!({})).await;
    let scheduled = send(&app, json!({"scheduled_at": app.clock.text_in(hours(1))})).await;
    app.send(json!({"scheduled_at": app.clock.text_in(hours(1))})).await;
    let refused = app.delete("/v1/templates/greeting").await;
    assert_eq!(refused.problem(), (409, "template_in_use"));
    let scheduled = scheduled["id"].as_str().unwrap();
    assert_eq!(app.post(&format!("/v1/messages/{scheduled}/cancel"), &json!({})).await.status, 200);
    assert_eq!(app.delete("/v1/templates/greeting").await.status, 204);

    // The messages keep their content and the id.
    let message = app.message(due["id"].as_str().unwrap()).await;
    assert_eq!(message["template"], json!({"id": id, "alias": null, "version": 1}));
    let found = app.get(&format!("/v1/messages?template={id}")).await.body;
    assert_eq!(found["data"].as_array().unwrap().len(), 2, "{found}");
    app.run_until_idle().await;
    assert_eq!(app.status(due["id"].as_str().unwrap()).await, "relayed");
}

#[tokio::test]
async fn repeated_request_returns_the_first_message() {
    let app = TestApp::start().await;
    greeting(&app).await;
    let body = json!({"to": "ann@example.test", "template": {"id": "greeting", "variables": {"name": "Ann"}}});
    let request = || app.request(Method::POST, "/v1/messages").header("Idempotency-Key", "one").json(&body);
    let first = ApiResponse::to(request()).await;
    app.patch("/v1/templates/greeting", &json!({"variables": [], "subject": "S", "html": "<p>"})).await;
    publish(&app, "greeting").await;
    let second = ApiResponse::to(request()).await;
    assert_eq!((second.status, &second.body["id"]), (202, &first.body["id"]));
    assert_eq!(second.headers["idempotent-replayed"], "true");
}

#[tokio::test]
async fn other_replicas_use_a_new_version_within_1_s() {
    let app = TestApp::start().await;
    greeting(&app).await;
    let (other, api) = app.another_api().await;
    send(&api, json!({})).await;
    app.patch("/v1/templates/greeting", &json!({"subject": "New"})).await;
    publish(&app, "greeting").await;
    until("the other replica uses version 2", LIMIT, async || {
        let id = send(&api, json!({})).await["id"].as_str().unwrap().to_owned();
        let subject = api.message(&id).await["subject"].as_str().unwrap().to_owned();
        if subject == "New" { Ok(()) } else { Err(subject) }
    })
    .await;
    drop(api);
    other.stop().await;
}

#[tokio::test]
async fn other_replicas_notice_a_moved_alias_within_1_s() {
    let app = TestApp::start().await;
    greeting(&app).await;
    let (other, api) = app.another_api().await;
    send(&api, json!({})).await;
    assert_eq!(app.patch("/v1/templates/greeting", &json!({"alias": "welcome"})).await.status, 200);
    let unknown = |api: Api| async move {
        let body = json!({"to": "ann@example.test", "template": {"id": "greeting", "variables": {"name": "Ann"}}});
        api.post("/v1/messages?dry_run=true", &body).await.status == 422
    };
    assert!(unknown(app.api().clone()).await, "at once");
    until("the other replica does not know the old alias", LIMIT, async || {
        if unknown(api.clone()).await { Ok(()) } else { Err("in use") }
    })
    .await;
    // The alias of another template, changed by an operator in SQL or by an older version.
    app.sql("UPDATE templates SET alias = 'greeting'").await;
    until(
        "the other replica knows the alias",
        LIMIT,
        async || {
            if unknown(api.clone()).await { Err("unknown") } else { Ok(()) }
        },
    )
    .await;
    app.sql("UPDATE templates SET alias = NULL").await;
    until("the other replica does not know the alias any more", LIMIT, async || {
        if unknown(api.clone()).await { Ok(()) } else { Err("in use") }
    })
    .await;
    other.stop().await;
}
