//! Attachments that are given as URLs (`path`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Redirect;
use axum::routing::get as on_get;
use futures_util::stream;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{Response, email, get, post, send};
use crate::support::app::{TestApp, TestAppBuilder};
use crate::support::client::Api;
use crate::support::dns::DnsServer;
use crate::support::until::until;

const LIMIT: Duration = Duration::from_secs(20);

/// Bytes of every value, in more than one chunk of the database.
fn pdf() -> Vec<u8> {
    (0..=255).cycle().take(1_300_000).collect()
}

/// A server with files; it stops when it is dropped.
struct Files {
    address: SocketAddr,
    /// Number of requests for files.
    hits: Arc<AtomicUsize>,
    /// Lets `/held.txt` respond.
    gate: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Files {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hits, gate) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
        let (count, opened) = (hits.clone(), gate.clone());
        let router = Router::new()
            .route("/invoice.pdf", on_get(|| async { ([("content-type", "text/html")], pdf()) }))
            .route("/small.txt", on_get(|| async { "hello" }))
            .route("/moved", on_get(|| async { Redirect::temporary("/small.txt") }))
            .route("/packed", on_get(|| async { ([("content-encoding", "gzip")], "packed") }))
            .route(
                "/endless",
                on_get(|| async {
                    Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0; 64 << 10])))
                }),
            )
            .route("/silent", on_get(std::future::pending::<()>))
            .route(
                "/held.txt",
                on_get(move || {
                    let opened = opened.clone();
                    async move {
                        opened.notified().await;
                        "late"
                    }
                }),
            )
            .layer(axum::middleware::map_request(move |request: axum::extract::Request| {
                count.fetch_add(1, Ordering::Relaxed);
                async { request }
            }));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, hits, gate, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::Relaxed)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns a builder that permits downloads from this machine.
fn builder() -> TestAppBuilder {
    super::builder().config(|config| {
        config.resend.fetch_allow = vec!["127.0.0.1".into()];
        config.resend.fetch_timeout = Duration::from_secs(2);
    })
}

/// Returns a message with one attachment.
fn with_path(url: &str) -> Value {
    email(json!({"attachments": [{"path": url}]}))
}

async fn attachments(app: &TestApp, id: &str) -> Vec<Value> {
    get(app, &format!("/emails/{id}/attachments")).await.ok()["data"].as_array().unwrap().clone()
}

#[tokio::test]
async fn file_at_a_url_is_attached() {
    let (app, files) = (builder().start().await, Files::start().await);
    let attached = json!([
        {"path": files.url("/invoice.pdf?signature=a%2Fb"), "content": ""},
        {"path": files.url("/small.txt"), "filename": "list.csv", "content_id": "list"},
        {"content": "aGk=", "filename": "hi.txt"},
    ]);
    let id = send(&app, json!({"attachments": attached})).await;
    let shown = attachments(&app, &id).await;
    let of = |field: &str| shown.iter().map(|file| file[field].clone()).collect::<Vec<_>>();
    assert_eq!(of("filename"), ["invoice.pdf", "list.csv", "hi.txt"]);
    assert_eq!(of("content_type"), ["application/pdf", "text/csv", "text/plain"], "derived from the names");
    assert_eq!(of("size"), [1_300_000, 5, 2]);
    let first = reqwest::get(shown[0]["download_url"].as_str().unwrap()).await.unwrap();
    assert_eq!(first.bytes().await.unwrap(), pdf());
    app.run_until_idle().await;
    let mime = String::from_utf8(app.smtp.messages().remove(0).raw).unwrap();
    assert!(mime.contains("invoice.pdf") && mime.contains("list.csv"), "both files are sent");
    assert_eq!(files.hits(), 2);
}

#[tokio::test]
async fn batch_downloads_a_shared_file_once() {
    let (app, files) = (builder().start().await, Files::start().await);
    let body = json!(vec![with_path(&files.url("/small.txt")); 5]);
    let sent = post(&app, "/emails/batch", &body).await.ok();
    for email in sent["data"].as_array().unwrap() {
        assert_eq!(attachments(&app, email["id"].as_str().unwrap()).await[0]["size"], 5);
    }
    assert_eq!(files.hits(), 1);
}

#[tokio::test]
async fn repeated_request_downloads_nothing() {
    let (app, files) = (builder().start().await, Files::start().await);
    let keyed = |path: &'static str, key: &'static str, body: Value| {
        Response::to(app.request(Method::POST, path).header("idempotency-key", key).json(&body))
    };
    let (one, other) = (with_path(&files.url("/small.txt")), with_path(&files.url("/invoice.pdf")));
    let first = keyed("/emails", "one", one.clone()).await.ok();
    assert_eq!(keyed("/emails", "one", one.clone()).await.ok(), first);
    assert_eq!(keyed("/emails", "one", other.clone()).await.error(), (409, "invalid_idempotent_request"));
    assert_eq!(files.hits(), 1);
    let first = keyed("/emails/batch", "two", json!([one])).await.ok();
    assert_eq!(keyed("/emails/batch", "two", json!([one])).await.ok(), first);
    assert_eq!(keyed("/emails/batch", "two", json!([other])).await.error(), (409, "invalid_idempotent_request"));
    assert_eq!(files.hits(), 2);
}

#[tokio::test]
async fn failed_download_is_a_fault_of_the_attachment() {
    let app = builder().config(|config| config.accept.max_upload_mib = 1).start().await;
    let files = Files::start().await;
    for (path, reason) in [
        (files.url("/nothing"), "the server responded with 404"),
        (files.url("/moved"), "the server redirects with 307"),
        (files.url("/packed"), "`Content-Encoding`"),
        (files.url("/endless"), "at most 1048576 bytes together"),
        (files.url("/invoice.pdf"), "at most 1048576 bytes together"),
        (files.url("/silent"), "did not arrive within 2 s"),
        ("http://127.0.0.1:1/a.pdf".into(), "cannot download the file"),
        ("./invoice.pdf".into(), "must be a URL"),
        ("file:///etc/passwd".into(), "must begin with https://"),
        ("https://user:secret@files.test/a.pdf".into(), "must not contain a user name"),
        (format!("https://files.test/{}", "x".repeat(9_000)), "at most 8192 characters"),
    ] {
        let refused = post(&app, "/emails", &with_path(&path)).await;
        assert_eq!(refused.error(), (422, "invalid_attachment"), "{path}");
        let message = refused.message();
        assert!(message.starts_with("Invalid `attachments[0].path` field: ") && message.contains(reason), "{message}");
    }
    let number = email(json!({"attachments": [{"path": 5}]}));
    assert!(post(&app, "/emails", &number).await.message().contains("expected a string"));
    assert_eq!(get(&app, "/emails").await.ok()["data"], json!([]));
}

#[tokio::test]
async fn private_addresses_are_not_downloaded_from() {
    let (dns, files) = (DnsServer::start().await, Files::start().await);
    dns.add_address("files.test", "127.0.0.1");
    let app = super::builder().config(|config| config.dns = Some(dns.address())).start().await;
    let port = files.address.port();
    let azure = ["168.63.129.16", "2822734096", "[::ffff:168.63.129.16]"];
    let hosts = ["127.0.0.1", "127.1", "[::1]", "10.0.0.1", "169.254.169.254", "files.test"];
    for host in hosts.into_iter().chain(azure) {
        let refused = post(&app, "/emails", &with_path(&format!("http://{host}:{port}/small.txt"))).await;
        assert_eq!(refused.error(), (422, "invalid_attachment"), "{host}");
        let message = refused.message();
        assert!(message.contains("`resend.fetch_allow`"), "{message}");
        assert!(host != "files.test" || !message.contains("127.0.0.1"), "the address is not revealed: {message}");
    }
    assert_eq!(files.hits(), 0);
}

#[tokio::test]
async fn permissive_batch_lists_failed_downloads() {
    let (app, files) = (builder().start().await, Files::start().await);
    let body = json!([with_path(&files.url("/small.txt")), with_path(&files.url("/nothing")), email(json!({}))]);
    let strict = post(&app, "/emails/batch", &body).await;
    assert_eq!(strict.error(), (422, "invalid_attachment"));
    assert!(strict.message().starts_with("Invalid `[1].attachments[0].path` field"), "{}", strict.message());
    let request = app.request(Method::POST, "/emails/batch").header("x-batch-validation", "permissive");
    let sent = Response::to(request.json(&body)).await.ok();
    assert_eq!((sent["data"].as_array().unwrap().len(), &sent["errors"][0]["index"]), (2, &json!(1)));
    assert!(sent["errors"][0]["message"].as_str().unwrap().contains("responded with 404"), "{sent}");
}

#[tokio::test]
async fn downloads_can_be_switched_off() {
    let app = builder().config(|config| config.resend.fetch_attachments = false).start().await;
    let files = Files::start().await;
    let refused = post(&app, "/emails", &with_path(&files.url("/small.txt"))).await;
    assert_eq!(refused.error(), (422, "invalid_attachment"));
    assert!(refused.message().contains("`resend.fetch_attachments` is off"), "{}", refused.message());
    assert_eq!(files.hits(), 0);
}

#[tokio::test]
async fn request_cannot_cause_many_downloads() {
    let (app, files) = (builder().start().await, Files::start().await);
    let path = |n: usize| json!({"path": files.url(&format!("/{n}"))});
    let one = email(json!({"attachments": (0..21).map(path).collect::<Vec<_>>()}));
    assert_eq!(post(&app, "/emails", &one).await.error(), (422, "invalid_attachment"));
    let many: Vec<Value> = (0..51).map(|n| email(json!({"attachments": [path(2 * n), path(2 * n + 1)]}))).collect();
    let refused = post(&app, "/emails/batch", &json!(many)).await;
    assert!(refused.message().contains("at most 100 different URLs"), "{}", refused.message());
    assert_eq!(files.hits(), 0);
}

#[tokio::test]
async fn refused_message_downloads_nothing() {
    let (app, files) = (builder().start().await, Files::start().await);
    let file = json!([{"path": files.url("/small.txt"), "content_type": "message/rfc822"}]);
    let refused = post(&app, "/emails", &email(json!({"to": ["nobody"], "attachments": file}))).await;
    assert!(refused.status == 422 && refused.message().contains("`to"), "{}", refused.message());
    let key = json!({"name": "shop", "scopes": ["send"], "sender_domains": ["shop.test"]});
    let shop = app.api().with_key(app.post("/v1/keys", &key).await.body["secret"].as_str().unwrap());
    let refused = post(&shop, "/emails", &email(json!({"attachments": file}))).await;
    assert_eq!(refused.error(), (403, "validation_error"));
    assert_eq!(files.hits(), 0);
}

/// Creates a tenant; returns its id, and a client with a key of it.
async fn tenant(app: &TestApp) -> (String, Api) {
    let id = app.post("/v1/tenants", &json!({"name": "other"})).await.body["id"].as_str().unwrap().to_owned();
    let key = app.post("/v1/keys", &json!({"name": "shop", "scopes": ["send", "read"], "tenant": id})).await;
    (id, app.api().with_key(key.body["secret"].as_str().unwrap()))
}

/// Waits until this many files were requested.
async fn hits(files: &Files, count: usize) {
    until("downloads run", LIMIT, async || if files.hits() == count { Ok(()) } else { Err(files.hits()) }).await;
}

#[tokio::test]
async fn slow_downloads_of_a_tenant_do_not_block_others() {
    let app = builder().config(|config| config.resend.fetch_timeout = Duration::from_mins(1)).start().await;
    let ((_, greedy), files) = (tenant(&app).await, Files::start().await);
    let silent = |n: usize| json!({"path": files.url(&format!("/silent?{n}"))});
    let body = email(json!({"attachments": (0..4).map(silent).collect::<Vec<_>>()}));
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let (greedy, body) = (greedy.clone(), body.clone());
            tokio::spawn(async move { post(&greedy, "/emails", &body).await.status })
        })
        .collect();
    hits(&files, 8).await;
    let sent = send(&app, json!({"attachments": [{"path": files.url("/small.txt")}]}));
    tokio::time::timeout(LIMIT, sent).await.expect("the request is blocked");
    assert_eq!(files.hits(), 9, "the greedy tenant has eight at a time");
    waiting.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn key_revoked_during_a_download_sends_nothing() {
    let (app, files) = (builder().start().await, Files::start().await);
    let created = app.post("/v1/keys", &json!({"name": "leaked", "scopes": ["send"]})).await;
    let leaked = app.api().with_key(created.body["secret"].as_str().unwrap());
    let body = with_path(&files.url("/held.txt"));
    let sending = tokio::spawn(async move { post(&leaked, "/emails", &body).await.status });
    hits(&files, 1).await;
    let path = format!("/v1/keys/{}", created.body["id"].as_str().unwrap());
    assert_eq!(app.delete(&path).await.status, 204);
    files.gate.notify_one();
    assert_eq!(sending.await.unwrap(), 403);
    assert_eq!(get(&app, "/emails").await.ok()["data"], json!([]));
}

#[tokio::test]
async fn tenant_suspended_during_a_download_sends_nothing() {
    let (app, files) = (builder().start().await, Files::start().await);
    let (id, api) = tenant(&app).await;
    let body = with_path(&files.url("/held.txt"));
    let sending = tokio::spawn({
        let api = api.clone();
        async move { post(&api, "/emails", &body).await }
    });
    hits(&files, 1).await;
    assert_eq!(app.post(&format!("/v1/tenants/{id}/suspend"), &json!({})).await.status, 200);
    files.gate.notify_one();
    let refused = sending.await.unwrap();
    assert_eq!(refused.error(), (403, "validation_error"));
    assert!(refused.message().contains("suspended"), "{}", refused.message());
    assert_eq!(get(&api, "/emails").await.ok()["data"], json!([]));
}

#[tokio::test]
async fn quota_set_during_a_download_applies() {
    let (app, files) = (builder().start().await, Files::start().await);
    let attached = json!([{"path": files.url("/held.txt")}]);
    let body = email(json!({"to": ["ann@example.test", "bo@example.test"], "attachments": attached}));
    for (path, body) in [("/emails", body.clone()), ("/emails/batch", json!([body]))] {
        let created = app.post("/v1/keys", &json!({"name": "shop", "scopes": ["send"]})).await;
        let key = app.api().with_key(created.body["secret"].as_str().unwrap());
        let before = files.hits();
        let sending = tokio::spawn(async move { post(&key, path, &body).await });
        hits(&files, before + 1).await;
        let key = format!("/v1/keys/{}", created.body["id"].as_str().unwrap());
        assert_eq!(app.patch(&key, &json!({"quota": {"recipients_per_day": 1}})).await.status, 200);
        files.gate.notify_one();
        assert_eq!(sending.await.unwrap().error(), (429, "daily_quota_exceeded"), "{path}");
    }
    assert_eq!(get(&app, "/emails").await.ok()["data"], json!([]));
}
