//! Attachments of messages sent from SQL are stored in the object store too.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::json;

use super::{LIMIT, accepted, execute, send, sender};
use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::clock::{minutes, seconds};
use crate::support::s3::{Mode, S3Server};
use crate::support::until::until;
use crate::support::uploads::file;

#[tokio::test]
async fn only_large_attachments_wait_for_the_object_store() {
    let s3 = S3Server::start().await;
    let app = TestApp::builder().config(|config| s3.configure(config)).start().await;
    s3.set(Mode::Down);
    let mut connection = sender(&app.database).await;
    let content = STANDARD.encode(file(1, 300 << 10));
    let large = message(json!({"attachments": [{"filename": "a.bin", "content": content}]}));
    let large = send(&mut connection, &large, None).await.unwrap();
    let small = send(&mut connection, &message(json!({})), None).await.unwrap();
    accepted(&app, &small).await;
    assert_eq!(app.get(&format!("/v1/messages/{large}")).await.problem(), (409, "not_accepted"));
    s3.set(Mode::Works);
    until("the message with the attachment is accepted", LIMIT, async || {
        // Its claim ends.
        app.clock.advance(minutes(1));
        match app.get(&format!("/v1/messages/{large}")).await.status {
            200 => Ok(()),
            status => Err(status),
        }
    })
    .await;
    assert_eq!(s3.keys().len(), 1);
}

#[tokio::test]
async fn messages_that_wait_for_it_use_no_quota() {
    let s3 = S3Server::start().await;
    let app = TestApp::builder().config(|config| s3.configure(config)).start().await;
    execute(&mut app.database.connect().await, "UPDATE tenants SET recipients_per_day = 2").await;
    s3.set(Mode::Down);
    let mut sql = sender(&app.database).await;
    let content = STANDARD.encode(file(1, 300 << 10));
    // Both are in one claim.
    execute(&mut sql, "BEGIN").await;
    let small = send(&mut sql, &message(json!({})), None).await.unwrap();
    let large = message(json!({"attachments": [{"filename": "a.bin", "content": content}]}));
    let large = send(&mut sql, &large, None).await.unwrap();
    execute(&mut sql, "COMMIT").await;
    accepted(&app, &small).await;
    s3.set(Mode::Works);
    let mut owner = app.database.connect().await;
    until("the message with the attachment is accepted", LIMIT, async || {
        let waiting = "SELECT count(*) FROM sql_inbox WHERE waits_for = 'quota'";
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut owner).await.unwrap();
        assert_eq!(waiting, 0, "its first try has left the quota unused");
        // Its claim ends.
        app.clock.advance(minutes(1));
        match app.get(&format!("/v1/messages/{large}")).await.status {
            200 => Ok(()),
            status => Err(status),
        }
    })
    .await;
}

#[tokio::test]
async fn cancellation_that_failed_can_be_repeated() {
    let s3 = S3Server::start().await;
    let app = TestApp::builder().config(|config| s3.configure(config)).start().await;
    app.sql("UPDATE tenants SET recipients_per_day = 1").await;
    let mut sql = sender(&app.database).await;
    let first = send(&mut sql, &message(json!({})), None).await.unwrap();
    accepted(&app, &first).await;
    let content = STANDARD.encode(file(1, 300 << 10));
    let large = message(json!({"attachments": [{"filename": "a.bin", "content": content}]}));
    let waiting = send(&mut sql, &large, None).await.unwrap();
    until("the row does not wait for the quota", LIMIT, async || {
        let detail = app.get(&format!("/v1/messages/{waiting}")).await.body["detail"].clone();
        if detail.as_str().is_some_and(|detail| detail.contains("quota")) { Ok(()) } else { Err(detail) }
    })
    .await;
    s3.set(Mode::Down);
    let path = format!("/v1/messages/{waiting}/cancel");
    let failed = app.request(Method::POST, &path).json(&json!({})).send().await.unwrap();
    assert_eq!(failed.status(), 503);
    s3.set(Mode::Works);
    // The store counts as unavailable for a moment longer.
    until("the message is canceled", LIMIT, async || {
        app.clock.advance(seconds(2));
        let canceled = app.request(Method::POST, &path).json(&json!({})).send().await.unwrap();
        let (status, body) = (canceled.status(), canceled.text().await.unwrap());
        assert!(status == 503 || status == 200, "{body}");
        if status == 200 && body.contains(r#""status":"canceled""#) { Ok(()) } else { Err(body) }
    })
    .await;
}
