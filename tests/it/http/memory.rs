//! Large bodies, slow queries and streams: no client blocks others or exceeds its limits.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::{join_all, select_all};
use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};
use crate::support::clock::hours;
use crate::support::raw_http::{Raw, exchange, status};
use crate::support::until::until;

/// Returns the head of an upload, and the first `begin` bytes of its body.
fn upload(api: &Api, length: usize, begin: usize) -> String {
    let Api { key, .. } = api;
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    head + &" ".repeat(begin)
}

#[tokio::test]
async fn stalled_uploads_do_not_block_others() {
    let app = TestApp::start().await;
    let sender = app.with_scopes(&[Scope::Send]).await;
    let mut stalled = Vec::new();
    for begin in [1, 100 << 10, 100 << 10, 100 << 10] {
        let mut raw = Raw::connect(&app.base).await;
        raw.send(upload(&sender, 40 << 20, begin)).await;
        stalled.push(raw);
    }
    let large = json!({"attachments": [{"filename": "a", "content": STANDARD.encode(vec![0; 1 << 20])}]});
    let sent = tokio::time::timeout(Duration::from_secs(5), join_all((0..4).map(|_| app.send(large.clone()))));
    assert_eq!(sent.await.expect("a request waits for the stalled uploads").len(), 4);
}

#[tokio::test]
async fn clients_that_do_not_read_do_not_block_others() {
    let app = TestApp::builder()
        .config(|config| (config.accept.max_body_mib, config.accept.body_memory_mib) = (8, 8))
        .start()
        .await;
    let content = STANDARD.encode(vec![7; 2 << 20]);
    let sent = app.send(json!({"attachments": [{"filename": "a", "content": content}]})).await;
    let reader = app.with_scopes(&[Scope::Read]).await;
    let mut silent = Vec::new();
    for path in ["raw", "attachments/0"].iter().cycle().take(12) {
        let mut raw = Raw::connect(&app.base).await;
        let (id, key) = (&sent.id, &reader.key);
        raw.send(format!("GET /v1/messages/{id}/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"))
            .await;
        silent.push(raw);
    }
    let heads = silent.iter_mut().map(|raw| Box::pin(raw.head()));
    assert_eq!(status(&select_all(heads).await.0), 200);
    let path = format!("/v1/messages/{}/attachments/0", sent.id);
    let own_response =
        tokio::time::timeout(Duration::from_secs(10), app.get(&path)).await.expect("the request is blocked");
    assert_eq!((own_response.status, own_response.bytes.len()), (200, 2 << 20));
    assert_eq!(own_response.headers["content-length"], (2_u32 << 20).to_string());
}

#[tokio::test]
async fn bodies_of_settings_are_limited_to_1_mib() {
    let app = TestApp::start().await;
    let large = json!({"name": "x".repeat(2 << 20)});
    assert_eq!(app.post("/v1/streams", &large).await.problem(), (413, "too_large"));
}

#[tokio::test]
async fn slow_queries_of_one_key_do_not_block_others() {
    let app = TestApp::start().await;
    let (greedy, other) = (app.with_scopes(&[Scope::Read]).await, app.with_scopes(&[Scope::Read]).await);
    let mut lock = app.database.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE messages").execute(&mut lock).await.unwrap();
    let slow: Vec<_> = (0..10)
        .map(|_| {
            let greedy = greedy.clone();
            tokio::spawn(async move { greedy.request(Method::GET, "/v1/messages").send().await.unwrap().status() })
        })
        .collect();
    let list = tokio::time::timeout(Duration::from_secs(3), other.get("/v1/suppressions?limit=1"));
    assert_eq!(list.await.expect("the request is blocked").status, 200);
    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap();
    for status in join_all(slow).await {
        assert_eq!(status.unwrap(), 200);
    }
}

const LOCK_WAITS: &str = "SELECT count(*) FROM pg_stat_activity
                          WHERE datname = current_database() AND wait_event_type = 'Lock'";

#[tokio::test]
async fn slow_queries_of_a_tenants_keys_do_not_block_others() {
    let app = TestApp::start().await;
    let keys = [app.with_scopes(&[Scope::Read]).await, app.with_scopes(&[Scope::Read]).await];
    let created = app.post("/v1/tenants", &json!({"name": "other"})).await;
    let key = json!({"name": "reader", "tenant": created.body["id"], "scopes": ["read"]});
    let other = app.with_key(app.post("/v1/keys", &key).await.body["secret"].as_str().unwrap());
    let mut lock = app.database.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE messages").execute(&mut lock).await.unwrap();
    let slow: Vec<_> = (0..6)
        .map(|n| {
            let greedy = keys[n % 2].clone();
            tokio::spawn(async move { greedy.request(Method::GET, "/v1/messages").send().await.unwrap().status() })
        })
        .collect();
    let (mut watching, waits) = (app.database.connect().await, LOCK_WAITS);
    until("three queries wait", Duration::from_secs(4), async || {
        let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&mut watching).await.unwrap();
        if waiting >= 3 { Ok(()) } else { Err(waiting) }
    })
    .await;
    let list = tokio::time::timeout(Duration::from_secs(3), other.get("/v1/suppressions?limit=1"));
    assert_eq!(list.await.expect("the request is blocked").status, 200);
    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap();
    for status in join_all(slow).await {
        let status = status.unwrap().as_u16();
        assert!(status == 200 || status == 503, "{status}");
    }
}

#[tokio::test]
async fn revoked_key_ends_its_streams_and_long_polls() {
    let app = TestApp::start().await;
    let created = app.post("/v1/keys", &json!({"name": "reader", "scopes": ["read"]})).await;
    let (id, key) = (created.body["id"].as_str().unwrap(), created.body["secret"].as_str().unwrap());
    let reader = app.with_key(key);
    let request = reader.request(Method::GET, "/v1/events?after=latest").header("accept", "text/event-stream");
    let mut stream = request.send().await.unwrap();
    assert_eq!(stream.status(), 200);
    assert!(stream.chunk().await.unwrap().is_some(), "the stream has started");
    let poll = tokio::spawn(async move { reader.get("/v1/events?after=latest&wait=55").await });
    assert_eq!(app.delete(&format!("/v1/keys/{id}")).await.status, 204);
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        while stream.chunk().await.unwrap_or_default().is_some() {}
        poll.await.unwrap()
    });
    assert_eq!(ended.await.expect("the stream does not end").problem(), (401, "unauthorized"));
}

#[tokio::test]
async fn upload_is_refused_if_its_key_is_revoked_meanwhile() {
    let app = TestApp::start().await;
    let created = app.post("/v1/keys", &json!({"name": "leaked", "scopes": ["admin"]})).await;
    let (id, key) = (created.body["id"].as_str().unwrap(), created.body["secret"].as_str().unwrap());
    let message = json!({"from": "a@acme.test", "to": "b@example.test", "subject": "s", "text": "t"}).to_string();
    let mut uploads = Vec::new();
    for (path, kind, body) in [
        ("/v1/keys", "application/json", r#"{"name": "another", "scopes": ["admin"]}"#),
        ("/v1/messages", "application/json", &message),
        ("/v1/suppressions/import", "text/csv", "victim@example.test\n"),
        ("/v1/inbound", "message/rfc822", "Subject: x\r\n\r\nx"),
    ] {
        let mut raw = Raw::connect(&app.base).await;
        let (length, (begin, rest)) = (body.len(), body.split_at(5));
        raw.send(format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: {kind}\r\n\
             Expect: 100-continue\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        ))
        .await;
        assert_eq!(status(&raw.head().await), 100, "{path}: the key is valid");
        raw.send(begin).await;
        uploads.push((path, raw, rest.to_owned()));
    }
    assert_eq!(app.delete(&format!("/v1/keys/{id}")).await.status, 204);
    for (path, mut raw, rest) in uploads {
        raw.send(rest).await;
        assert_eq!(status(&raw.rest().await), 401, "{path}");
    }
    assert_eq!(app.get("/v1/messages").await.body["data"], json!([]));
    assert_eq!(app.get("/v1/suppressions").await.body["data"], json!([]));
    let keys = app.get("/v1/keys").await.body["data"].to_string();
    assert!(!keys.contains("another"), "{keys}");
}

#[tokio::test]
async fn expired_key_ends_its_event_stream() {
    let app = TestApp::start().await;
    let created = app
        .post("/v1/keys", &json!({"name": "guest", "scopes": ["read"], "expires_at": app.clock.text_in(hours(1))}))
        .await;
    let reader = app.with_key(created.body["secret"].as_str().unwrap());
    let request = reader.request(Method::GET, "/v1/events?after=latest").header("accept", "text/event-stream");
    let mut stream = request.send().await.unwrap();
    assert!(stream.status() == 200 && stream.chunk().await.unwrap().is_some(), "the stream has started");
    app.clock.advance(hours(1));
    let ended = async { while stream.chunk().await.unwrap_or_default().is_some() {} };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the stream does not end");
}

/// Returns the head and the whole body of an upload.
fn whole_upload(api: &Api, length: usize) -> String {
    upload(api, length, length)
}

#[tokio::test]
async fn connection_stays_open_after_a_refused_upload() {
    let app = TestApp::builder().config(|config| config.accept.max_body_mib = 1).start().await;
    let mut raw = Raw::connect(&app.base).await;
    for (api, expected) in [(app.with_key("pr_wrong"), 401), (app.api().clone(), 413), (app.with_key("pr_wrong"), 401)]
    {
        raw.send(whole_upload(&api, 20 << 20)).await;
        let response = raw.response().await;
        assert_eq!(status(&response), expected, "{response}");
    }
    raw.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&raw.response().await), 200);
    let expecting =
        upload(&app.with_key("pr_wrong"), 20 << 20, 0).replace("Host: x", "Host: x\r\nExpect: 100-continue");
    let response = exchange(&app.base, expecting).await;
    assert!(status(&response) == 401 && response.contains("connection: close"), "{response}");
}

#[tokio::test]
async fn event_streams_per_key_are_limited() {
    let app = TestApp::start().await;
    let reader = app.with_scopes(&[Scope::Read]).await;
    let open = || reader.request(Method::GET, "/v1/events?after=latest").header("accept", "text/event-stream").send();
    let streams: Vec<_> = join_all((0..100).map(|_| open())).await.into_iter().map(Result::unwrap).collect();
    assert!(streams.iter().all(|stream| stream.status() == 200));
    let refused = open().await.unwrap();
    assert!(refused.status() == 503 && refused.headers().contains_key("retry-after"));
    let own_response = app.request(Method::GET, "/v1/events?after=latest").header("accept", "text/event-stream");
    assert_eq!(own_response.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn upload_with_unknown_key_is_refused_before_its_body() {
    let app = TestApp::start().await;
    let response = exchange(&app.base, upload(&app.with_key("pr_wrong"), 40 << 20, 1)).await;
    assert_eq!(status(&response), 401);
    let _ = ApiResponse::to(app.anonymous(Method::GET, "/healthz")).await;
}
