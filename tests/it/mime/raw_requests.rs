//! Requests with a raw MIME message: faults, permissions, idempotency, dry runs and limits.

use postrider::config::Config;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::{post_mime, send_mime};
use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};

const MESSAGE: &str = "From: billing@acme.test\r\nTo: ann@example.test\r\nSubject: Hi\r\n\r\nHello.\r\n";

async fn count(app: &TestApp) -> usize {
    app.get("/v1/messages?limit=100").await.body["data"].as_array().unwrap().len()
}

#[tokio::test]
async fn invalid_message_is_refused_with_all_faults() {
    let app = TestApp::start().await;
    let bad = format!("Date: a\nDate: b\nX-A: \u{e9}\n{}a\rb\n", &MESSAGE[25..]);
    let response = post_mime(&app, "?stream=none&tag=x&on_uncertain=drop", bad).await;
    assert_eq!(response.problem(), (422, "invalid_request"));
    let expected = [
        ("tag", "invalid_value"),
        ("stream", "unknown_stream"),
        ("on_uncertain", "invalid_value"),
        ("", "control_character"),
        ("Date", "duplicate_field"),
        ("From", "required"),
    ];
    // Whether UTF-8 is allowed in a field depends on the recipients, which are not known here.
    assert_eq!(response.faults(), expected);
    for (mime, pointer, code) in [
        (MESSAGE[25..].to_owned(), "From", "required"),
        (format!("From: x@y.test\r\n{MESSAGE}"), "From", "duplicate_field"),
        (format!("X-A: \u{e9}\r\n{MESSAGE}"), "X-A", "invalid_header"),
        (MESSAGE.replace("billing@acme.test", "a@acme.test, b@acme.test"), "From", "invalid_address"),
        (format!("{MESSAGE}{}", "x".repeat(999)), "", "too_long"),
        (format!("{MESSAGE}\0"), "", "control_character"),
        (MESSAGE.replace("To: ann@example.test\r\n", ""), "to", "required"),
    ] {
        let response = post_mime(&app, "", mime.clone()).await;
        assert_eq!((response.status, response.faults()), (422, vec![(pointer, code)]), "{mime:.80}");
    }
    assert_eq!(post_mime(&app, "", "").await.faults(), [("From", "required"), ("to", "required")]);
    let no_header = post_mime(&app, "", "{}").await;
    assert_eq!(no_header.faults(), [("", "invalid_header"), ("From", "required"), ("to", "required")]);
    let unknown = post_mime(&app, "?subject=x&scheduled=y", MESSAGE).await;
    assert_eq!(unknown.faults(), [("scheduled", "unknown_field"), ("subject", "unknown_field")]);
    let json = app.post("/v1/messages?to=ann@example.test", &json!({})).await;
    assert_eq!(json.faults(), [("to", "unknown_field")], "a JSON body has its own fields");
    assert_eq!(count(&app).await, 0);
}

#[tokio::test]
async fn key_sends_only_from_its_domains() {
    let app = TestApp::start().await;
    let acme = app.with_sender_domains(&["acme.test"]).await;
    let blog = app.with_sender_domains(&["blog.test"]).await;
    assert_eq!(post_mime(&acme, "?from=bounces@acme.test", MESSAGE).await.status, 202);
    assert_eq!(post_mime(&blog, "", MESSAGE).await.problem(), (403, "forbidden"));
    assert_eq!(post_mime(&blog, "?from=a@blog.test", MESSAGE).await.problem(), (403, "forbidden"));
    assert_eq!(post_mime(&acme, "?from=a@blog.test", MESSAGE).await.problem(), (403, "forbidden"));
    let other = format!("Sender: boss@blog.test\r\n{MESSAGE}");
    assert_eq!(post_mime(&acme, "", other).await.problem(), (403, "forbidden"));
    let hidden = MESSAGE
        .replace("From: billing", "From: boss@blog.test <billing")
        .replace("acme.test\r\nTo", "acme.test>\r\nTo");
    assert_eq!(post_mime(&acme, "", hidden).await.faults(), [("From", "invalid_address")]);
    assert_eq!(count(&app).await, 1);
}

async fn keyed(api: &Api, query: &str, mime: &str) -> ApiResponse {
    let request = api.request(Method::POST, &format!("/v1/messages{query}")).header(CONTENT_TYPE, "message/rfc822");
    ApiResponse::to(request.header("idempotency-key", "order-42").body(mime.to_owned())).await
}

#[tokio::test]
async fn idempotency_key_compares_bytes_and_parameters() {
    let app = TestApp::start().await;
    let first = keyed(&app, "?tag=a:b&to=ann@example.test", MESSAGE).await;
    assert_eq!(first.status, 202, "{}", first.body);
    let again = keyed(&app, "?to=ann@example.test&tag=a:b", MESSAGE).await;
    assert_eq!((again.status, &again.headers["idempotent-replayed"]), (202, &"true".parse().unwrap()));
    assert_eq!(again.body, first.body);
    for (query, mime) in [
        ("?tag=a:b&to=ann@example.test", &*MESSAGE.replace("Hello", "Hallo")),
        ("?tag=a:b&to=bo@example.test", MESSAGE),
        ("?to=ann@example.test", MESSAGE),
        ("", MESSAGE),
    ] {
        assert_eq!(keyed(&app, query, mime).await.problem(), (422, "idempotency_key_reused"), "{query}");
    }
    assert_eq!(count(&app).await, 1);
}

#[tokio::test]
async fn dry_run_returns_the_message_and_stores_nothing() {
    let app = TestApp::start().await;
    let given = MESSAGE.replace("Subject", "Bcc: bo@example.test\r\nSubject");
    let plan = post_mime(&app, "?dry_run=true", given).await;
    assert_eq!((plan.status, count(&app).await), (200, 0), "{}", plan.body);
    let mime = plan.body["mime"]["content"].as_str().unwrap();
    assert!(
        mime.starts_with(&MESSAGE[..MESSAGE.len() - 10]) && mime.contains("\r\nMessage-ID: <") && !mime.contains("bo@"),
        "{mime}"
    );
    let kinds: Vec<&Value> = plan.body["recipients"].as_array().unwrap().iter().map(|one| &one["kind"]).collect();
    assert_eq!(kinds, [&json!("to"), &json!("bcc")]);
    assert_eq!(post_mime(&app, "?dry_run=true", "x").await.status, 422);
}

#[tokio::test]
async fn message_above_the_limit_is_refused() {
    let app = TestApp::builder().config(|config: &mut Config| config.accept.max_body_mib = 1).start().await;
    let large = format!("{MESSAGE}{}", "x\r\n".repeat(400_000));
    assert_eq!(post_mime(&app, "", large).await.problem(), (413, "too_large"));
    let grows = format!("{MESSAGE}{}", "x\n".repeat(500_000));
    assert_eq!(post_mime(&app, "", grows).await.faults(), [("", "too_large")]);
    send_mime(&app, "", format!("{MESSAGE}{}", "x\r\n".repeat(300_000))).await;
    app.run_until_idle().await;
}

#[tokio::test]
async fn server_without_8bitmime_gets_no_8bit_message() {
    let app = TestApp::start().await;
    app.smtp.offers(["PIPELINING"]);
    let id = send_mime(&app, "", format!("{MESSAGE}Gr\u{fc}\u{df}e\r\n")).await;
    app.run_until_idle().await;
    let recipient = app.recipient(&id).await;
    assert_eq!((&recipient["status"], &recipient["response"]["enhanced"]), (&json!("bounced"), &json!("5.6.3")));
    send_mime(&app, "", MESSAGE).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 1);
}

#[tokio::test]
async fn other_content_types_are_refused() {
    let app = TestApp::start().await;
    for kind in ["text/plain", "application/octet-stream", "multipart/mixed; boundary=x"] {
        let request = app.request(Method::POST, "/v1/messages").header(CONTENT_TYPE, kind).body(MESSAGE);
        assert_eq!(ApiResponse::to(request).await.problem(), (415, "unsupported_media_type"), "{kind}");
    }
    let request = app.request(Method::POST, "/v1/messages").header(CONTENT_TYPE, "Message/RFC822; charset=utf-8");
    assert_eq!(ApiResponse::to(request.body(MESSAGE)).await.status, 202);
}
