//! Changes through the API that is compatible with Resend's.

use reqwest::Method;
use serde_json::{Value, json};

use super::entry;
use crate::support::app::TestApp;

#[tokio::test]
async fn changes_have_the_names_and_ids_of_the_own_api() {
    let app = TestApp::builder().config(|config| config.webhooks.allow_private = true).start().await;
    let call = async |method: Method, path: &str, body: Value| -> Value {
        let response = app.request(method, path).json(&body).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.json().await.unwrap()
    };
    let hook = json!({"endpoint": "http://127.0.0.1:9/hooks", "events": ["email.sent"]});
    let webhook = call(Method::POST, "/webhooks", hook).await["id"].as_str().unwrap().to_owned();
    let key = call(Method::POST, "/api-keys", json!({"name": "shop"})).await;
    let id = format!("key_{}", key["id"].as_str().unwrap().replace('-', ""));
    let created = entry(&app, "action=create_key").await;
    assert_eq!((&created["source"], &created["object"]), (&json!("resend"), &json!(id)), "{created}");
    call(Method::DELETE, &format!("/api-keys/{}", key["id"].as_str().unwrap()), json!({})).await;
    let revoked = entry(&app, "action=revoke_key").await;
    assert_eq!((&revoked["object"], &revoked["before"]["name"]), (&json!(id), &json!("shop")), "{revoked}");
    call(Method::PATCH, &format!("/webhooks/{webhook}"), json!({"status": "disabled"})).await;
    let updated = entry(&app, "action=update_webhook").await;
    assert_eq!(updated["object"], json!(format!("wh_{}", webhook.replace('-', ""))), "{updated}");
    call(Method::POST, "/suppressions", json!({"email": "bo@example.test"})).await;
    assert_eq!(entry(&app, "action=add_suppressions").await["result"], "done");
}
