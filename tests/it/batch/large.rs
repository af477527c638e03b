//! Large batches: a thousand messages with ten attachments each, and bounded memory.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{PATH, count, ids, indexes, is_replayed, send_keyed};
use crate::support::app::TestApp;
use crate::support::client::{Api, message};
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::smtp::SmtpServer;

/// Returns an attachment of this size. Equal numbers give equal content.
fn file(number: usize, size: usize) -> Value {
    let mut data = vec![7; size];
    data[..8].copy_from_slice(&number.to_be_bytes());
    json!({"filename": format!("{number}.bin"), "content": STANDARD.encode(data)})
}

#[tokio::test]
async fn thousand_messages_with_ten_attachments_each() {
    let app = TestApp::start().await;
    let files = |n: usize| (0..10).map(|f| file(if f < 5 { f } else { 1_000 * f + n }, 300)).collect::<Vec<_>>();
    let numbered = |n: usize| message(json!({"subject": n.to_string(), "attachments": files(n)}));
    let body: Value = (0..1_000).map(numbered).collect();
    let response = send_keyed(&app, "run-1", &body).await;
    assert_eq!((ids(&response).len(), indexes(&response.body["data"])), (1_000, (0..1_000).collect()));
    let mut connection = app.database.connect().await;
    let blobs: i64 = sqlx::query_scalar("SELECT count(*) FROM blobs").fetch_one(&mut connection).await.unwrap();
    assert_eq!((blobs, count(&mut connection).await), (5_005, 1_000));
    let attached = "SELECT count(*) FROM contents WHERE jsonb_array_length(attachments) = 10";
    assert_eq!(sqlx::query_scalar::<_, i64>(attached).fetch_one(&mut connection).await.unwrap(), 1_000);
    assert!(is_replayed(&send_keyed(&app, "run-1", &body).await));
    let sequence = "SELECT count(*) FROM events WHERE type = 'message.accepted'";
    assert_eq!(sqlx::query_scalar::<_, i64>(sequence).fetch_one(&mut connection).await.unwrap(), 1_000);

    app.run_until_idle().await;
    let received = app.smtp.messages();
    assert_eq!(received.len(), 1_000);
    for message in received {
        let text = String::from_utf8(message.raw).unwrap();
        let number: usize = text.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap().parse().unwrap();
        let joined: String = text.split("\r\n").collect();
        for file in files(number) {
            assert!(joined.contains(file["content"].as_str().unwrap()), "{number}: {}", file["filename"]);
        }
    }
}

/// Starts an API with little memory for bodies.
async fn small_service(database: &Database, smtp: &SmtpServer) -> (Service, Api) {
    let mut command = serve(&database.url, smtp.address(), &["--only", "api"]);
    command.env("POSTRIDER_ACCEPT__MAX_BODY_MIB", "8").env("POSTRIDER_ACCEPT__BODY_MEMORY_MIB", "8");
    let service = Service::start(command).await;
    let api = Api::new(service.address.clone().unwrap(), key(&database.url).await);
    (service, api)
}

#[tokio::test]
async fn memory_is_bounded_with_many_large_batches() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let (service, api) = small_service(&database, &smtp).await;
    let before = service.memory();
    let with_files = |n: usize| message(json!({"attachments": [file(n, 60_000)]}));
    let files = |call: usize| (0..90).map(|n| with_files(call * 90 + n)).collect::<Value>();
    let texts = || json!(vec![message(json!({"text": "x".repeat(7_000)})); 1_000]);
    // Very many recipients and JSON values in few bytes.
    let to: Vec<String> = (0..50).map(|n| format!("{n}@b")).collect();
    let recipients = || json!(vec![json!({"from": "a@b", "to": to, "subject": "", "text": "."}); 400]);
    let bodies: Vec<Value> =
        (0..6).map(files).chain((0..6).map(|_| texts())).chain((0..6).map(|_| recipients())).collect();
    let send = async |body: &Value| {
        let response = api.request(reqwest::Method::POST, PATH).json(body).send().await.unwrap();
        assert_eq!(response.status(), 202);
        response.bytes().await.unwrap();
    };
    tokio::time::timeout(Duration::from_mins(2), join_all(bodies.iter().map(send))).await.expect("all batches");
    let most = service.peak_memory();
    assert!(most <= before + 160, "{most} MiB, {before} MiB before");
    assert!(service.terminate().await.success());
}
