//! The inbox receives a message over SMTP and returns it over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use axum::response::Response;
use postrider::clock::SystemClock;
use postrider::dev::inbox::Inbox;
use postrider::smtp::inbound::{Server, Settings};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::support::inbound_client::Client;

const MESSAGE: &str = "From: Ann <ann@a.test>\r\nTo: bo@b.test\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\
    MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=m\r\n\r\n\
    --m\r\nContent-Type: text/plain\r\n\r\nhello\r\n\
    --m\r\nContent-Type: text/html\r\nContent-Disposition: attachment; filename=\"a b\\\".html\"\r\n\r\n<p>\r\n--m--\r\n";

/// Returns an inbox that has received [`MESSAGE`].
async fn inbox_with_a_message(dir: &tempfile::TempDir) -> Arc<Inbox> {
    let inbox = Inbox::open(dir.path(), Arc::new(SystemClock)).await.expect("an inbox");
    let server = Server::bind("127.0.0.1:0", Settings::default(), inbox.clone()).await.expect("a port");
    let mut client = {
        let address = server.local_addr();
        tokio::spawn(server.run(CancellationToken::new()));
        Client::connect(address).await
    };
    let mut received = inbox.received();
    client.send("EHLO x\r\nMAIL FROM:<r@a.test>\r\nRCPT TO:<bo@b.test>\r\nRCPT TO:<bcc@b.test>\r\nDATA\r\n").await;
    assert_eq!(client.codes(5).await, [250, 250, 250, 250, 354]);
    client.send(&format!("{MESSAGE}.\r\n")).await;
    received.wait_for(|count| *count == 1).await.expect("a message");
    assert_eq!(client.reply().await, "250 2.0.0 Message 1 is in the inbox\r\n");
    inbox
}

async fn call(inbox: &Arc<Inbox>, method: Method, path: &str) -> Response {
    send(
        inbox,
        Request::builder().method(method).uri(path).header(header::HOST, "localhost").body(Body::empty()).unwrap(),
    )
    .await
}

async fn send(inbox: &Arc<Inbox>, request: Request<Body>) -> Response {
    let router = postrider::http::finish(postrider::dev::complete(Router::new(), inbox.clone(), false));
    router.oneshot(request).await.unwrap()
}

async fn get(inbox: &Arc<Inbox>, path: &str) -> Response {
    call(inbox, Method::GET, path).await
}

async fn bytes(response: Response) -> Vec<u8> {
    to_bytes(response.into_body(), 1 << 20).await.expect("a body").to_vec()
}

async fn body(response: Response) -> Value {
    serde_json::from_slice(&bytes(response).await).expect("JSON")
}

#[tokio::test]
async fn message_is_listed_and_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let inbox = inbox_with_a_message(&dir).await;
    let page = body(get(&inbox, "/v1/dev/inbox").await).await;
    assert_eq!((&page["has_more"], &page["next"]), (&json!(false), &json!(null)));
    let message = body(get(&inbox, "/v1/dev/inbox/1").await).await;
    for field in ["n", "received_at", "envelope", "subject", "from", "to", "size"] {
        assert_eq!(message[field], page["data"][0][field], "{field}");
    }
    assert_eq!(message["envelope"], json!({"from": "r@a.test", "to": ["bo@b.test", "bcc@b.test"], "helo": "x"}));
    assert_eq!(
        (&message["subject"], &message["text"], &message["html"]),
        (&json!("Grüße"), &json!("hello"), &json!(null))
    );
    assert_eq!(message["headers"][0], json!({"name": "From", "value": "Ann <ann@a.test>"}));
    assert_eq!(message["attachments"][0]["filename"], "a b\".html");
}

#[tokio::test]
async fn raw_message_is_returned_byte_for_byte() {
    let dir = tempfile::tempdir().expect("a directory");
    let inbox = inbox_with_a_message(&dir).await;
    let raw = get(&inbox, "/v1/dev/inbox/1/raw").await;
    assert_eq!(raw.headers()[header::CONTENT_TYPE], "message/rfc822");
    assert_eq!(bytes(raw).await, MESSAGE.as_bytes());
}

#[tokio::test]
async fn attachment_is_always_a_download() {
    let dir = tempfile::tempdir().expect("a directory");
    let inbox = inbox_with_a_message(&dir).await;
    let file = get(&inbox, "/v1/dev/inbox/1/attachments/0").await;
    assert_eq!(file.headers()[header::CONTENT_TYPE], "text/html");
    assert_eq!(file.headers()[header::CONTENT_DISPOSITION], "attachment; filename*=UTF-8''a%20b%22.html");
    assert_eq!(file.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(bytes(file).await, b"<p>");
}

#[tokio::test]
async fn missing_message_or_invalid_query_is_a_problem() {
    let dir = tempfile::tempdir().expect("a directory");
    let inbox = inbox_with_a_message(&dir).await;
    for path in ["2", "x", "2/raw", "1/attachments/1", "1/attachments/-1", "18446744073709551616"] {
        let response = get(&inbox, &format!("/v1/dev/inbox/{path}")).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(body(response).await["code"], "not_found");
    }
    for query in ["limit=0", "limit=101", "limit=x", "before=-1", "other=1"] {
        let response = get(&inbox, &format!("/v1/dev/inbox?{query}")).await;
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY, "{query}");
    }
}

#[tokio::test]
async fn inbox_can_be_emptied() {
    let dir = tempfile::tempdir().expect("a directory");
    let inbox = inbox_with_a_message(&dir).await;
    assert_eq!(call(&inbox, Method::DELETE, "/v1/dev/inbox").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(body(get(&inbox, "/v1/dev/inbox").await).await["data"], json!([]));
}

#[tokio::test]
async fn web_pages_run_no_scripts_of_messages() {
    let dir = tempfile::tempdir().expect("a directory");
    let inbox = inbox_with_a_message(&dir).await;
    for (path, shown) in [("/inbox", "Grüße</span>"), ("/inbox/1", "a b&quot;.html"), ("/inbox/1/html", "")] {
        let response = get(&inbox, path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().expect("text").to_owned();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe-eval"), "{path}: {policy}");
        // The inbox's pages run their own script; a message's HTML runs none.
        let is_message = path.ends_with("/html");
        assert_eq!(policy.starts_with("sandbox;"), is_message);
        assert_eq!(policy.contains("script-src 'self'"), !is_message, "{path}: {policy}");
        assert!(String::from_utf8(bytes(response).await).expect("text").contains(shown), "{path}");
    }
    assert_eq!(get(&inbox, "/inbox/2").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(get(&inbox, "/inbox/style.css").await.headers()[header::CONTENT_TYPE], "text/css");
    assert_eq!(get(&inbox, "/inbox/live.js").await.headers()[header::CONTENT_TYPE], "text/javascript");
}
