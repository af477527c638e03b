//! `GET /v1/messages/export`: NDJSON and CSV, filters, and errors.

use futures_util::StreamExt as _;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Value, json};

use crate::support::app::TestApp;

const PATH: &str = "/v1/messages/export";

/// Returns the body of an export, and its content type.
async fn export(app: &TestApp, query: &str, accept: Option<&str>) -> (String, String) {
    let mut request = app.request(Method::GET, &format!("{PATH}?{query}"));
    if let Some(accept) = accept {
        request = request.header(ACCEPT, accept);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200, "{query}");
    let kind = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
    (response.text().await.unwrap(), kind)
}

/// Adds messages with the recipients of the newest one, without queue rows.
async fn seed(app: &TestApp) {
    app.delete_first_event().await;
    app.sql(
        "CREATE TABLE seeded AS
             SELECT uuid_floor(m.created_at + n * interval '1 ms') AS id FROM messages m, generate_series(1, 20000) n;
         INSERT INTO messages (tenant_id, id, content_id, created_at, stream, from_address, reply_to, subject, tags, metadata,
                               on_uncertain, size)
             SELECT tenant_id, s.id, content_id, created_at, stream, from_address, reply_to, repeat('seeded ', 100), tags,
                    metadata, on_uncertain, size
             FROM messages, seeded s",
    )
    .await;
}

async fn remove_seeded(app: &TestApp) {
    app.sql("DELETE FROM messages WHERE id IN (SELECT id FROM seeded); DROP TABLE seeded").await;
}

#[tokio::test]
async fn ndjson_has_the_messages_of_the_list() {
    let app = TestApp::start().await;
    for n in 0..3 {
        app.send(json!({"subject": format!("{n}"), "to": ["ann@example.test", "bo@example.test"]})).await;
        app.clock.advance(chrono::TimeDelta::minutes(1));
    }
    let (text, kind) = export(&app, "", None).await;
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (kind.as_str(), json!(lines)),
        ("application/x-ndjson", app.get("/v1/messages").await.body["data"].clone())
    );
    let after = lines[1]["id"].as_str().unwrap();
    assert_eq!(export(&app, &format!("after={after}"), None).await.0.lines().count(), 1);
    assert_eq!(export(&app, "to=bo@example.test&stream=bulk", None).await.0, "");
}

#[tokio::test]
async fn csv_has_one_recipient_per_line_without_formulas() {
    let app = TestApp::start().await;
    app.send(json!({"subject": "=HYPERLINK(\"http://x.test\",1)", "to": ["ann@example.test", "+bo@example.test"]}))
        .await;
    for (query, accept) in [("format=csv", None), ("", Some("text/csv")), ("format=csv", Some("application/x-ndjson"))]
    {
        let (text, kind) = export(&app, query, accept).await;
        assert_eq!(kind, "text/csv; charset=utf-8; header=present");
        let lines: Vec<&str> = text.split_terminator("\r\n").collect();
        assert!(lines[0].starts_with("message_id,recipient_id,created_at,message_status,"), "{text}");
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].contains(",\"'=HYPERLINK(\"\"http://x.test\"\",1)\",to,ann@example.test,queued,0,"), "{text}");
        assert!(lines[2].contains(",'+bo@example.test,queued,"), "{text}");
    }
}

#[tokio::test]
async fn export_reads_page_after_page() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    seed(&app).await;
    let (text, _) = export(&app, "", None).await;
    let ids: Vec<&str> = text.lines().map(|line| &line[7..43]).collect();
    assert_eq!(ids.len(), 20_001);
    assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "newest first, and none twice");
    // The filter has no index, so each page examines a part of the messages only.
    assert_eq!(export(&app, "status=relayed", None).await.0, "");
    remove_seeded(&app).await;
}

#[tokio::test]
async fn failure_in_the_middle_breaks_the_transfer() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    seed(&app).await;
    // The whole export is much larger than the buffers of the connection.
    let response = app.request(Method::GET, PATH).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.bytes_stream();
    assert!(body.next().await.unwrap().is_ok());
    app.sql("ALTER TABLE messages RENAME TO messages_away").await;
    let rest: Vec<_> = body.collect().await;
    app.sql("ALTER TABLE messages_away RENAME TO messages").await;
    assert!(rest.last().unwrap().is_err(), "the client must see that the export is incomplete");
    remove_seeded(&app).await;
}

#[tokio::test]
async fn revoked_key_ends_an_export() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    seed(&app).await;
    let key = app.post("/v1/keys", &json!({"name": "reader", "scopes": ["read"]})).await.body;
    let reader = app.with_key(key["secret"].as_str().unwrap());
    let mut body = reader.request(Method::GET, PATH).send().await.unwrap().bytes_stream();
    assert!(body.next().await.unwrap().is_ok());
    assert_eq!(app.delete(&format!("/v1/keys/{}", key["id"].as_str().unwrap())).await.status, 204);
    let rest: Vec<_> = body.collect().await;
    assert!(rest.last().unwrap().is_err());
    remove_seeded(&app).await;
}

#[tokio::test]
async fn invalid_parameters_of_an_export_are_refused() {
    let app = TestApp::start().await;
    let refused = app.get(&format!("{PATH}?format=xml&limit=5")).await;
    assert_eq!(
        (refused.status, refused.faults()),
        (422, vec![("format", "invalid_value"), ("limit", "unknown_field")])
    );
}
