//! API keys.

use postrider::domain::key::Scope;
use serde_json::json;

use super::{delete, email, get, patch, post, start};

#[tokio::test]
async fn key_is_created_renamed_and_revoked() {
    let app = start().await;
    app.clock.advance(chrono::TimeDelta::seconds(1));
    let created = post(&app, "/api-keys", &json!({"name": "shop", "permission": "sending_access"})).await;
    assert_eq!((created.status, created.body.as_object().unwrap().len()), (201, 2));
    let sender = app.api().with_key(created.body["token"].as_str().unwrap());
    let id = created.id();
    assert_eq!(post(&sender, "/emails", &email(json!({}))).await.status, 200);
    assert_eq!(get(&sender, "/api-keys").await.error(), (401, "restricted_api_key"));

    let path = format!("/api-keys/{id}");
    assert_eq!(
        patch(&app, &path, &json!({"id": id, "name": "web shop"})).await.ok(),
        json!({"object": "api_key", "id": id})
    );
    assert_eq!(patch(&app, &path, &json!({"name": ""})).await.error(), (422, "missing_required_field"));
    let names = |list: &serde_json::Value| -> Vec<String> {
        list["data"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&get(&app, "/api-keys?limit=1").await.ok()), ["web shop"]);
    assert_eq!(delete(&app, &path).await.ok(), json!({"object": "api_key", "id": id, "deleted": true}));
    assert_eq!(names(&get(&app, "/api-keys").await.ok()), ["test"], "revoked keys are not listed");
    assert_eq!(post(&sender, "/emails", &email(json!({}))).await.error(), (403, "invalid_api_key"));
    assert_eq!(patch(&app, &path, &json!({"name": "x"})).await.error(), (404, "not_found"));
}

#[tokio::test]
async fn key_may_be_limited_to_a_domain() {
    let app = start().await;
    let domain = post(&app, "/domains", &json!({"name": "acme.test"})).await.id();
    let body = json!({"name": "acme", "permission": "sending_access", "domain_id": domain});
    let key = post(&app, "/api-keys", &body).await.ok();
    let acme = app.api().with_key(key["token"].as_str().unwrap());
    assert_eq!(post(&acme, "/emails", &email(json!({}))).await.status, 200);
    let other = post(&acme, "/emails", &email(json!({"from": "a@other.test"}))).await;
    assert_eq!(other.error(), (403, "validation_error"));
    for body in [
        json!({"name": "x", "permission": "full_access", "domain_id": domain}),
        json!({"name": "x", "permission": "owner"}),
    ] {
        assert_eq!(post(&app, "/api-keys", &body).await.error(), (422, "validation_error"), "{body}");
    }
    let body = json!({"name": "x", "domain_id": "019a8f3c-2b7d-7c4e-8a1b-2c3d4e5f6a7b"});
    assert_eq!(post(&app, "/api-keys", &body).await.error(), (404, "not_found"));
}

#[tokio::test]
async fn only_admins_manage_keys() {
    let app = start().await;
    let reader = app.with_scopes(&[Scope::Read, Scope::Send]).await;
    assert_eq!(post(&reader, "/api-keys", &json!({"name": "x"})).await.error(), (401, "restricted_api_key"));
}
