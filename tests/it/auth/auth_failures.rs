//! The limit of requests with invalid API keys.

use futures_util::future::join_all;
use postrider::domain::key::{KeyMode, Secret};
use reqwest::Method;
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};
use crate::support::clock::seconds;

async fn limited_app() -> TestApp {
    let change = |config: &mut postrider::config::Config| {
        config.http.auth_failures_per_minute = 6;
        config.http.trusted_proxies = vec!["127.0.0.1".into()];
    };
    TestApp::builder().config(change).start().await
}

async fn from(api: &Api, client: &str) -> ApiResponse {
    ApiResponse::to(api.request(Method::GET, "/v1/messages").header("X-Forwarded-For", client)).await
}

#[tokio::test]
async fn address_with_too_many_invalid_keys_gets_429() {
    let app = limited_app().await;
    let (office, other) = ("192.0.2.1", "192.0.2.2");
    assert_eq!(from(&app, office).await.status, 200);
    let wrong = app.with_key("pr_wrong");
    for _ in 0..6 {
        assert_eq!(from(&wrong, office).await.problem(), (401, "unauthorized"));
    }
    let limited = from(&wrong, office).await;
    assert_eq!(limited.problem(), (429, "too_many_auth_failures"));
    assert_eq!(limited.headers["retry-after"], "10");
    assert!(limited.body["detail"].as_str().unwrap().contains(office), "{}", limited.body);

    assert_eq!(from(&app, office).await.status, 200, "a key that was accepted before works");
    assert_eq!(from(&wrong, other).await.status, 401, "other addresses are not limited");
    let fresh = app.post("/v1/keys", &json!({"name": "new"})).await.body["secret"].as_str().unwrap().to_owned();
    assert_eq!(from(&app.with_key(&fresh), office).await.status, 200, "a new key is looked up");
    assert_eq!(from(&guess(&app), office).await.problem(), (429, "too_many_auth_failures"));

    app.clock.advance(seconds(10));
    assert_eq!(from(&wrong, office).await.status, 401);
    assert_eq!(from(&wrong, office).await.status, 429);
}

/// Returns a client with an unknown key, which only a lookup can tell from a valid one.
fn guess(api: &Api) -> Api {
    api.with_key(Secret::new(KeyMode::Live, None, rand::random()).expose())
}

#[tokio::test]
async fn concurrent_guesses_do_not_exceed_the_limit() {
    let app = limited_app().await;
    let attempts = (0..20).map(|_| {
        let api = guess(&app);
        async move { from(&api, "192.0.2.1").await.status }
    });
    let statuses = join_all(attempts).await;
    let count = |status: u16| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((count(401), count(429)), (6, 14), "{statuses:?}");
}

#[tokio::test]
async fn new_key_waits_only_while_guesses_use_up_all_lookups() {
    let app = limited_app().await;
    let fresh = app.post("/v1/keys", &json!({"name": "new"})).await.body["secret"].as_str().unwrap().to_owned();
    // The limit of the address, and the lookups that all addresses over their limit share.
    for _ in 0..6 + 50 {
        from(&guess(&app), "192.0.2.1").await;
    }
    let refused = from(&app.with_key(&fresh), "192.0.2.1").await;
    assert_eq!(refused.problem(), (429, "too_many_auth_failures"));
    assert_eq!(refused.headers["retry-after"], "1");
    app.clock.advance(seconds(1));
    assert_eq!(from(&app.with_key(&fresh), "192.0.2.1").await.status, 200);
}

#[tokio::test]
async fn guesses_of_clients_with_an_unknown_address_are_limited() {
    let app = limited_app().await;
    for _ in 0..6 {
        assert_eq!(from(&guess(&app), "unknown").await.status, 401);
    }
    assert_eq!(from(&guess(&app), "192.0.2.1, nobody").await.problem(), (429, "too_many_auth_failures"));
    assert_eq!(from(&guess(&app), "192.0.2.1").await.status, 401);
}

#[tokio::test]
async fn revoked_keys_and_wrong_checksums_count() {
    let app = limited_app().await;
    let created = app.post("/v1/keys", &json!({"name": "shop"})).await.body;
    let revoked = app.with_key(created["secret"].as_str().unwrap());
    assert_eq!(from(&revoked, "192.0.2.1").await.status, 200);
    assert_eq!(app.delete(&format!("/v1/keys/{}", created["id"].as_str().unwrap())).await.status, 204);
    for _ in 0..3 {
        assert_eq!(from(&revoked, "192.0.2.1").await.status, 401);
        let wrong = app.with_key(&format!("pr_live_{}", "a".repeat(49)));
        assert_eq!(from(&wrong, "192.0.2.1").await.status, 401);
    }
    assert_eq!(from(&revoked, "192.0.2.1").await.problem(), (429, "too_many_auth_failures"));
    let anonymous = app.anonymous(Method::GET, "/v1/messages").header("X-Forwarded-For", "192.0.2.1");
    assert_eq!(ApiResponse::to(anonymous).await.status, 401, "a request without a key is no attempt");
}
