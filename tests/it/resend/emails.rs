//! Sends, reads, reschedules and cancels messages.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::{Response, email, get, native, patch, post, send, start};
use crate::support::app::TestApp;

#[tokio::test]
async fn message_is_accepted_with_200_and_delivered() {
    let app = start().await;
    let body = email(json!({
        "to": "Ann <ann@example.test>", "cc": ["bo@example.test"], "bcc": "cy@example.test", "reply_to": "help@acme.test",
        "html": "<p>Hello <b>Ann</b></p>", "text": null, "headers": {"X-Entity-Ref": "42"},
        "tags": [{"name": "kind", "value": "invoice"}],
    }));
    let response = post(&app, "/emails", &body).await;
    assert_eq!((response.status, response.body.as_object().unwrap().len()), (200, 1));
    let id = response.id();
    let parts: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
    app.run_until_idle().await;
    let mime = String::from_utf8(app.smtp.messages().remove(0).raw).unwrap();
    for part in ["X-Entity-Ref: 42", "Hello Ann", "<p>Hello <b>Ann</b></p>", "Reply-To: help@acme.test"] {
        assert!(mime.contains(part), "{part}: {mime}");
    }

    let shown = get(&app, &format!("/emails/{id}")).await.ok();
    let time = |name: &str| shown[name].as_str().unwrap().parse::<DateTime<Utc>>();
    assert!(time("created_at").is_ok(), "{shown}");
    let mut rest = shown.clone();
    let members = rest.as_object_mut().unwrap();
    for name in ["created_at", "message_id", "text"] {
        assert!(members.remove(name).unwrap().is_string(), "{name}");
    }
    let expected = json!({
        "object": "email", "id": id, "from": "Acme <billing@acme.test>", "to": ["Ann <ann@example.test>"],
        "cc": ["bo@example.test"], "bcc": ["cy@example.test"], "reply_to": ["help@acme.test"], "subject": "Your invoice",
        "html": "<p>Hello <b>Ann</b></p>", "scheduled_at": null, "last_event": "sent",
        "tags": [{"name": "kind", "value": "invoice"}], "topic_id": null,
    });
    assert_eq!(rest, expected);
    assert_eq!(get(&app, &format!("/emails/{}", native(&id))).await.ok(), shown, "ids of /v1 are accepted too");
    assert_eq!(app.message(&native(&id)).await["subject"], "Your invoice");
}

#[tokio::test]
async fn empty_members_of_go_count_as_missing() {
    let app = start().await;
    let body = json!({
        "from": "a@acme.test", "to": ["ann@example.test"], "subject": "Hi", "bcc": null, "cc": [], "reply_to": "",
        "html": "<p>Hello</p>", "text": "", "tags": null, "attachments": null, "headers": null, "scheduled_at": "",
        "template": null, "topic_id": "", "unknown": {"x": 1},
    });
    let id = post(&app, "/emails", &body).await.id();
    let shown = get(&app, &format!("/emails/{id}")).await.ok();
    assert_eq!((&shown["text"], &shown["cc"], &shown["bcc"]), (&Value::Null, &Value::Null, &Value::Null));
    let without_subject = post(&app, "/emails", &email(json!({"subject": ""}))).await;
    assert_eq!(without_subject.error(), (422, "missing_required_field"));
    assert_eq!(without_subject.message(), "Missing `subject` field.");
}

#[tokio::test]
async fn bodies_of_get_and_cancel_are_ignored() {
    let app = start().await;
    let id = send(&app, json!({"scheduled_at": "in 1 hour"})).await;
    let path = format!("/emails/{id}");
    assert_eq!(Response::to(app.request(Method::GET, &path).json(&json!({}))).await.status, 200);
    assert_eq!(Response::to(app.request(Method::GET, "/emails").json(&json!({}))).await.status, 200);
    let cancel = app.request(Method::POST, &format!("{path}/cancel")).header(CONTENT_TYPE, "application/json");
    assert_eq!(Response::to(cancel).await.ok(), json!({"object": "email", "id": id}));
    assert_eq!(get(&app, &path).await.ok()["last_event"], "canceled");
}

#[tokio::test]
async fn bodies_of_delete_are_ignored() {
    let app = start().await;
    let template = post(&app, "/templates", &json!({"name": "Hi", "html": "<p>Hi</p>"})).await.id();
    let delete = app.request(Method::DELETE, &format!("/templates/{template}")).json(&json!({"id": template}));
    assert_eq!(Response::to(delete).await.ok()["deleted"], true);
}

#[tokio::test]
async fn scheduled_message_is_moved_and_canceled() {
    let app = start().await;
    let id = send(&app, json!({"scheduled_at": "in 2 days"})).await;
    let path = format!("/emails/{id}");
    let at = |shown: &Value| shown["scheduled_at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let shown = get(&app, &path).await.ok();
    assert_eq!(
        (at(&shown) - at_time(&shown, "created_at"), &shown["last_event"]),
        (TimeDelta::days(2), &json!("scheduled"))
    );

    // The SDKs for Python and Go send the id too.
    let changed = patch(&app, &path, &json!({"id": id, "scheduled_at": "2027-06-01T00:00:00Z"})).await;
    assert_eq!((changed.status, &changed.body), (200, &json!({"object": "email", "id": id})));
    let far = patch(&app, &path, &json!({"scheduled_at": "2099-01-01T00:00:00Z"})).await;
    assert_eq!(far.error(), (422, "validation_error"));
    let soon = patch(&app, &path, &json!({"scheduled_at": "in 5 min"})).await;
    assert_eq!(soon.status, 200);
    for (body, error) in [
        (json!({}), (422, "missing_required_field")),
        (json!({"scheduled_at": "tomorrow at 9am"}), (422, "validation_error")),
        (json!({"scheduled_at": 5}), (422, "validation_error")),
    ] {
        assert_eq!(patch(&app, &path, &body).await.error(), error, "{body}");
    }
    app.clock.advance(TimeDelta::minutes(6));
    app.run_until_idle().await;
    let late = post(&app, &format!("{path}/cancel"), &json!({})).await;
    assert_eq!(late.error(), (422, "validation_error"));
    assert_eq!(patch(&app, &path, &json!({"scheduled_at": "in 1 hour"})).await.error(), (422, "validation_error"));
}

fn at_time(shown: &Value, name: &str) -> DateTime<Utc> {
    shown[name].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn words_of_another_form_name_the_accepted_ones() {
    let app = start().await;
    let response = post(&app, "/emails", &email(json!({"scheduled_at": "Friday at 3pm ET"}))).await;
    assert_eq!(response.error(), (422, "validation_error"));
    for form in ["`scheduled_at`", "ISO 8601", "in N minutes"] {
        assert!(response.message().contains(form), "{}", response.message());
    }
}

#[tokio::test]
async fn path_may_begin_with_two_slashes() {
    let app = start().await;
    let id = post(&app, "//emails", &email(json!({}))).await.id();
    assert_eq!(get(&app, &format!("//emails/{id}")).await.ok()["id"], json!(id));
    assert_eq!(get(&app, "//audiences").await.error(), (404, "not_found"));
}

#[tokio::test]
async fn addresses_of_resend_play_their_outcome() {
    let app = start().await;
    let id = send(&app, json!({"to": ["Bo <bounced+1@resend.dev>"]})).await;
    app.run_until_idle().await;
    let shown = get(&app, &format!("/emails/{id}")).await.ok();
    assert_eq!(shown["last_event"], "bounced");
    assert_eq!(shown["to"], json!(["Bo <bounced+1@simulator.postrider.test>"]));
    assert_eq!(app.smtp.messages().len(), 0);
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let app = TestApp::builder().config(|config| config.resend.enabled = false).start().await;
    let response = app.post("/emails", &email(json!({}))).await;
    assert_eq!(response.status, 404);
}
