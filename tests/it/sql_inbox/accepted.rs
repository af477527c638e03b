//! A message exists if and only if its transaction commits, and is then like any other.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use postrider::clock::{Clock as _, SystemClock};
use serde_json::json;

use super::{accepted, execute, inbox_is_empty, send, sender};
use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::uploads;

#[tokio::test]
async fn committed_message_is_delivered_once() {
    let app = TestApp::start().await;
    let mut sql = sender(&app.database).await;
    execute(&mut sql, "BEGIN").await;
    let fields = json!({"tags": [{"name": "kind", "value": "invoice"}], "metadata": {"order": "42"}, "cc": null});
    let id = send(&mut sql, &message(fields), Some("order-42")).await.unwrap();
    assert_eq!(app.get(&format!("/v1/messages/{id}")).await.status, 404);
    execute(&mut sql, "COMMIT").await;
    accepted(&app, &id).await;
    app.run_until_idle().await;

    let stored = app.message(&id).await;
    assert_eq!((&stored["id"], &stored["status"]), (&json!(id), &json!("relayed")));
    assert_eq!((&stored["metadata"]["order"], &stored["tags"][0]["value"]), (&json!("42"), &json!("invoice")));
    assert_eq!(app.events(&id).await, ["accepted", "relayed"]);
    assert_eq!(app.smtp.messages().len(), 1);
    inbox_is_empty(&app.database).await;
}

#[tokio::test]
async fn rolled_back_message_does_not_exist() {
    let app = TestApp::start().await;
    let mut sql = sender(&app.database).await;
    execute(&mut sql, "BEGIN").await;
    let gone = send(&mut sql, &message(json!({})), Some("order-42")).await.unwrap();
    execute(&mut sql, "ROLLBACK; BEGIN; SAVEPOINT s").await;
    let undone = send(&mut sql, &message(json!({})), Some("order-42")).await.unwrap();
    execute(&mut sql, "ROLLBACK TO s").await;
    let kept = send(&mut sql, &message(json!({})), Some("order-42")).await.unwrap();
    execute(&mut sql, "COMMIT").await;
    accepted(&app, &kept).await;
    inbox_is_empty(&app.database).await;
    for id in [gone, undone] {
        assert_eq!(app.get(&format!("/v1/messages/{id}")).await.status, 404);
    }
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 1);
}

#[tokio::test]
async fn scheduled_message_waits() {
    let app = TestApp::start().await;
    let mut sql = sender(&app.database).await;
    let at = SystemClock.now().max(app.clock.now()) + TimeDelta::hours(1);
    let fields = json!({"scheduled_at": at.to_rfc3339(), "expires_at": (at + TimeDelta::hours(1)).to_rfc3339()});
    let id = send(&mut sql, &message(fields), None).await.unwrap();
    accepted(&app, &id).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&id).await, "scheduled");
    app.clock.advance(at + TimeDelta::minutes(1) - app.clock.now());
    app.run_until_idle().await;
    assert_eq!(app.status(&id).await, "relayed");
}

#[tokio::test]
async fn attachments_are_sent_by_content_and_by_hash() {
    let app = TestApp::start().await;
    let file = uploads::file(7, 300_000);
    assert!(uploads::put(&app, &file).await.status < 300);
    let mut sql = sender(&app.database).await;
    let small = STANDARD.encode("Hello, file.");
    let fields = json!({"attachments": [
        {"filename": "small.txt", "content": small, "content_type": "text/plain; charset=utf-8"},
        {"filename": "large.bin", "sha256": uploads::sha256(&file).to_uppercase(), "content_id": "large"},
    ]});
    let id = send(&mut sql, &message(fields), None).await.unwrap();
    accepted(&app, &id).await;
    app.run_until_idle().await;
    let stored = app.message(&id).await;
    let attachments = &stored["attachments"];
    assert_eq!(attachments[0]["sha256"], json!(uploads::sha256(b"Hello, file.")));
    assert_eq!((&attachments[1]["sha256"], &attachments[1]["size"]), (&json!(uploads::sha256(&file)), &json!(300_000)));
    assert_eq!(app.smtp.messages().len(), 1);
}

#[tokio::test]
async fn suppressed_recipient_gets_nothing() {
    let app = TestApp::start().await;
    let added = app.post("/v1/suppressions", &json!({"address": "ann@example.test"})).await;
    assert!(added.status < 300, "{}", added.body);
    let mut sql = sender(&app.database).await;
    let id = send(&mut sql, &message(json!({})), None).await.unwrap();
    accepted(&app, &id).await;
    assert_eq!(app.status(&id).await, "suppressed");
}

#[tokio::test]
async fn template_is_pinned_at_the_call() {
    let app = TestApp::start().await;
    let template = json!({"name": "Welcome", "alias": "welcome", "subject": "Hi {{ name }}", "text": "Hello {{ name }}.",
        "from": "shop@acme.test", "variables": [{"key": "name", "type": "string", "required": true, "max_length": 5}]});
    assert_eq!(app.post("/v1/templates", &template).await.status, 201);
    assert!(app.post("/v1/templates/welcome/publish", &json!({})).await.status < 300);
    let mut sql = sender(&app.database).await;
    let body = |variables| json!({"to": "ann@example.test", "template": {"id": "welcome", "variables": variables}});
    for (variables, code) in
        [(json!({}), "required"), (json!({"name": 5}), "invalid_type"), (json!({"name": "Annika"}), "too_long")]
    {
        let error = send(&mut sql, &body(variables), None).await.unwrap_err();
        let expected = vec![("/template/variables/name".to_owned(), code.to_owned())];
        assert_eq!(super::problem(&error), ("PR422".to_owned(), expected));
    }
    let id = send(&mut sql, &body(json!({"name": "Ann"})), None).await.unwrap();
    accepted(&app, &id).await;
    let stored = app.message(&id).await;
    assert_eq!((&stored["subject"], &stored["template"]["version"]), (&json!("Hi Ann"), &json!(1)));
}

#[tokio::test]
async fn reply_and_invitation_are_sent_as_through_the_api() {
    let app = TestApp::start().await;
    let mut sql = sender(&app.database).await;
    let first = app.send(json!({})).await;
    let invitation =
        json!([{"content_type": "text/calendar; method=REQUEST", "content": "BEGIN:VCALENDAR\nEND:VCALENDAR\n"}]);
    let fields = json!({"in_reply_to": first.id, "alternatives": invitation});
    let reply = send(&mut sql, &message(fields), None).await.unwrap();
    accepted(&app, &reply).await;
    let stored = app.message(&reply).await;
    assert_eq!(stored["alternatives"][0]["content_type"], "text/calendar; method=REQUEST");
    let raw = app.get(&format!("/v1/messages/{reply}/raw")).await;
    let raw = String::from_utf8_lossy(&raw.bytes).into_owned();
    let earlier = app.message(&first.id).await["message_id"].as_str().unwrap().to_owned();
    assert!(raw.contains(&format!("In-Reply-To: {earlier}")) && raw.contains("BEGIN:VCALENDAR"), "{raw}");
}

#[tokio::test]
async fn reply_needs_an_earlier_message_of_an_allowed_sender() {
    let app = TestApp::start().await;
    let first = app.send(json!({})).await;
    let mut sql = sender(&app.database).await;
    execute(&mut app.database.connect().await, "UPDATE sql_senders SET sender_domains = '{shop.test}'").await;
    let reply = json!({"from": "a@shop.test", "in_reply_to": first.id});
    let error = send(&mut sql, &message(reply), None).await.unwrap_err();
    assert_eq!(super::problem(&error).1, [("/in_reply_to".to_owned(), "unknown_message".to_owned())]);
    app.run_until_idle().await;
}

#[tokio::test]
async fn reply_to_a_message_that_was_deleted_meanwhile_is_sent() {
    let app = TestApp::start().await;
    // As if the earlier message had been deleted between the call and now.
    let row = "INSERT INTO sql_inbox (tenant_id, id, payload, size, role, created_at)
               SELECT '00000000-0000-0000-0000-000000000000', uuid_floor(now()),
                      jsonb_build_object('from', 'a@acme.test', 'to', 'ann@example.test', 'subject', '', 'text', '',
                                         'in_reply_to', 'msg_' || repeat('0', 32)), 80, 'x', now()
               RETURNING 'msg_' || replace(id::text, '-', '')";
    let id: String = sqlx::query_scalar(row).fetch_one(&mut app.database.connect().await).await.unwrap();
    accepted(&app, &id).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&id).await, "relayed");
}
