//! A key that is changed while the body of a request arrives.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Method};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};
use crate::support::until::until;

/// Sends a message to two recipients with a new key, which is changed after the first half of the body.
async fn send_while_changing(app: &TestApp, change: Value) -> ApiResponse {
    send_during(app, async |path| assert_eq!(app.patch(path, &change).await.status, 200)).await
}

/// Sends a message to two recipients with a new key, and calls `change` with the key's path after the first half of the body.
async fn send_during(app: &TestApp, change: impl AsyncFnOnce(&str)) -> ApiResponse {
    let created = app.post("/v1/keys", &json!({"name": "shop"})).await.body;
    let path = format!("/v1/keys/{}", created["id"].as_str().unwrap());
    let key = app.with_key(created["secret"].as_str().unwrap());
    let body = message(json!({"to": ["a@example.test", "b@example.test"]})).to_string();
    let (first, second) = body.split_at(body.len() / 2);
    let (first, second) = (first.to_owned(), second.to_owned());
    let (changed, is_changed) = oneshot::channel::<()>();
    let rest = stream::once(async move {
        is_changed.await.unwrap();
        Ok::<_, std::io::Error>(second)
    });
    let body = Body::wrap_stream(stream::iter([Ok(first)]).chain(rest));
    let request = key.request(Method::POST, "/v1/messages").header(CONTENT_TYPE, "application/json").body(body);
    let change = async {
        until("the request has begun", Duration::from_secs(20), async || {
            let key = app.get(&path).await.body;
            if key["last_used_at"].is_null() { Err(key) } else { Ok(()) }
        })
        .await;
        change(&path).await;
        changed.send(()).unwrap();
    };
    let (response, ()) = tokio::join!(ApiResponse::to(request), change);
    response
}

#[tokio::test]
async fn narrowed_networks_apply_to_a_body_in_progress() {
    let app = TestApp::start().await;
    let refused = send_while_changing(&app, json!({"allowed_ips": ["203.0.113.0/24"]})).await;
    assert_eq!(refused.problem(), (403, "forbidden"));
    let accepted = send_while_changing(&app, json!({"allowed_ips": ["127.0.0.0/8", "::1"]})).await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);
}

#[tokio::test]
async fn lowered_quota_applies_to_a_body_in_progress() {
    let app = TestApp::start().await;
    let refused = send_while_changing(&app, json!({"quota": {"recipients_per_day": 1}})).await;
    assert_eq!(refused.problem(), (429, "daily_quota_exceeded"));
    let accepted = send_while_changing(&app, json!({"quota": {"recipients_per_day": 2}})).await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);
}

#[tokio::test]
async fn suspension_of_the_tenant_applies_to_a_body_in_progress() {
    let app = TestApp::start().await;
    let tenant = "/v1/tenants/ten_00000000000000000000000000000000";
    let refused = send_during(&app, async |_| {
        assert_eq!(app.post(&format!("{tenant}/suspend"), &json!({})).await.status, 200);
    })
    .await;
    assert_eq!(refused.problem(), (403, "tenant_suspended"));
    assert_eq!(app.get("/v1/messages").await.body["data"], json!([]));
    assert_eq!(app.post(&format!("{tenant}/resume"), &json!({})).await.status, 200);
    app.send(json!({})).await;
}
