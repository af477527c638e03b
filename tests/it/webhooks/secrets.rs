//! Stored secrets of webhook endpoints: encrypted if there is a `secret_key`, and removed when they no longer sign.

use serde_json::{Value, json};
use sqlx::Row as _;

use crate::support::app::TestApp;
use crate::support::clock::hours;
use crate::support::receiver::Receiver;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const MAGIC: &[u8] = b"PRSEAL1\0";

async fn start(secret_key: Option<&str>) -> TestApp {
    let key = secret_key.map(|key| key.to_owned().into());
    TestApp::builder().config(|config| (config.secret_key, config.webhooks.allow_private) = (key, true)).start().await
}

fn bytes(webhook: &Value) -> Vec<u8> {
    STANDARD.decode(webhook["secret"].as_str().unwrap().strip_prefix("whsec_").unwrap()).unwrap()
}

/// Returns the current and the previous secret, as they are stored.
async fn stored(app: &TestApp) -> (Vec<u8>, Option<Vec<u8>>) {
    let query = sqlx::query("SELECT secret, old_secret FROM webhook_endpoints");
    let row = query.fetch_one(&mut app.database.connect().await).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn secret_is_stored_encrypted_and_signs() {
    let (app, receiver) = (start(Some("a secret of the tests, and of nobody else")).await, Receiver::start().await);
    let made = app.post("/v1/webhooks", &json!({"url": receiver.url("/a")})).await.body;
    let (secret, _) = stored(&app).await;
    assert!(secret.starts_with(MAGIC) && !secret.windows(32).any(|part| part == bytes(&made)));
    let path = format!("/v1/webhooks/{}/rotate-secret", made["id"].as_str().unwrap());
    let rotated = app.post(&path, &json!({})).await.body;
    app.send(json!({})).await;
    app.worker.notify().await.unwrap();
    let post = &receiver.received("/a", 1).await[0];
    assert!(post.is_signed_with(&bytes(&made)) && post.is_signed_with(&bytes(&rotated)));

    let (_, old) = stored(&app).await;
    assert!(old.unwrap().starts_with(MAGIC));
    app.clock.advance(hours(24));
    app.worker.encrypt_webhook_secrets().await.unwrap();
    assert_eq!(stored(&app).await.1, None, "the old secret is removed after a day");
}

#[tokio::test]
async fn secrets_are_encrypted_once_all_workers_support_it() {
    let app = start(Some("a secret of the tests, and of nobody else")).await;
    app.sql("UPDATE workers SET reads_sealed_secrets = false").await;
    let made = app.post("/v1/webhooks", &json!({"url": "http://127.0.0.1:9/"})).await.body;
    app.worker.encrypt_webhook_secrets().await.unwrap();
    assert_eq!(stored(&app).await.0, bytes(&made), "a worker of an earlier version signs with it");
    app.sql("UPDATE workers SET reads_sealed_secrets = true").await;
    app.worker.encrypt_webhook_secrets().await.unwrap();
    assert!(stored(&app).await.0.starts_with(MAGIC));
}

#[tokio::test]
async fn secret_stays_unencrypted_without_a_secret_key() {
    let app = start(None).await;
    let made = app.post("/v1/webhooks", &json!({"url": "http://127.0.0.1:9/"})).await.body;
    app.worker.encrypt_webhook_secrets().await.unwrap();
    assert_eq!(stored(&app).await.0, bytes(&made));
}

#[tokio::test]
async fn unreadable_secret_stops_posts() {
    let (app, receiver) = (start(Some("a secret of the tests, and of nobody else")).await, Receiver::start().await);
    let made = app.post("/v1/webhooks", &json!({"url": receiver.url("/a")})).await.body;
    let mut config = app.config.clone();
    config.secret_key = Some("another secret key of the tests, not the one that encrypted it".to_owned().into());
    let worker_with_other_key = app.worker_with(&config).await;
    app.send(json!({})).await;
    worker_with_other_key.notify().await.unwrap();
    let shown = app.get(&format!("/v1/webhooks/{}", made["id"].as_str().unwrap())).await.body;
    assert!(shown["last_error"].as_str().unwrap().contains("previous_secret_keys"), "{shown}");
    assert_eq!(receiver.posts("/a").len(), 0);
    app.clock.advance(hours(1));
    app.worker.notify().await.unwrap();
    assert!(receiver.received("/a", 1).await[0].is_signed_with(&bytes(&made)));
}
