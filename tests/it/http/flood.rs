//! The service keeps working with more idle connections than its limit of open files, and with clients that do not
//! read.
//!
//! `cargo test --test it http::flood -- --ignored --nocapture` prints the figures.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use postrider::clock::{Clock as _, SystemClock};
use reqwest::Method;
use serde_json::json;

use crate::support::client::{Api, ApiResponse};
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve, with_open_files};
use crate::support::raw_http::Raw;
use crate::support::smtp::SmtpServer;

/// Clients that send no complete request.
const IDLE: usize = 1_100;
/// Clients that request a large response and do not read it.
const NOT_READING: usize = 24;

#[tokio::test]
#[ignore = "opens more than a thousand connections: cargo test --test it http::flood -- --ignored --nocapture"]
async fn idle_and_not_reading_clients_do_not_stop_the_service() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let key = key(&database.url).await;
    let mut service = Service::start(with_open_files(&serve(&database.url, smtp.address(), &[]), 1_024)).await;
    let lowered = service.logged_event("http_connections_lowered").await;
    let base = service.address.clone().unwrap();
    let api = Api::new(&base, key);
    let content = STANDARD.encode(vec![7; 8 << 20]);
    let large = api.send(json!({"attachments": [{"filename": "a", "content": content}]})).await;
    let scheduled_at = (SystemClock.now() + TimeDelta::seconds(4)).to_rfc3339();
    let due = api.send(json!({"to": "due@example.test", "scheduled_at": scheduled_at})).await;

    let mut held = Vec::new();
    for n in 0..NOT_READING {
        let mut raw = Raw::connect(&base).await;
        let (id, key, path) = (&large.id, &api.key, if n % 2 == 0 { "raw" } else { "attachments/0" });
        raw.send(format!("GET /v1/messages/{id}/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"))
            .await;
        held.push(raw);
    }
    for n in 0..IDLE {
        let raw = Raw::connect(&base).await;
        // Every third client also sends a request head that it does not finish.
        if n % 3 == 0 {
            let _ = raw.0.try_write(format!("GET / HTTP/1.1\r\nX-A: {}", "a".repeat(60_000)).as_bytes());
        }
        held.push(raw);
    }
    let (mut times, mut memory, test_start) = (Vec::new(), 0, Instant::now());
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while test_start.elapsed() < Duration::from_secs(8) {
        tick.tick().await;
        let start = Instant::now();
        assert_eq!(ApiResponse::to(api.anonymous(Method::GET, "/healthz")).await.status, 200);
        times.push(start.elapsed());
        memory = memory.max(service.memory());
    }
    times.sort();
    let (median, p95) = (times[times.len() / 2], times[times.len() * 95 / 100]);
    println!("/healthz {} times: median {median:?}, 95 % below {p95:?}, longest {:?}", times.len(), times.last());
    println!("memory at most {memory} MiB; {lowered}");
    assert!(p95 < Duration::from_millis(50) && memory < 350);
    assert_eq!(api.status(&due.id).await, "relayed");
    drop(held);
}
