//! The object store is away, slow, or has lost an object.

use std::time::Duration;

use axum::body::Bytes;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::{KIB, MIB, attaching, attachment, builder, start, unreferenced};
use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::clock::{hours, minutes};
use crate::support::s3::{Mode, S3Server};
use crate::support::until::until;
use crate::support::uploads::{attached, file, put, sha256, stored};

const LIMIT: Duration = Duration::from_secs(30);

/// Sends a message, and expects 503 with a time to retry.
async fn refused(app: &TestApp, fields: Value) {
    let request = app.request(Method::POST, "/v1/messages").json(&message(fields));
    unavailable(request.send().await.unwrap()).await;
}

async fn unavailable(response: Response) {
    assert_eq!(response.status().as_u16(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("object store"), "{problem}");
}

/// Sends a message again until it is accepted, as a client does after 503.
async fn send_until_accepted(app: &TestApp, fields: Value) {
    until("the message is accepted", LIMIT, async || {
        let request = app.request(Method::POST, "/v1/messages").json(&message(fields.clone()));
        match request.send().await.unwrap().status().as_u16() {
            202 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

/// Works until a message is relayed, minute by minute.
async fn work_until_relayed(app: &TestApp, id: &str) {
    until("the message is relayed", LIMIT, async || {
        app.clock.advance(minutes(1));
        app.run_until_idle().await;
        match &*app.status(id).await {
            "relayed" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
}

#[tokio::test]
async fn only_large_attachments_are_refused_while_it_is_away() {
    let (s3, app) = start().await;
    let (data, known) = (file(1, MIB), file(2, MIB));
    assert_eq!(put(&app, &known).await.status, 201);
    s3.set(Mode::Down);
    refused(&app, attaching(&data)).await;
    let batch = json!([message(json!({})), message(attaching(&data))]);
    unavailable(app.request(Method::POST, "/v1/messages/batch").json(&batch).send().await.unwrap()).await;
    for size in [MIB, 3 * MIB] {
        let data = file(3, size);
        let request = app.request(Method::PUT, &format!("/v1/blobs/{}", sha256(&data))).body(data);
        unavailable(request.send().await.unwrap()).await;
    }
    app.send(json!({})).await;
    app.send(attaching(&file(1, 200 * KIB))).await;
    app.send(attached(&[&sha256(&known)])).await;
    assert_eq!(app.get("/readyz").await.status, 200);
    let accepted = app.get("/v1/messages").await.body["data"].as_array().unwrap().len();
    assert_eq!(accepted, 3, "nothing of what was refused is stored");
    s3.set(Mode::Works);
    send_until_accepted(&app, attaching(&data)).await;
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await.2, 0, "the chunks of the refused upload are deleted");
}

#[tokio::test]
async fn slow_store_is_not_waited_for() {
    let s3 = S3Server::start().await;
    let app = builder(&s3).config(|config| config.attachments.timeout = Duration::from_secs(1)).start().await;
    s3.set(Mode::Silent);
    refused(&app, attaching(&file(1, MIB))).await;
    app.send(json!({})).await;
    s3.set(Mode::Works);
    send_until_accepted(&app, attaching(&file(1, MIB))).await;
}

#[tokio::test]
async fn message_waits_while_it_is_away_and_is_then_sent() {
    let (s3, app) = start().await;
    let data = file(1, MIB);
    let large = app.send(attaching(&data)).await.id;
    let small = app.send(json!({"to": "bo@example.test"})).await.id;
    s3.set(Mode::Down);
    app.run_until_idle().await;
    assert_eq!((app.status(&small).await, app.status(&large).await), ("relayed".into(), "queued".into()));
    assert_eq!(app.recipient(&large).await["held"], Value::Null);
    let explained = app.get(&format!("/v1/messages/{large}/explain")).await.body.to_string();
    assert!(explained.contains("the object store with the attachments is not available"), "{explained}");
    app.clock.advance(hours(3));
    app.run_until_idle().await;
    assert_eq!(app.status(&large).await, "queued", "it does not bounce");
    s3.set(Mode::Works);
    work_until_relayed(&app, &large).await;
    assert!(attachment(&app.smtp.received(2).await[1].raw) == data);
    assert_eq!(app.events(&large).await, ["accepted", "relayed"], "no attempt has failed");
}

#[tokio::test]
async fn store_without_response_delays_only_its_messages() {
    let s3 = S3Server::start().await;
    let app = builder(&s3).config(|config| config.attachments.timeout = Duration::from_secs(1)).start().await;
    let large = app.send(attaching(&file(1, MIB))).await.id;
    s3.set(Mode::Silent);
    app.run_until_idle().await;
    assert_eq!(app.status(&large).await, "queued");
    s3.set(Mode::Works);
    work_until_relayed(&app, &large).await;
}

#[tokio::test]
async fn missing_object_holds_until_it_is_back() {
    let (s3, app) = start().await;
    let data = file(1, MIB);
    let id = app.send(attaching(&data)).await.id;
    let (key, bytes) = s3.lose();
    app.run_until_idle().await;
    let recipient = app.recipient(&id).await;
    let reason = recipient["held"].as_str().unwrap_or_else(|| panic!("{recipient}"));
    assert!(reason.starts_with("held: an attachment is missing") && reason.contains(&key), "{reason}");
    let explained = app.get(&format!("/v1/messages/{id}/explain")).await.body.to_string();
    assert!(explained.contains(&key), "{explained}");
    assert_eq!(app.get(&format!("/v1/messages/{id}/attachments/0")).await.status, 404);
    assert_eq!(app.get(&format!("/v1/messages/{id}/raw")).await.status, 404);
    // Longer than the retry window.
    app.clock.advance(hours(10 * 24));
    assert_eq!(app.worker.clean_up().await.unwrap().released, 0);
    s3.insert(key, bytes);
    assert_eq!(app.worker.clean_up().await.unwrap().released, 1);
    app.run_until_idle().await;
    assert_eq!(app.status(&id).await, "relayed");
    assert!(attachment(&app.smtp.received(1).await[0].raw) == data);
}

#[tokio::test]
async fn operator_can_release_what_a_missing_object_holds() {
    let (s3, app) = start().await;
    let id = app.send(attaching(&file(1, MIB))).await.id;
    let (key, bytes) = s3.lose();
    app.run_until_idle().await;
    s3.insert(key, bytes);
    let retried = app.post(&format!("/v1/messages/{id}/retry"), &json!({})).await;
    assert_eq!(retried.status, 200, "{}", retried.body);
    app.run_until_idle().await;
    assert_eq!(app.status(&id).await, "relayed");
}

#[tokio::test]
async fn damaged_object_is_not_sent() {
    let (s3, app) = start().await;
    let id = app.send(attaching(&file(1, MIB))).await.id;
    for damaged in [file(2, MIB), file(1, MIB - 1)] {
        let (key, _) = s3.lose();
        s3.insert(key, Bytes::from(damaged));
        app.run_until_idle().await;
        let recipient = app.recipient(&id).await;
        assert!(recipient["held"].as_str().unwrap().starts_with("held: an attachment is damaged"), "{recipient}");
        assert_eq!(app.worker.clean_up().await.unwrap().released, 0, "an operator decides");
        assert_eq!(app.post(&format!("/v1/messages/{id}/retry"), &json!({})).await.status, 200);
    }
    assert_eq!(app.smtp.messages().len(), 0);
}

#[tokio::test]
async fn objects_are_deleted_once_it_works_again() {
    let (s3, app) = start().await;
    put(&app, &file(1, MIB)).await;
    app.clock.advance(hours(8 * 24));
    s3.set(Mode::Down);
    let cleaned = app.worker.clean_up().await.unwrap();
    assert_eq!((cleaned.blobs, cleaned.objects, unreferenced(&app).await), (1, 0, 1));
    s3.set(Mode::Works);
    until("the object is deleted", LIMIT, async || {
        app.clock.advance(minutes(11));
        let cleaned = app.worker.clean_up().await.unwrap();
        if cleaned.objects == 1 { Ok(()) } else { Err(cleaned.objects) }
    })
    .await;
    assert_eq!((s3.keys().len(), unreferenced(&app).await), (0, 0));
}
