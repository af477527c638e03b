//! Tests and people use the inbox: they find a message, wait for one and delete it. Requests of other sites are
//! refused.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use postrider::clock::SystemClock;
use postrider::dev::inbox::Inbox;
use postrider::smtp::inbound::ReceivedMessage;
use serde_json::{Value, json};
use tower::ServiceExt as _;

async fn open(dir: &Path) -> Arc<Inbox> {
    Inbox::open(dir, Arc::new(SystemClock)).await.unwrap()
}

async fn store(inbox: &Inbox, to: &str, content: &str) {
    let (helo, from, to) = ("h".into(), "b+x@return.test".into(), vec![to.into()]);
    let peer = ([127, 0, 0, 1], 25).into();
    inbox
        .store(ReceivedMessage {
            helo,
            from,
            to,
            peer,
            is_secure: false,
            smtputf8: false,
            data: content.as_bytes().to_vec(),
        })
        .await
        .unwrap();
}

fn with_subject(subject: &str) -> String {
    format!("From: Acme <hello@acme.test>\r\nSubject: {subject}\r\n\r\nbody\r\n")
}

async fn call(inbox: &Arc<Inbox>, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let router = postrider::http::finish(postrider::dev::complete(Router::new(), inbox.clone(), false));
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("host", "localhost");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn text(inbox: &Arc<Inbox>, path: &str) -> String {
    let response = call(inbox, "GET", path, &[]).await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap()
}

async fn json(inbox: &Arc<Inbox>, path: &str) -> Value {
    serde_json::from_str(&text(inbox, path).await).unwrap()
}

/// The numbers of the messages in a page.
fn numbers(page: &Value) -> Vec<u64> {
    page["data"].as_array().unwrap().iter().map(|message| message["n"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn messages_are_found_by_recipient_and_subject() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(dir.path()).await;
    store(&inbox, "ann@example.test", &with_subject("Your invoice")).await;
    store(&inbox, "joann@example.test", &with_subject("Your invoice")).await;
    store(&inbox, "ann@example.test", &with_subject("Reset your password")).await;
    for (query, expected) in [
        ("to=ANN@example.test", vec![3, 1]),
        ("to=ann@example.test&subject=INVOICE", vec![1]),
        ("to=ann", vec![3, 2, 1]),
        ("from=hello@acme.test&after=1", vec![3, 2]),
        ("subject=receipt&wait=0", vec![]),
        ("subject=invoice&before=2", vec![1]),
    ] {
        assert_eq!(numbers(&json(&inbox, &format!("/v1/dev/inbox?{query}")).await), expected, "{query}");
    }
    let latest = json(&inbox, "/v1/dev/inbox/latest?to=ann@example.test").await;
    assert_eq!((&latest["n"], &latest["text"]), (&json!(3), &json!("body\r\n")));
    let missing = call(&inbox, "GET", "/v1/dev/inbox/latest?to=nobody@example.test", &[]).await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    for query in ["latest?wait=61", "1?wait=61", "latest?q=1", "?wait=-1"] {
        let path = format!("/v1/dev/inbox/{query}").replace("/?", "?");
        assert_eq!(call(&inbox, "GET", &path, &[]).await.status(), StatusCode::UNPROCESSABLE_ENTITY, "{path}");
    }
}

#[tokio::test]
async fn wait_ends_when_a_matching_message_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(dir.path()).await;
    let arriving = async {
        store(&inbox, "bo@example.test", &with_subject("other")).await;
        store(&inbox, "ann@example.test", &with_subject("wanted")).await;
    };
    let all = async {
        tokio::join!(
            json(&inbox, "/v1/dev/inbox?to=ann@example.test&wait=60"),
            json(&inbox, "/v1/dev/inbox/latest?subject=wanted&wait=60"),
            json(&inbox, "/v1/dev/inbox/2?wait=60"),
            arriving,
        )
    };
    let (listed, latest, second, ()) = tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
    assert_eq!((numbers(&listed), &latest["n"], &second["n"]), (vec![2], &json!(2), &json!(2)));
    // When the process stops, waiting requests return.
    inbox.stop_waiting();
    assert_eq!(numbers(&json(&inbox, "/v1/dev/inbox?subject=never&wait=60").await), [0; 0]);
}

#[tokio::test]
async fn web_page_searches_paginates_and_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(dir.path()).await;
    for n in 1..=120 {
        store(&inbox, "ann@example.test", &with_subject(&format!("Number {n}."))).await;
    }
    let first = text(&inbox, "/inbox").await;
    assert!(first.contains("Number 120.") && first.contains("Number 71.") && !first.contains("Number 70."));
    assert!(first.contains("href=\"/inbox?q=&amp;before=71\"") && first.contains("data-last=\"120\""), "{first}");
    let last = text(&inbox, "/inbox?q=&before=21").await;
    assert!(last.contains("Number 1.") && !last.contains("Older messages") && !last.contains("data-live"));
    let found = text(&inbox, "/inbox?q=number+7.").await;
    assert_eq!(found.matches("<li>").count(), 1, "{found}");
    let same_site = [("host", "127.0.0.1:8080"), ("sec-fetch-site", "same-origin")];
    let deleted = call(&inbox, "POST", "/inbox/7/delete", &same_site).await;
    assert_eq!(
        (deleted.status(), &deleted.headers()[header::LOCATION]),
        (StatusCode::SEE_OTHER, &"/inbox".parse().unwrap())
    );
    assert_eq!(call(&inbox, "GET", "/inbox/7", &[]).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(call(&inbox, "DELETE", "/v1/dev/inbox/8", &[]).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(call(&inbox, "DELETE", "/v1/dev/inbox/8", &[]).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(call(&inbox, "POST", "/inbox/clear", &same_site).await.status(), StatusCode::SEE_OTHER);
    assert!(text(&inbox, "/inbox").await.contains("No messages yet"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn only_images_in_the_message_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(dir.path()).await;
    let part = |kind: &str, id: &str| {
        format!(
            "--m\r\nContent-Type: {kind}\r\nContent-ID: <{id}>\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n"
        )
    };
    let content = format!(
        "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/related; boundary=m\r\n\r\n\
         --m\r\nContent-Type: text/html\r\n\r\n<img src=\"cid:logo@a.test\"><img src=\"cid:page@a.test\">\
         <img src=\"https://tracker.example/x.png\">\r\n{}{}--m--\r\n",
        part("image/png", "logo@a.test"),
        part("text/html", "page@a.test"),
    );
    store(&inbox, "ann@example.test", &content).await;
    let response = call(&inbox, "GET", "/inbox/1/html", &[]).await;
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    // Links to other sites stay in the HTML, but the browser may not load them.
    assert!(policy.contains("img-src data:;") && policy.contains("default-src 'none'"), "{policy}");
    let html = String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap();
    assert!(html.contains("<img src=\"data:image/png;base64,iVBORw0KGgo=\">"), "{html}");
    assert!(html.contains("cid:page@a.test") && !html.contains("data:text/html"), "{html}");
}

#[tokio::test]
async fn requests_of_other_sites_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(dir.path()).await;
    store(&inbox, "ann@example.test", &with_subject("secret")).await;
    for path in ["/v1/dev/inbox", "/inbox/1", "/v1/dev/inbox/1/raw", "/dev/hooks"] {
        let rebound = call(&inbox, "GET", path, &[("host", "rebind.evil.example:8080")]).await;
        assert_eq!(rebound.status(), StatusCode::MISDIRECTED_REQUEST, "{path}");
        assert_eq!(rebound.headers()[header::CONTENT_TYPE], "application/problem+json");
        for host in ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "inbox:8025", "host.docker.internal:8080"] {
            assert_eq!(call(&inbox, "GET", path, &[("host", host)]).await.status(), StatusCode::OK, "{host}{path}");
        }
    }
    for headers in [
        [("host", "127.0.0.1:8080"), ("sec-fetch-site", "cross-site")],
        [("host", "127.0.0.1:8080"), ("origin", "https://evil.example")],
    ] {
        for path in ["/inbox/clear", "/inbox/1/delete", "/dev/hooks"] {
            assert_eq!(call(&inbox, "POST", path, &headers).await.status(), StatusCode::FORBIDDEN, "{path}");
        }
    }
    assert_eq!(numbers(&json(&inbox, "/v1/dev/inbox").await), [1]);
}

#[tokio::test]
async fn only_the_owner_can_read_message_files() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().unwrap();
    let inbox = dir.path().join("inbox");
    store(&*open(&inbox).await, "ann@example.test", &with_subject("secret")).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let files = ["000001.eml", "000001.json"].map(|name| inbox.join(name));
    assert_eq!((mode(&inbox), files.each_ref().map(|file| mode(file))), (0o700, [0o600; 2]));
    // The files of an earlier version become private.
    for file in &files {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    open(&inbox).await;
    assert_eq!(files.each_ref().map(|file| mode(file)), [0o600; 2]);
}
