//! `POST /v1/messages/{id}/redact` erases content from every table, and keeps states and events.

use serde_json::{Value, json};

use super::tables_with;
use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};
use crate::support::postgres::until_waiting_for_lock;

/// A word of each part of the message that is erased.
const SECRETS: [&str; 9] =
    ["subjectword", "nameword", "senderword", "replyword", "textword", "htmlword", "headerword", "tagword", "metaword"];

/// Returns a message with all secrets.
fn body(to: &str) -> Value {
    json!({
        "from": {"email": "billing@acme.test", "name": "senderword"}, "to": [{"email": to, "name": "nameword"}],
        "reply_to": "replyword@acme.test", "subject": "subjectword", "text": "textword", "html": "<p>htmlword</p>",
        "headers": {"X-Note": "headerword"}, "tags": [{"name": "a", "value": "tagword"}], "metadata": {"b": "metaword"},
        "attachments": [{"filename": "a.bin", "content": "c2VjcmV0Ynl0ZXM="}],
    })
}

async fn redact(app: &TestApp, id: &str) -> crate::support::client::ApiResponse {
    app.post(&format!("/v1/messages/{id}/redact"), &json!({})).await
}

#[tokio::test]
async fn redacted_content_is_in_no_table() {
    let app = TestApp::start().await;
    app.smtp.rcpt("gone@example.test").replies(["550 5.1.1 textword is not welcome, replyquote"]);
    let sent = app.post("/v1/messages", &body("gone@example.test")).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    let id = sent.body["id"].as_str().unwrap().to_owned();
    app.run_until_idle().await;
    for word in SECRETS.iter().chain(&["secretbytes", "replyquote"]) {
        assert_ne!(tables_with(&app, word).await, Vec::<String>::new(), "{word}");
    }
    let redacted = redact(&app, &id).await;
    assert_eq!(redacted.status, 200, "{}", redacted.body);
    app.clock.advance(minutes(11));
    app.worker.clean_up().await.unwrap();
    for word in SECRETS.iter().chain(&["secretbytes", "replyquote"]) {
        assert_eq!(tables_with(&app, word).await, Vec::<String>::new(), "{word}");
    }
    let shown = app.message(&id).await;
    assert_eq!((&shown["status"], &shown["subject"], &shown["tags"]), (&json!("bounced"), &json!(""), &json!([])));
    let recipient = &shown["recipients"][0];
    assert_eq!((&recipient["address"], &recipient["name"]), (&json!("gone@example.test"), &json!(null)));
    let response = json!({"code": 550, "enhanced": "5.1.1", "text": "[redacted]"});
    assert_eq!(recipient["response"], response);
    assert_eq!(app.events(&id).await, ["accepted", "bounced", "redacted"]);
    assert_eq!(app.get(&format!("/v1/messages/{id}/raw")).await.problem(), (410, "content_deleted"));
    let again = redact(&app, &id).await;
    assert_eq!(again.status, 200);
    assert_eq!(app.events(&id).await.len(), 3, "a repeated call changes nothing");
    let entry = &app.get("/v1/audit").await.body["data"][0];
    assert_eq!((&entry["action"], &entry["object"]), (&json!("redact_message"), &json!(id)));
}

#[tokio::test]
async fn message_that_has_not_ended_is_not_redacted() {
    let app = TestApp::start().await;
    let id = app.send(json!({"scheduled_at": app.clock.text_in(hours(1)), "text": "textword"})).await.id;
    assert_eq!(redact(&app, &id).await.problem(), (409, "not_ended"));
    assert_eq!(app.get(&format!("/v1/messages/{id}/raw")).await.status, 200);
    app.post(&format!("/v1/messages/{id}/cancel"), &json!({})).await;
    assert_eq!(redact(&app, &id).await.status, 200);
    assert_eq!(tables_with(&app, "textword").await, Vec::<String>::new());
    assert_eq!(redact(&app, "msg_00000000000000000000000000000000").await.status, 404);
}

#[tokio::test]
async fn redacted_uncertain_message_is_not_sent_again() {
    let app = TestApp::start().await;
    let fields = json!({"to": "drop-after-dot@simulator.postrider.test", "on_uncertain": "hold"});
    let id = app.send(fields).await.id;
    app.run_until_idle().await;
    assert_eq!(app.status(&id).await, "uncertain");
    assert_eq!(redact(&app, &id).await.status, 200);
    assert_eq!(app.post(&format!("/v1/messages/{id}/retry"), &json!({})).await.problem(), (409, "nothing_to_retry"));
}

#[tokio::test]
async fn attachment_of_another_message_is_kept() {
    let app = TestApp::start().await;
    let mut ids = Vec::new();
    for to in ["ann@example.test", "bo@example.test"] {
        ids.push(app.post("/v1/messages", &body(to)).await.body["id"].as_str().unwrap().to_owned());
    }
    app.run_until_idle().await;
    assert_eq!(redact(&app, &ids[0]).await.status, 200);
    app.clock.advance(minutes(1));
    app.worker.clean_up().await.unwrap();
    let kept = app.get(&format!("/v1/messages/{}/attachments/0", ids[1])).await;
    assert_eq!((kept.status, kept.bytes.as_slice()), (200, b"secretbytes".as_slice()));
    assert_eq!(app.get(&format!("/v1/messages/{}/attachments/0", ids[0])).await.problem(), (410, "content_deleted"));
}

#[tokio::test]
async fn retry_waits_for_redaction_and_changes_nothing() {
    let app = TestApp::start().await;
    let fields = json!({"to": "drop-after-dot@simulator.postrider.test", "on_uncertain": "hold"});
    let id = app.send(fields).await.id;
    app.run_until_idle().await;
    assert_eq!(app.status(&id).await, "uncertain");
    // As redacting does, in a transaction that has not ended.
    let mut redaction = app.database.connect().await;
    sqlx::raw_sql(
        "BEGIN; SELECT FROM messages FOR UPDATE; UPDATE recipients SET name = NULL;
         UPDATE messages SET content_deleted_at = created_at, redacted_at = created_at",
    )
    .execute(&mut redaction)
    .await
    .unwrap();
    let (path, body) = (format!("/v1/messages/{id}/retry"), json!({}));
    let (retried, ()) = tokio::join!(app.post(&path, &body), async {
        until_waiting_for_lock(&mut app.database.connect().await, "messages").await;
        sqlx::raw_sql("COMMIT").execute(&mut redaction).await.unwrap();
    });
    assert_eq!(retried.status, 409, "{}", retried.body);
    assert_eq!(app.status(&id).await, "uncertain");
}
