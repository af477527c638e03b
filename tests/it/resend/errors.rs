//! Every error has Resend's form, with a status and a name that its SDKs know.

use postrider::config::Unverified;
use postrider::domain::key::Scope;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::json;

use super::{Response, email, get, post, send, start};
use crate::support::app::TestApp;

#[tokio::test]
async fn keys_without_permission_get_the_errors_of_sdks() {
    let app = start().await;
    let anonymous = Response::to(app.anonymous(Method::GET, "/emails")).await;
    assert_eq!(anonymous.error(), (401, "missing_api_key"));
    let wrong = app.api().with_key("re_wrong");
    assert_eq!(get(&wrong, "/emails").await.error(), (403, "invalid_api_key"));
    assert_eq!(post(&wrong, "/emails", &email(json!({}))).await.error(), (403, "invalid_api_key"));

    let sender = app.with_scopes(&[Scope::Send]).await;
    assert_eq!(get(&sender, "/emails").await.error(), (401, "restricted_api_key"));
    assert_eq!(post(&sender, "/emails", &email(json!({}))).await.status, 200);
    let other = app.with_sender_domains(&["other.test"]).await;
    let refused = post(&other, "/emails", &email(json!({}))).await;
    assert_eq!(refused.error(), (403, "validation_error"));
    assert!(refused.message().contains("other.test"), "{}", refused.message());
}

#[tokio::test]
async fn unverified_sender_domain_is_forbidden() {
    let app = super::builder().config(|config| config.domains.unverified = Unverified::Refuse).start().await;
    let refused = post(&app, "/emails", &email(json!({}))).await;
    assert_eq!(refused.error(), (403, "validation_error"));
    assert!(refused.message().starts_with("The acme.test domain is not verified."), "{}", refused.message());
}

#[tokio::test]
async fn invalid_messages_name_the_first_fault() {
    let app = start().await;
    for (members, name, message) in [
        (json!({"to": []}), "missing_required_field", "Missing `to` field."),
        (json!({"from": null}), "missing_required_field", "Missing `from` field."),
        (json!({"text": null}), "missing_required_field", "Missing `html` or `text` field."),
        (json!({"to": ["ann@example.test", "bo"]}), "validation_error", "Invalid `to[1]` field: "),
        (json!({"tags": [{"name": "a b", "value": "c"}]}), "validation_error", "Invalid `tags[0].name` field: "),
        (json!({"headers": {"Bad Name": "x"}}), "validation_error", "Invalid `headers.Bad Name` field: "),
        (json!({"to": vec!["a@example.test"; 51]}), "validation_error", "Invalid `to` field: "),
        (json!({"template": {"id": "nothing"}, "text": null}), "validation_error", "Invalid `template.id` field: "),
    ] {
        let refused = post(&app, "/emails", &email(members.clone())).await;
        assert_eq!(refused.error(), (422, name), "{members}: {}", refused.body);
        assert!(refused.message().starts_with(message), "{members}: {}", refused.message());
    }
    let all = post(&app, "/emails", &json!({})).await;
    assert!(all.message().contains("… and "), "{}", all.message());
}

#[tokio::test]
async fn malformed_requests_get_400() {
    let app = start().await;
    let raw = |kind: &'static str, body: &'static str| {
        Response::to(app.request(Method::POST, "/emails").header(CONTENT_TYPE, kind).body(body))
    };
    assert_eq!(raw("application/json", "{").await.error(), (400, "validation_error"));
    assert_eq!(raw("application/json", "").await.error(), (400, "validation_error"));
    assert_eq!(raw("application/json", "[]").await.error(), (422, "validation_error"));
    assert_eq!(raw("text/plain", "{}").await.error(), (400, "validation_error"));
    let key = app.request(Method::POST, "/emails").header("idempotency-key", "k".repeat(257)).json(&email(json!({})));
    assert_eq!(Response::to(key).await.error(), (400, "invalid_idempotency_key"));
    let host = crate::support::raw_http::exchange(&app.base, "GET /emails HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert!(host.starts_with("HTTP/1.1 400") && host.contains(r#""name":"validation_error""#), "{host}");
}

#[tokio::test]
async fn limits_of_a_key_get_the_headers_and_names_of_sdks() {
    let app = start().await;
    let limits =
        json!({"name": "shop", "rate": {"requests_per_second": 1, "burst": 2}, "quota": {"recipients_per_day": 1}});
    let created = app.post("/v1/keys", &limits).await.body;
    let key = app.api().with_key(created["secret"].as_str().unwrap());
    let request = || key.request(Method::POST, "/emails").json(&email(json!({})));
    let first = request().send().await.unwrap();
    assert_eq!(first.status(), 200);
    for name in ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"] {
        let number = first.headers()[name].to_str().unwrap();
        assert!(number.parse::<u32>().is_ok(), "{name}: {number}");
    }
    assert_eq!(Response::to(request()).await.error(), (429, "daily_quota_exceeded"));
    let limited = request().send().await.unwrap();
    assert!(limited.headers()["retry-after"].to_str().unwrap().parse::<u32>().is_ok(), "{:?}", limited.headers());
    let body: serde_json::Value = limited.json().await.unwrap();
    assert_eq!((&body["statusCode"], &body["name"]), (&json!(429), &json!("rate_limit_exceeded")));
}

#[tokio::test]
async fn unknown_paths_and_methods_get_json() {
    let app = start().await;
    let id = send(&app, json!({})).await;
    for path in [
        "/emails/metrics?metrics=delivered",
        "/emails/receiving",
        "/emails/receiving/x",
        "/emails/receiving/x/attachments/y",
        "/emails/019a8f3c-2b7d-7c4e-8a1b-2c3d4e5f6a7b",
        "/emails/nothing",
        "/audiences",
        "/contacts/imports",
        "/broadcasts/x/send",
        "/logs",
        "/usage",
        "/emails/a/b/c/d",
    ] {
        assert_eq!(get(&app, path).await.error(), (404, "not_found"), "{path}");
    }
    assert_eq!(post(&app, &format!("/emails/{id}/share"), &json!({})).await.error(), (404, "not_found"));
    for path in ["/emails/batch", "/suppressions/batch/add", "/suppressions/batch/remove"] {
        assert_eq!(get(&app, path).await.error(), (405, "method_not_allowed"), "{path}");
    }
    assert_eq!(Response::to(app.request(Method::DELETE, "/emails")).await.error(), (405, "method_not_allowed"));
    // Other paths keep their own errors.
    assert_eq!(app.get("/v1/nothing").await.status, 404);
    assert_eq!(app.get("/nothing").await.status, 404);
}

#[tokio::test]
async fn internal_error_has_the_form_too() {
    let app = TestApp::start().await;
    app.sql("ALTER TABLE keys RENAME TO keys_away").await;
    let unknown = format!("pr_{}", "0".repeat(64));
    let refused = Response::to(app.api().with_key(&unknown).request(Method::GET, "/emails")).await;
    app.sql("ALTER TABLE keys_away RENAME TO keys").await;
    assert_eq!(refused.error(), (500, "application_error"));
}
