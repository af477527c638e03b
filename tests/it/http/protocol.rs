//! Requirements of RFC 9110 and RFC 9112 for a server, tested with bytes on a socket.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::raw_http::{exchange, status};

#[tokio::test]
async fn request_has_exactly_one_valid_host() {
    let app = TestApp::start().await;
    for (line, hosts, expected) in [
        ("GET /healthz HTTP/1.1", "Host: x\r\n", 200),
        ("GET /healthz HTTP/1.1", "Host: [::1]:8080\r\n", 200),
        ("GET http://other.test/healthz HTTP/1.1", "Host: x\r\n", 200),
        ("GET /healthz HTTP/1.0", "", 200),
        ("GET /healthz HTTP/1.1", "", 400),
        ("GET http://other.test/healthz HTTP/1.1", "", 400),
        ("GET /healthz HTTP/1.1", "Host: x\r\nHost: x\r\n", 400),
        ("GET /healthz HTTP/1.0", "Host: x\r\nHost: y\r\n", 400),
        ("GET /healthz HTTP/1.1", "Host: a b\r\n", 400),
        ("GET /healthz HTTP/1.1", "Host: user@x\r\n", 400),
        ("GET /docs/ HTTP/1.1", "", 400),
        ("GET /nowhere HTTP/1.1", "", 400),
    ] {
        let response = exchange(&app.base, format!("{line}\r\n{hosts}Connection: close\r\n\r\n")).await;
        assert_eq!(status(&response), expected, "{line} {hosts:?}: {response}");
        if expected == 400 {
            assert!(response.contains("application/problem+json") && response.contains("x-request-id: "), "{response}");
        }
    }
}

#[tokio::test]
async fn ambiguous_framing_is_refused_and_ends_the_connection() {
    let app = TestApp::start().await;
    let smuggled = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    for framing in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length : 5\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
    ] {
        let request = format!("POST /v1/messages HTTP/1.1\r\nHost: x\r\n{framing}\r\n{smuggled}");
        let response = exchange(&app.base, request).await;
        assert_eq!((status(&response), response.matches("HTTP/1.1 ").count()), (400, 1), "{framing:?}: {response}");
    }
}

#[tokio::test]
async fn repeated_single_value_header_is_refused() {
    let app = TestApp::start().await;
    let key = &app.key;
    for twice in [
        format!("Authorization: Bearer {key}\r\nAuthorization: Bearer other\r\n"),
        "Idempotency-Key: a\r\nIdempotency-Key: b\r\n".into(),
        "Content-Type: text/plain\r\nContent-Type: application/json\r\n".into(),
    ] {
        let response = exchange(&app.base, format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{twice}\r\n")).await;
        assert!(status(&response) == 400 && response.contains("it has several"), "{twice}: {response}");
    }
}

#[tokio::test]
async fn query_that_is_not_utf_8_is_refused() {
    let app = TestApp::start().await;
    assert_eq!(app.get("/v1/messages?to=%ff").await.problem(), (400, "malformed_request"));
    assert_eq!(app.get("/v1/messages?subject=%C3%A5+b").await.status, 200);
}

#[tokio::test]
async fn body_with_content_encoding_is_refused() {
    let app = TestApp::start().await;
    let request = app.request(reqwest::Method::POST, "/v1/messages").header("content-encoding", "gzip");
    let response = crate::support::client::ApiResponse::to(request.json(&json!({}))).await;
    assert_eq!(response.problem(), (415, "unsupported_media_type"));
    assert_eq!(response.headers["accept-encoding"], "identity", "RFC 9110 12.5.3");
}
