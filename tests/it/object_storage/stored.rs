//! Which attachments are in the object store, and that they arrive unchanged.

use futures_util::future::join_all;
use postrider::worker::Worker;
use reqwest::Method;
use serde_json::{Value, json};

use super::{KIB, MIB, attaching, attachment, referenced, start, unreferenced};
use crate::support::client::message;
use crate::support::form::Form;
use crate::support::uploads::{attached, file, put, sha256, stored};

#[tokio::test]
async fn large_attachment_is_stored_and_delivered_intact() {
    let (s3, app) = start().await;
    let data = file(1, 10 * MIB);
    let sent = app.send(attaching(&data)).await;
    let [key] = &s3.keys()[..] else { panic!("{:?}", s3.keys()) };
    assert!(key.starts_with(&format!("postrider/{}-", sha256(&data))), "{key}");
    assert_eq!((stored(&app).await, unreferenced(&app).await), ((1, 0, 0), 0), "no bytes are in the database");
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "relayed");
    assert!(attachment(&app.smtp.received(1).await[0].raw) == data);
    let download = app.get(&format!("/v1/messages/{}/attachments/0", sent.id)).await;
    assert_eq!((download.status, download.headers["content-length"].to_str().unwrap()), (200, "10485760"));
    assert!(download.bytes == data);
    let raw = app.get(&format!("/v1/messages/{}/raw", sent.id)).await;
    assert!(raw.status == 200 && attachment(&raw.bytes) == data);
}

#[tokio::test]
async fn attachments_up_to_the_threshold_stay_in_postgres() {
    let (s3, app) = start().await;
    for size in [0, 1, 100 * KIB, 200 * KIB, 256 * KIB] {
        app.send(attaching(&file(1, size))).await;
    }
    assert_eq!((s3.keys().len(), stored(&app).await.0), (0, 5));
    app.send(attaching(&file(1, 256 * KIB + 1))).await;
    assert_eq!((s3.keys().len(), stored(&app).await.0), (1, 6));
    app.run_until_idle().await;
    assert_eq!(app.smtp.received(6).await.len(), 6);
}

#[tokio::test]
async fn same_attachment_is_one_object() {
    let (s3, app) = start().await;
    let data = file(1, MIB);
    app.send(attaching(&data)).await;
    app.send(attaching(&data)).await;
    let one = message(attaching(&data));
    assert_eq!(app.post("/v1/messages/batch", &json!([one, one])).await.status, 202);
    assert_eq!(put(&app, &data).await.status, 200);
    app.send(attached(&[&sha256(&data)])).await;
    assert_eq!((s3.count(&Method::PUT), s3.keys().len()), (1, 1));
    app.run_until_idle().await;
    for message in app.smtp.received(5).await {
        assert!(attachment(&message.raw) == data);
    }
}

#[tokio::test]
async fn same_attachment_at_the_same_moment_is_one_object() {
    let (s3, app) = start().await;
    let (_other, api) = app.another_api().await;
    let data = file(1, MIB);
    let requests = (0..8).map(|n| if n % 2 == 0 { app.api() } else { &api });
    join_all(requests.map(|api| api.send(attaching(&data)))).await;
    let workers = [app.another_worker().await, app.another_worker().await];
    for cleaned in join_all(workers.iter().map(Worker::clean_up)).await {
        cleaned.unwrap();
    }
    assert_eq!((s3.keys(), unreferenced(&app).await), (referenced(&app).await, 0));
    assert_eq!(s3.keys().len(), 1, "copies were deleted");
    app.run_until_idle().await;
    assert_eq!(app.smtp.received(8).await.len(), 8);
}

#[tokio::test]
async fn uploads_and_forms_are_stored() {
    let (s3, app) = start().await;
    let (small, chunk, large) = (file(1, 300 * KIB), file(2, MIB), file(3, 5 * MIB + 1));
    for data in [&small, &chunk, &large] {
        assert_eq!(put(&app, data).await.status, 201);
        assert_eq!(put(&app, data).await.status, 200);
    }
    let part = file(4, 3 * MIB);
    let mut body: Value = message(attached(&[&sha256(&small), &sha256(&chunk), &sha256(&large)]));
    body["attachments"].as_array_mut().unwrap().push(json!({"filename": "b.bin", "part": "b"}));
    let sent = Form::default().message(&body).file("b", &part).send(&app).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    assert_eq!(s3.keys(), referenced(&app).await);
    assert_eq!(s3.keys().len(), 4);
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await, (4, 0, 0), "the chunks of uploads are deleted");
    app.run_until_idle().await;
    let raw = app.smtp.received(1).await.remove(0).raw;
    let parsed = mail_parser::MessageParser::default().parse(&raw).unwrap();
    let files: Vec<&[u8]> = parsed.attachments().map(mail_parser::MessagePart::contents).collect();
    assert!(files == [&small[..], &chunk, &large, &part]);
}

#[tokio::test]
async fn raw_message_above_the_threshold_is_stored() {
    let (s3, app) = start().await;
    let raw = format!(
        "From: billing@acme.test\r\nTo: ann@example.test\r\nSubject: Long\r\n\r\n{}",
        "A line of text.\r\n".repeat(40_000)
    );
    let request = app.request(Method::POST, "/v1/messages").header("content-type", "message/rfc822");
    assert_eq!(crate::support::client::ApiResponse::to(request.body(raw)).await.status, 202);
    assert_eq!(s3.keys().len(), 1);
    app.run_until_idle().await;
    let received = app.smtp.received(1).await.remove(0).raw;
    assert_eq!(received.windows(15).filter(|line| line == b"A line of text.").count(), 40_000);
}
