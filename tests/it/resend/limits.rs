//! Memory and slow queries: no client of the compatible API blocks others.

use std::time::Duration;

use futures_util::future::join_all;
use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use super::{email, get, post, send, start};
use crate::support::raw_http::Raw;

const LIMIT: Duration = Duration::from_secs(10);

/// Returns a message with a file of this size, as a list of numbers.
fn with_file(bytes: usize) -> Value {
    email(json!({"attachments": [{"filename": "a.bin", "content": vec![100; bytes]}]}))
}

#[tokio::test]
async fn stalled_requests_do_not_block_others() {
    let app = start().await;
    let sender = app.with_scopes(&[Scope::Send]).await;
    let mut stalled = Vec::new();
    for begin in [1, 100 << 10, 100 << 10, 100 << 10] {
        let mut raw = Raw::connect(&app.base).await;
        raw.send(format!(
            "POST /emails HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{}",
            sender.key,
            160 << 20,
            " ".repeat(begin)
        ))
        .await;
        stalled.push(raw);
    }
    let large = with_file(200 << 10);
    let sent = tokio::time::timeout(LIMIT, join_all((0..4).map(|_| post(&app, "/emails", &large)))).await;
    assert!(sent.expect("a request waits for the stalled ones").iter().all(|response| response.status == 200));
    let native = json!({"text": "x".repeat(1 << 20)});
    tokio::time::timeout(LIMIT, app.send(native)).await.expect("/v1 has memory of its own");
}

#[tokio::test]
async fn memory_is_released_after_every_outcome() {
    // One request of the maximum size takes all of the memory.
    let app = super::builder()
        .config(|config| (config.accept.max_body_mib, config.accept.body_memory_mib) = (1, 1))
        .start()
        .await;
    let largest = with_file(1_000_000);
    assert!(largest.to_string().len() > 3_900_000, "the limit is 4 MiB");
    let mut invalid = largest.clone();
    invalid["to"] = "nobody".into();
    let mut malformed = largest.to_string();
    malformed.pop();
    for _ in 0..3 {
        assert_eq!(post(&app, "/emails", &largest).await.status, 200);
        assert_eq!(post(&app, "/emails", &invalid).await.error(), (422, "validation_error"));
        let raw = app.request(Method::POST, "/emails").header("content-type", "application/json");
        assert_eq!(super::Response::to(raw.body(malformed.clone())).await.error(), (400, "validation_error"));
    }
    let all = tokio::time::timeout(LIMIT, join_all((0..4).map(|_| post(&app, "/emails", &largest)))).await;
    assert!(all.expect("memory was not released").iter().all(|response| response.status == 200));
}

#[tokio::test]
async fn lookups_of_suppressions_do_not_block_other_keys() {
    let app = start().await;
    let entry = post(&app, "/suppressions", &json!({"email": "ann@example.test"})).await.id();
    let greedy = app.with_scopes(&[Scope::Read]).await;
    let mut lock = app.database.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE suppressions").execute(&mut lock).await.unwrap();
    let lookups: Vec<_> = (0..10)
        .map(|_| {
            let (greedy, path) = (greedy.clone(), format!("/suppressions/{entry}"));
            tokio::spawn(async move { get(&greedy, &path).await.status })
        })
        .collect();
    let list = tokio::time::timeout(Duration::from_secs(3), get(&app, "/emails"));
    assert_eq!(list.await.expect("the request is blocked").status, 200);
    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap();
    for status in join_all(lookups).await {
        assert_eq!(status.unwrap(), 200);
    }
    // The permits are free again.
    assert_eq!(get(&app, &format!("/suppressions/{entry}")).await.status, 200);
    send(&app, json!({})).await;
}
