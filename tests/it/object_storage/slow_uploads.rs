//! An upload to the object store takes long, and meanwhile files are released: a message with them is redacted.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_parser::{MessageParser, MessagePart};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{MIB, attaching, attachment, referenced, start, unreferenced};
use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::clock::{hours, minutes};
use crate::support::s3::{Mode, S3Server};
use crate::support::until::until;
use crate::support::uploads::{attached, file, sha256};

/// Sends a message in the background, and returns the status of the response.
fn send(app: &TestApp, fields: Value) -> JoinHandle<u16> {
    let api = app.api().clone();
    let request = api.request(Method::POST, "/v1/messages").json(&message(fields));
    tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
}

/// Waits until the store has received this many PUT requests.
async fn puts(s3: &S3Server, count: usize) {
    until("the upload has begun", Duration::from_secs(30), async || match s3.count(&Method::PUT) {
        puts if puts == count => Ok(()),
        puts => Err(puts),
    })
    .await;
}

/// Redacts a message that was sent, and waits longer than until the next cleanup.
async fn redact(app: &TestApp, id: &str) {
    assert_eq!(app.post(&format!("/v1/messages/{id}/redact"), &json!({})).await.status, 200);
    app.clock.advance(minutes(11));
}

#[tokio::test]
async fn file_released_beside_a_slow_upload_is_kept() {
    let (s3, app) = start().await;
    let (released, new) = (file(1, MIB), file(2, MIB));
    let first = app.send(attaching(&released)).await.id;
    app.run_until_idle().await;
    let held = s3.hold_next_put();
    let mut fields = attached(&[&sha256(&released)]);
    let files = fields["attachments"].as_array_mut().unwrap();
    files.push(json!({"filename": "b.bin", "content": STANDARD.encode(&new)}));
    let sending = send(&app, fields);
    puts(&s3, 2).await;
    redact(&app, &first).await;
    assert_eq!(app.worker.clean_up().await.unwrap().blobs, 0, "the request refers to it");
    drop(held);
    assert_eq!(sending.await.unwrap(), 202);
    app.run_until_idle().await;
    let raw = app.smtp.received(2).await.remove(1).raw;
    let parsed = MessageParser::default().parse(&raw).unwrap();
    let files: Vec<&[u8]> = parsed.attachments().map(MessagePart::contents).collect();
    assert!(files == [&released[..], &new]);
}

#[tokio::test]
async fn file_released_during_its_own_slow_upload_is_stored() {
    let (s3, app) = start().await;
    let data = file(1, MIB);
    let held = s3.hold_next_put();
    let sending = send(&app, attaching(&data));
    puts(&s3, 1).await;
    // Another request stores the same file meanwhile, under another key.
    let first = app.send(attaching(&data)).await.id;
    app.run_until_idle().await;
    redact(&app, &first).await;
    let cleaned = app.worker.clean_up().await.unwrap();
    assert_eq!((cleaned.blobs, cleaned.objects, s3.keys().len()), (1, 1, 0));
    drop(held);
    assert_eq!(sending.await.unwrap(), 202);
    assert_eq!((s3.keys(), unreferenced(&app).await), (referenced(&app).await, 0));
    app.run_until_idle().await;
    assert!(attachment(&app.smtp.received(2).await[1].raw) == data);
}

#[tokio::test]
async fn object_of_an_upload_of_over_a_day_is_deleted() {
    let (s3, app) = start().await;
    let held = s3.hold_next_put();
    let sending = send(&app, attaching(&file(1, MIB)));
    puts(&s3, 1).await;
    app.clock.advance(hours(25));
    assert_eq!(app.worker.clean_up().await.unwrap().objects, 1);
    assert_eq!(unreferenced(&app).await, 0, "it counts as deleted before it is stored");
    drop(held);
    assert_eq!(sending.await.unwrap(), 503);
    assert_eq!((s3.keys().len(), unreferenced(&app).await), (1, 1));
    assert_eq!(app.worker.clean_up().await.unwrap().objects, 1);
    assert_eq!((s3.keys().len(), unreferenced(&app).await), (0, 0));
}

#[tokio::test]
async fn object_of_a_failed_upload_of_over_a_day_is_deleted() {
    let (s3, app) = start().await;
    s3.set(Mode::FailsAfterPut);
    let held = s3.hold_next_put();
    let sending = send(&app, attaching(&file(1, MIB)));
    puts(&s3, 1).await;
    app.clock.advance(hours(25));
    assert_eq!(app.worker.clean_up().await.unwrap().objects, 1);
    drop(held);
    assert_eq!(sending.await.unwrap(), 503);
    assert_eq!((s3.keys().len(), unreferenced(&app).await), (1, 1), "it is entered again");
    s3.set(Mode::Works);
    assert_eq!(app.worker.clean_up().await.unwrap().objects, 0, "the store may get it again later");
    app.clock.advance(hours(25));
    until("the object is deleted", Duration::from_secs(30), async || {
        app.clock.advance(minutes(11));
        let cleaned = app.worker.clean_up().await.unwrap();
        if cleaned.objects == 1 { Ok(()) } else { Err(cleaned.objects) }
    })
    .await;
    assert_eq!((s3.keys().len(), unreferenced(&app).await), (0, 0));
}
