//! Invalid requests over HTTP: status, code and pointer of each. [`crate::support::client`] checks that every response
//! has a request id, every error is a problem document, and no status is 5xx.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};

#[tokio::test]
async fn invalid_fields_are_reported_with_pointer_and_code() {
    let app = TestApp::start().await;
    let many: Vec<String> = (0..51).map(|n| format!("r{n}@example.test")).collect();
    let file = |name: &str, content: &str| json!({"filename": name, "content": content});
    let table: &[(Value, &str, &str)] = &[
        (json!({"from": null}), "/from", "required"),
        (json!({"from": "nobody"}), "/from", "invalid_address"),
        (json!({"from": "A\r\nBcc: x@y.test <a@acme.test>"}), "/from", "control_character"),
        (json!({"from": {"email": "a@acme.test", "name": "A\r\nB"}}), "/from/name", "control_character"),
        (json!({"from": {"email": "a@acme.test", "nmae": "A"}}), "/from/nmae", "unknown_field"),
        (json!({"to": null}), "/to", "required"),
        (json!({"to": []}), "/to", "required"),
        (json!({"to": ["ann@example.test", "bo@"]}), "/to/1", "invalid_address"),
        (json!({"to": ["ann@example.test\r\nRCPT TO:<x@y.test>"]}), "/to/0", "control_character"),
        (json!({"to": many}), "/to", "too_many"),
        (json!({"to": many[..49], "cc": ["a@b.test", "c@d.test"]}), "/cc", "too_many"),
        (json!({"bcc": [5]}), "/bcc/0", "invalid_type"),
        (json!({"reply_to": "x y"}), "/reply_to", "invalid_address"),
        (json!({"subject": null}), "/subject", "required"),
        (json!({"subject": "a\r\nBcc: x@y.test"}), "/subject", "control_character"),
        (json!({"subject": "a\u{0}"}), "/subject", "control_character"),
        (json!({"subject": "x".repeat(999)}), "/subject", "too_long"),
        (json!({"text": null}), "/text", "required"),
        (json!({"text": "\u{0}"}), "/text", "control_character"),
        (json!({"html": 5}), "/html", "invalid_type"),
        (json!({"headers": {"X-A": "1\r\nBcc: x@y.test"}}), "/headers/X-A", "control_character"),
        (json!({"headers": {"X A": "1"}}), "/headers/X A", "invalid_header"),
        (json!({"headers": {"Message-ID": "<1@x>"}}), "/headers/Message-ID", "forbidden_header"),
        (json!({"attachments": vec![file("a", ""); 21]}), "/attachments", "too_many"),
        (json!({"attachments": [file("a\r\nX: y", "")]}), "/attachments/0/filename", "control_character"),
        (json!({"attachments": [file("a", "***")]}), "/attachments/0/content", "invalid_base64"),
        (json!({"attachments": [{"filename": "a"}]}), "/attachments/0/content", "required"),
        (json!({"tags": [{"name": "a b", "value": "c"}]}), "/tags/0/name", "invalid_value"),
        (json!({"metadata": {"order": 42}}), "/metadata/order", "invalid_type"),
        (json!({"stream": "nonsense"}), "/stream", "unknown_stream"),
        (json!({"template": {"id": "invoice"}, "text": null}), "/template/id", "unknown_template"),
        (json!({"template": "invoice", "text": null}), "/template", "invalid_type"),
        (json!({"scheduled_at": "tomorrow"}), "/scheduled_at", "invalid_timestamp"),
        (json!({"scheduled_at": "2028-01-01T00:00:00Z"}), "/scheduled_at", "invalid_timestamp"),
        (json!({"expires_at": "2020-01-01T00:00:00Z"}), "/expires_at", "invalid_timestamp"),
        (json!({"on_uncertain": "drop"}), "/on_uncertain", "invalid_value"),
        (json!({"replyTo": "a@b.test"}), "/replyTo", "unknown_field"),
    ];
    for (fields, pointer, code) in table {
        let response = app.post("/v1/messages", &message(fields.clone())).await;
        assert_eq!(
            (response.problem(), response.faults()),
            ((422, "invalid_request"), vec![(*pointer, *code)]),
            "{fields}"
        );
    }
    assert_eq!(app.get("/v1/messages").await.body["data"], json!([]), "no refused message was stored");
}

#[tokio::test]
async fn all_faults_are_reported_at_once() {
    let app = TestApp::start().await;
    let body = json!({"from": "x", "to": ["ann@example.test", "y"], "text": "\u{0}", "sbject": "Hi"});
    let response = app.post("/v1/messages", &body).await;
    let expected = [
        ("/sbject", "unknown_field"),
        ("/from", "invalid_address"),
        ("/to/1", "invalid_address"),
        ("/subject", "required"),
        ("/text", "control_character"),
    ];
    assert_eq!((response.status, response.faults()), (422, expected.to_vec()));
    assert!(response.body["errors"][0]["message"].as_str().unwrap().contains("subject"), "{}", response.body);
}

#[tokio::test]
async fn malformed_or_mistyped_body_is_refused() {
    let app = TestApp::start().await;
    for (kind, body, problem) in [
        ("application/json", &b"{"[..], (400, "malformed_request")),
        ("application/json", b"", (400, "malformed_request")),
        ("application/json", b"{\"subject\": \"\xff\"}", (400, "malformed_request")),
        ("application/json", b"{'from': 'a@b.test'}", (400, "malformed_request")),
        ("application/json", b"[]", (422, "invalid_request")),
        ("application/json; charset=utf-8", b"null", (422, "invalid_request")),
        ("text/plain", b"{}", (415, "unsupported_media_type")),
        ("multipart/form-data; boundary=x", b"--x--", (422, "invalid_request")),
        ("application/x-www-form-urlencoded", b"from=a", (415, "unsupported_media_type")),
    ] {
        let request = app.request(Method::POST, "/v1/messages").header("content-type", kind).body(body);
        assert_eq!(ApiResponse::to(request).await.problem(), problem, "{kind} {}", String::from_utf8_lossy(body));
    }
}

#[tokio::test]
async fn body_over_the_limit_is_refused() {
    let app = TestApp::builder().config(|config| config.accept.max_body_mib = 1).start().await;
    let fits = message(json!({"text": "x".repeat((1 << 20) - 500)}));
    assert_eq!(app.post("/v1/messages", &fits).await.status, 202);
    let large = message(json!({"text": "x".repeat(1 << 20)}));
    assert_eq!(app.post("/v1/messages", &large).await.problem(), (413, "too_large"));
    // Without a Content-Length, the limit applies while the body is read.
    let pieces: Vec<Result<String, std::io::Error>> =
        large.to_string().split_inclusive(':').map(|s| Ok(s.into())).collect();
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let request = app.request(Method::POST, "/v1/messages").header("content-type", "application/json").body(stream);
    assert_eq!(ApiResponse::to(request).await.problem(), (413, "too_large"));
}

#[tokio::test]
async fn missing_or_invalid_key_is_unauthorized() {
    let app = TestApp::start().await;
    for path in ["/v1/messages", "/v1/keys", "/v1/messages/msg_x", "/v1/messages/msg_x/events"] {
        let anonymous = ApiResponse::to(app.anonymous(Method::GET, path)).await;
        assert_eq!(anonymous.problem(), (401, "unauthorized"), "{path}");
        assert!(anonymous.headers.contains_key("www-authenticate"), "{path}");
        for value in ["Bearer nonsense", "Bearer", "Basic dTpw", ""] {
            let request = app.anonymous(Method::GET, path).header("authorization", value);
            assert_eq!(ApiResponse::to(request).await.problem(), (401, "unauthorized"), "{path} {value}");
        }
    }
}

#[tokio::test]
async fn unknown_path_is_404_and_unknown_method_is_405() {
    let app = TestApp::start().await;
    let id = app.send(json!({})).await.id;
    let other = "msg_00000000000070008000000000000000";
    let table = [
        (Method::GET, "/nothing".to_owned(), 404),
        (Method::GET, "/v2/messages".into(), 404),
        (Method::GET, "/v1/messages/".into(), 404),
        (Method::GET, "/v1/messages/x".into(), 404),
        (Method::GET, format!("/v1/messages/{other}"), 404),
        (Method::GET, format!("/v1/messages/{}", id.replace("msg_", "rcp_")), 404),
        (Method::GET, format!("/v1/messages/{}", id.to_uppercase()), 404),
        (Method::GET, "/v1/messages/%FF".into(), 404),
        (Method::GET, "/v1/messages/%00/events".into(), 404),
        (Method::GET, format!("/v1/messages/{other}/events"), 404),
        (Method::GET, format!("/v1/messages/{other}/raw"), 404),
        (Method::GET, format!("/v1/messages/{id}/attachments/0"), 404),
        (Method::GET, format!("/v1/messages/{id}/attachments/-1"), 404),
        (Method::GET, "/v1/messages/%FF/attachments/0".into(), 404),
        (Method::GET, format!("/v1/messages/{id}/attachments/99999999999999999999"), 404),
        (Method::POST, format!("/v1/messages/{other}/cancel"), 404),
        (Method::POST, format!("/v1/messages/{other}/retry"), 404),
        (Method::PATCH, format!("/v1/messages/{other}"), 404),
        (Method::DELETE, "/v1/keys/key_00000000000070008000000000000000".into(), 404),
        (Method::GET, "/v1/dev/inbox".into(), 404),
        (Method::DELETE, "/v1/messages".into(), 405),
        (Method::PUT, format!("/v1/messages/{id}"), 405),
        (Method::GET, format!("/v1/messages/{id}/cancel"), 405),
        (Method::POST, "/healthz".into(), 405),
    ];
    for (method, path, status) in table {
        let response = ApiResponse::to(app.request(method.clone(), &path).json(&json!({}))).await;
        let code = if status == 404 { "not_found" } else { "method_not_allowed" };
        assert_eq!(response.problem(), (status, code), "{method} {path}");
        assert_eq!(response.headers.contains_key("allow"), status == 405, "{method} {path}");
    }
}

#[tokio::test]
async fn invalid_query_parameters_are_refused() {
    let app = TestApp::start().await;
    let id = app.send(json!({})).await.id;
    for (query, pointer, code) in [
        ("limit=0", "limit", "invalid_value"),
        ("limit=101", "limit", "invalid_value"),
        ("limit=ten", "limit", "invalid_value"),
        ("limit=1&limit=2", "limit", "duplicate_field"),
        ("after=x", "after", "invalid_value"),
        ("status=lost", "status", "invalid_value"),
        ("tag=kind", "tag", "invalid_value"),
        ("created_after=yesterday", "created_after", "invalid_value"),
        ("created_before=99999-01-01T00:00:00Z", "created_before", "invalid_value"),
        ("subject=%00", "subject", "control_character"),
        ("colour=red", "colour", "unknown_field"),
    ] {
        let response = app.get(&format!("/v1/messages?{query}")).await;
        assert_eq!((response.status, response.faults()), (422, vec![(pointer, code)]), "{query}");
    }
    let all = app.get("/v1/messages?limit=0&after=x&colour=red").await;
    assert_eq!(all.faults().len(), 3);
    for query in ["after=-1", "limit=x", "wait=1"] {
        assert_eq!(app.get(&format!("/v1/messages/{id}/events?{query}")).await.status, 422, "{query}");
    }
    assert_eq!(app.post("/v1/messages?dry=1", &message(json!({}))).await.faults(), [("dry", "unknown_field")]);
    for path in ["/v1/keys?limit=0", "/v1/keys?after=x"] {
        assert_eq!(app.get(path).await.status, 422, "{path}");
    }
}

#[tokio::test]
async fn valid_request_id_of_the_client_is_returned() {
    let app = TestApp::start().await;
    for (sent, is_valid) in [("trace-42", true), ("a b", false), (&*"x".repeat(129), false), ("<script>", false)] {
        let response = ApiResponse::to(app.request(Method::GET, "/v1/messages").header("x-request-id", sent)).await;
        assert_eq!(response.headers["x-request-id"] == *sent, is_valid, "{sent}");
    }
}
