//! Messages that attach stored files by their digests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};
use crate::support::uploads::{attached, file, put, sha256, stored};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn stored_files_arrive_with_the_message() {
    let app = TestApp::start().await;
    let files = [file(1, 0), file(2, 3_000), file(3, 300_000), file(4, 2 * MIB + 3)];
    for data in &files {
        assert_eq!(put(&app, data).await.status, 201);
    }
    let digests: Vec<String> = files.iter().map(|data| sha256(data)).collect();
    let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
    // The first message is small, and attaches one file twice; the second one also attaches large files.
    let small = app.send(attached(&[digests[1], digests[1], digests[0]])).await;
    let large = app.send(attached(&digests)).await;
    for (sent, count) in [(&small, 3), (&large, 4)] {
        let described = app.message(&sent.id).await["attachments"].clone();
        assert_eq!(described.as_array().unwrap().len(), count);
    }
    let downloaded = app.get(&format!("/v1/messages/{}/attachments/3", large.id)).await;
    assert!(downloaded.bytes == files[3]);
    app.run_until_idle().await;
    let received = app.smtp.messages();
    assert_eq!(received.len(), 2);
    let texts = received.into_iter().map(|message| {
        let text = String::from_utf8(message.raw).unwrap();
        text.split("\r\n").collect::<String>()
    });
    let mut texts: Vec<String> = texts.collect();
    texts.sort_by_key(String::len);
    assert_eq!(texts[0].matches(&STANDARD.encode(&files[1])).count(), 2);
    for data in &files {
        assert!(texts[1].contains(&STANDARD.encode(data)), "{}", data.len());
    }
    assert_eq!(stored(&app).await, (4, 1 + 1 + 1 + 3, 0));
}

#[tokio::test]
async fn file_of_an_earlier_message_can_be_attached() {
    let app = TestApp::start().await;
    let data = file(1, 200_000);
    app.send(json!({"attachments": [{"filename": "a", "content": STANDARD.encode(&data)}]})).await;
    let digest = sha256(&data).to_uppercase();
    let sent = app.send(attached(&[&digest])).await;
    let downloaded = app.get(&format!("/v1/messages/{}/attachments/0", sent.id)).await;
    assert!(downloaded.bytes == data);
}

#[tokio::test]
async fn stored_file_is_sent_by_direct_handoff() {
    let app = TestApp::builder().with_all_roles().start().await;
    let data = file(1, 3_000);
    put(&app, &data).await;
    app.send(attached(&[&sha256(&data)])).await;
    app.smtp.received(1).await;
    let text: String = String::from_utf8(app.smtp.messages()[0].raw.clone()).unwrap().split("\r\n").collect();
    assert!(text.contains(&STANDARD.encode(&data)));
    app.run_until_idle().await;
}

#[tokio::test]
async fn all_faults_are_reported_together() {
    let app = TestApp::start().await;
    let data = file(1, 10);
    put(&app, &data).await;
    let (known, unknown) = (sha256(&data), "0".repeat(64));
    let attachments = json!([
        {"filename": "a", "sha256": unknown},
        {"filename": "b", "sha256": known},
        {"filename": "c", "sha256": "abc"},
        {"filename": "d", "sha256": 5},
        {"filename": "e", "sha256": known, "content": "YQ=="},
        {"filename": "f"},
        {"filename": "g", "part": "x"},
        {"sha256": known},
        {"filename": "h", "sha256": known, "content": null, "part": null, "content_type": "x"},
    ]);
    let refused = app.post("/v1/messages", &message(json!({"to": "nobody", "attachments": attachments}))).await;
    assert_eq!(refused.status, 422);
    let expected = [
        ("/to", "invalid_address"),
        ("/attachments/0/sha256", "unknown_blob"),
        ("/attachments/2/sha256", "invalid_value"),
        ("/attachments/3/sha256", "invalid_type"),
        ("/attachments/4/sha256", "invalid_value"),
        ("/attachments/5/content", "required"),
        ("/attachments/6/part", "unknown_part"),
        ("/attachments/7/filename", "required"),
        ("/attachments/8/content_type", "invalid_content_type"),
    ];
    assert_eq!(refused.faults(), expected);
}

#[tokio::test]
async fn attachments_of_one_message_are_limited_together() {
    let app = TestApp::builder()
        .config(|config| (config.accept.max_upload_mib, config.accept.max_body_mib) = (2, 1))
        .start()
        .await;
    let files = [file(1, MIB), file(2, MIB), file(3, 1)];
    for data in &files {
        put(&app, data).await;
    }
    let digests: Vec<String> = files.iter().map(|data| sha256(data)).collect();
    app.send(attached(&[&digests[0], &digests[1]])).await;
    let refused = app.post("/v1/messages", &message(attached(&[&digests[0], &digests[1], &digests[2]]))).await;
    assert_eq!(refused.faults(), [("/attachments", "too_large")]);
}

#[tokio::test]
async fn dry_run_contains_stored_files() {
    let app = TestApp::start().await;
    let files = [file(1, 1_000), file(2, 2 * MIB)];
    for data in &files {
        put(&app, data).await;
        let plan = app.post("/v1/messages?dry_run=true", &message(attached(&[&sha256(data)]))).await;
        let mime: String = plan.body["mime"]["content"].as_str().unwrap().split("\r\n").collect();
        assert!(plan.status == 200 && mime.contains(&STANDARD.encode(data)));
    }
    assert_eq!(app.get("/v1/messages").await.body["data"], json!([]));
}

#[tokio::test]
async fn idempotency_key_works_with_stored_files() {
    let app = TestApp::start().await;
    let (one, two) = (file(1, 100), file(2, 100));
    put(&app, &one).await;
    put(&app, &two).await;
    let send = async |body: Value| {
        let request = app.request(Method::POST, "/v1/messages").header("idempotency-key", "order-42");
        ApiResponse::to(request.json(&message(body))).await
    };
    let first = send(attached(&[&sha256(&one)])).await;
    let again = send(attached(&[&sha256(&one)])).await;
    assert_eq!((again.status, &again.body["id"]), (202, &first.body["id"]));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(send(attached(&[&sha256(&two)])).await.problem(), (422, "idempotency_key_reused"));
}

#[tokio::test]
async fn attached_message_that_cannot_be_sent_is_opaque() {
    let app = TestApp::start().await;
    let good = b"From: a@b.test\r\nSubject: x\r\n\r\nHello.\r\n".to_vec();
    for data in [good.clone(), b"From: \xc3\xa9@b.test\r\n\r\n".to_vec()] {
        put(&app, &data).await;
        let attachment = json!({"filename": "a.eml", "content_type": "message/rfc822", "sha256": sha256(&data)});
        let sent = app.send(json!({"attachments": [attachment]})).await;
        let raw = app.get(&format!("/v1/messages/{}/raw", sent.id)).await.bytes;
        let raw = String::from_utf8_lossy(&raw).into_owned();
        assert_eq!(raw.contains("Content-Type: message/rfc822"), data == good, "{raw}");
        assert_eq!(raw.contains("Content-Type: application/octet-stream"), data != good, "{raw}");
    }
}
