//! What RFC 9110 and RFC 9112 ask of a server, tried with bytes on a socket.

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
        let answer = exchange(&app.base, format!("{line}\r\n{hosts}Connection: close\r\n\r\n")).await;
        assert_eq!(status(&answer), expected, "{line} {hosts:?}: {answer}");
        if expected == 400 {
            assert!(answer.contains("application/problem+json") && answer.contains("x-request-id: "), "{answer}");
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
        " Transfer-Encoding: chunked\r\n",
    ] {
        let request = format!("POST /v1/messages HTTP/1.1\r\nHost: x\r\n{framing}\r\n{smuggled}");
        let answer = exchange(&app.base, request).await;
        assert_eq!((status(&answer), answer.matches("HTTP/1.1 ").count()), (400, 1), "{framing:?}: {answer}");
    }
}

#[tokio::test]
async fn body_in_a_coding_is_refused_as_such() {
    let app = TestApp::start().await;
    let request = app.request(reqwest::Method::POST, "/v1/messages").header("content-encoding", "gzip");
    let answer = crate::support::client::Answer::to(request.json(&json!({}))).await;
    assert_eq!(answer.problem(), (415, "unsupported_media_type"));
}
