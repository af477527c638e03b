//! Limits that also hold for clients without a key: connections, unfinished heads, unread responses.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use futures_util::future::join_all;
use postrider::http::{Server, ServerLimits, bind};
use reqwest::Method;
use tokio::sync::{Notify, mpsc};

use crate::support::app::TestApp;
use crate::support::client::ApiResponse;
use crate::support::raw_http::{Raw, exchange, status};

const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_mins(5);
const PING: &str = "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n";

fn limits() -> ServerLimits {
    ServerLimits { header_timeout: LATE, keep_alive: LATE, write_timeout: LATE, ..ServerLimits::default() }
}

fn serve(router: Router, limits: ServerLimits) -> (Server, String) {
    let router = router.route("/ping", get(|| async { "pong" }));
    let server = Server::start(bind("127.0.0.1:0".parse().unwrap()).unwrap(), router, limits).unwrap();
    let base = format!("http://{}", server.address);
    (server, base)
}

#[tokio::test]
async fn unfinished_head_closes_connection_after_timeout() {
    let (_server, base) = serve(Router::new(), ServerLimits { header_timeout: SOON, ..limits() });
    let start = Instant::now();
    assert_eq!(exchange(&base, "GET /ping HTTP/1.1\r\nHost: x\r\nX-A:").await, "");
    assert_eq!(exchange(&base, "").await, "", "a connection without any request is closed too");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn trickled_head_closes_connection_after_timeout() {
    let (_server, base) = serve(Router::new(), ServerLimits { header_timeout: SOON, ..limits() });
    let mut raw = Raw::connect(&base).await;
    raw.send(PING).await;
    assert_eq!(status(&raw.head().await), 200);
    raw.send("GET /ping HTTP/1.1\r\n").await;
    let mut tick = tokio::time::interval(SOON / 4);
    let trickle = async {
        loop {
            tick.tick().await;
            if tokio::io::AsyncWriteExt::write_all(&mut raw.0, b"X-A: b\r\n").await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), trickle)
        .await
        .expect("the connection is not closed while the head arrives slowly");
}

#[tokio::test]
async fn connection_without_a_request_is_closed_after_keep_alive() {
    let (_server, base) = serve(Router::new(), ServerLimits { keep_alive: SOON, ..limits() });
    let start = Instant::now();
    assert!(exchange(&base, PING).await.ends_with("\r\n\r\npong"));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn oversized_head_is_refused() {
    let (_server, base) = serve(Router::new(), limits());
    let head = format!("GET /ping HTTP/1.1\r\nHost: x\r\nX-A: {}", "a".repeat(80 << 10));
    assert_eq!(status(&exchange(&base, head).await), 431);
    let many = "X-A: a\r\n".repeat(200);
    assert_eq!(status(&exchange(&base, format!("GET /ping HTTP/1.1\r\nHost: x\r\n{many}\r\n")).await), 431);
}

#[tokio::test]
async fn idle_connections_are_closed_for_new_requests() {
    let (_server, base) = serve(Router::new(), ServerLimits { connections: 8, per_peer: 8, ..limits() });
    let mut idle = join_all((0..40).map(|_| Raw::connect(&base))).await;
    for raw in idle.iter_mut().take(20) {
        raw.0.try_write(b"GET / HTTP/1.1\r\nX").ok();
    }
    for _ in 0..20 {
        let mut raw = Raw::connect(&base).await;
        raw.send(PING).await;
        assert_eq!(status(&raw.head().await), 200);
    }
}

#[tokio::test]
async fn connection_is_refused_if_all_others_are_busy() {
    let (release, released) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (started, mut starts) = mpsc::unbounded_channel();
    let slow = get({
        let released = release.clone();
        async move || {
            let _ = started.send(());
            released.notified().await;
            "done"
        }
    });
    drop(released);
    let (_server, base) =
        serve(Router::new().route("/slow", slow), ServerLimits { connections: 2, per_peer: 2, ..limits() });
    let mut working = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::connect(&base).await;
        raw.send("GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        starts.recv().await.unwrap();
        working.push(raw);
    }
    let refused = Raw::connect(&base).await.rest().await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("Retry-After: "), "{refused}");
    for mut raw in working {
        release.notify_one();
        assert!(raw.rest().await.ends_with("done"));
    }
}

/// Bytes that close the channel when their last clone is dropped.
struct Chunk(Vec<u8>, #[expect(dead_code, reason = "only its drop matters")] mpsc::Sender<Infallible>);

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[tokio::test]
async fn client_that_does_not_read_is_disconnected() {
    let (held, mut dropped) = mpsc::channel(1);
    let large = move || {
        let held = held.clone();
        async move { Body::from(Bytes::from_owner(Chunk(vec![0; 16 << 20], held))) }
    };
    let limits = ServerLimits { write_timeout: SOON, ..limits() };
    let (server, base) = serve(Router::new().route("/large", get(large)), limits);
    let mut raw = Raw::connect(&base).await;
    raw.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&raw.head().await), 200);
    // The server closes the connection, and with it drops the response.
    tokio::time::timeout(Duration::from_secs(10), server.stop(Duration::from_secs(10)))
        .await
        .expect("the server stops");
    let end = tokio::time::timeout(Duration::from_secs(10), dropped.recv()).await;
    assert!(end.expect("the response is not dropped").is_none());
}

#[tokio::test]
async fn slow_reader_receives_the_whole_response() {
    let (_server, base) = serve(
        Router::new().route("/large", get(|| async { vec![b'a'; 4 << 20] })),
        ServerLimits { write_timeout: Duration::from_secs(2), ..limits() },
    );
    let mut raw = Raw::connect(&base).await;
    raw.send("GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let (mut read, mut buffer) = (0, vec![0; 128 << 10]);
    loop {
        tick.tick().await;
        match tokio::io::AsyncReadExt::read(&mut raw.0, &mut buffer).await.unwrap() {
            0 => break,
            count => read += count,
        }
    }
    assert!(read > 4 << 20);
}

#[tokio::test]
async fn idle_connections_do_not_prevent_messages() {
    let app = TestApp::builder()
        .config(|config| (config.http.max_connections, config.http.connections_per_peer) = (16, 16))
        .start()
        .await;
    let idle = join_all((0..100).map(|_| Raw::connect(&app.base))).await;
    let sent = app.send(serde_json::json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "relayed");
    assert_eq!(ApiResponse::to(app.anonymous(Method::GET, "/healthz")).await.status, 200);
    drop(idle);
}
