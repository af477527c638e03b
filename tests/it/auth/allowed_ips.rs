//! API keys that may only be used from some networks.

use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};

async fn create(app: &TestApp, networks: &[&str]) -> (String, Api) {
    let created = app.post("/v1/keys", &json!({"name": "shop", "allowed_ips": networks})).await;
    assert_eq!(created.status, 201, "{}", created.body);
    let body = created.body;
    (format!("/v1/keys/{}", body["id"].as_str().unwrap()), app.with_key(body["secret"].as_str().unwrap()))
}

/// Returns the status of a request that a proxy forwards for this client.
async fn status_from(api: &Api, client: impl AsRef<[u8]>) -> u16 {
    let client = HeaderValue::from_bytes(client.as_ref()).unwrap();
    let request = api.request(Method::GET, "/v1/messages").header("X-Forwarded-For", client);
    ApiResponse::to(request).await.status
}

#[tokio::test]
async fn key_works_only_from_its_networks() {
    let app = TestApp::start().await;
    let (_, here) = create(&app, &["203.0.113.0/24", "127.0.0.0/8"]).await;
    assert_eq!(here.get("/v1/messages").await.status, 200);
    let (_, elsewhere) = create(&app, &["203.0.113.0/24", "2001:db8::/32"]).await;
    let refused = elsewhere.get("/v1/messages").await;
    assert_eq!(refused.problem(), (403, "forbidden"));
    assert!(refused.body["detail"].as_str().unwrap().contains("127.0.0.1"), "{}", refused.body);
    assert_eq!(status_from(&elsewhere, "203.0.113.9").await, 403, "nobody may claim another address");
}

#[tokio::test]
async fn trusted_proxy_tells_the_address_of_the_client() {
    let proxies = vec!["127.0.0.1".to_owned(), "10.0.0.0/8".to_owned()];
    let app = TestApp::builder().config(|config| config.http.trusted_proxies = proxies).start().await;
    let (_, key) = create(&app, &["203.0.113.0/24", "2001:db8::/32"]).await;
    for client in ["203.0.113.9", "::ffff:203.0.113.9", "2001:db8:1::9", "192.0.2.1, 203.0.113.9, 10.0.0.1"] {
        assert_eq!(status_from(&key, client).await, 200, "{client}");
    }
    for client in ["203.0.114.9", "2001:db9::1", "203.0.113.9, 192.0.2.1", "unknown", ""] {
        assert_eq!(status_from(&key, client).await, 403, "{client}");
    }
    assert_eq!(status_from(&key, b"203.0.113.9, \xff, 192.0.2.1").await, 403, "the client has written the first two");
    assert_eq!(status_from(&key, b"\xff, 203.0.113.9").await, 200);
    assert_eq!(key.get("/v1/messages").await.status, 403, "the proxy itself");
}

#[tokio::test]
async fn change_of_the_networks_takes_effect_at_once() {
    let app = TestApp::start().await;
    let (path, key) = create(&app, &["203.0.113.0/24"]).await;
    assert_eq!(key.get("/v1/messages").await.status, 403);
    let changed = app.patch(&path, &json!({"allowed_ips": ["127.0.0.9/8", "127.0.0.1"]})).await;
    assert_eq!((changed.status, &changed.body["allowed_ips"]), (200, &json!(["127.0.0.0/8", "127.0.0.1/32"])));
    assert_eq!(key.get("/v1/messages").await.status, 200);
    assert_eq!(app.patch(&path, &json!({"allowed_ips": ["::1"]})).await.status, 200);
    assert_eq!(key.get("/v1/messages").await.status, 403);
    assert_eq!(app.patch(&path, &json!({"allowed_ips": null, "name": "any"})).await.body["allowed_ips"], json!(null));
    assert_eq!(key.get("/v1/messages").await.status, 200);
    let invalid = app.patch(&path, &json!({"allowed_ips": ["10.0.0.0/33"], "scopes": ["admin"]})).await;
    assert_eq!(invalid.faults(), [("/scopes", "unknown_field"), ("/allowed_ips/0", "invalid_value")]);
}
