//! Creating, listing, limiting and revoking API keys.

use postrider::db::keys;
use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::clock::{hours, minutes};

#[tokio::test]
async fn secret_is_returned_once_and_works_until_revoked() {
    let app = TestApp::start().await;
    let created = app.post("/v1/keys", &json!({"name": "shop"})).await;
    assert_eq!((created.status, &created.body["scopes"]), (201, &json!(["send", "read"])));
    assert_eq!(created.headers["cache-control"], "no-store");
    let shop = app.with_key(created.body["secret"].as_str().unwrap());
    let sent = shop.send(json!({})).await;
    assert_eq!(shop.status(&sent.id).await, "queued");

    let listed = app.get("/v1/keys").await.body;
    let key = listed["data"].as_array().unwrap().iter().find(|key| key["name"] == "shop").unwrap();
    assert_eq!((&key["id"], &key["revoked_at"], key.get("secret")), (&created.body["id"], &json!(null), None));
    assert!(!listed.to_string().contains(created.body["secret"].as_str().unwrap()));

    let path = format!("/v1/keys/{}", key["id"].as_str().unwrap());
    assert_eq!(app.delete(&path).await.status, 204);
    assert_eq!(shop.get("/v1/messages").await.problem(), (401, "unauthorized"), "the revocation takes effect at once");
    assert_eq!(app.delete(&path).await.status, 204, "revoking twice has no further effect");
}

#[tokio::test]
async fn only_changes_of_keys_clear_the_caches() {
    let app = TestApp::start().await;
    let created = app.post("/v1/keys", &json!({"name": "shop"})).await.body;
    let path = format!("/v1/keys/{}", created["id"].as_str().unwrap());
    let start = keys::version(&app.db).await.unwrap();
    let changes = async || keys::version(&app.db).await.unwrap() - start;
    assert_eq!(app.delete("/v1/keys/key_00000000000070008000000000000000").await.status, 404);
    assert_eq!(app.patch(&path, &json!({"name": "shop"})).await.status, 200);
    app.sql("UPDATE keys SET last_used_at = now()").await;
    assert_eq!(changes().await, 0);
    assert_eq!(app.patch(&path, &json!({"name": "other"})).await.status, 200);
    assert_eq!(changes().await, 1);
    for _ in 0..2 {
        assert_eq!(app.delete(&path).await.status, 204);
        assert_eq!(changes().await, 2, "revoking twice has no further effect");
    }
    app.sql("DELETE FROM keys WHERE name = 'other'").await;
    assert_eq!(changes().await, 3);
}

#[tokio::test]
async fn scopes_limit_what_a_key_may_do() {
    let app = TestApp::start().await;
    let id = app.send(json!({})).await.id;
    let calls = [
        (Method::GET, "/v1/messages".to_owned(), Scope::Read),
        (Method::GET, format!("/v1/messages/{id}"), Scope::Read),
        (Method::GET, format!("/v1/messages/{id}/events"), Scope::Read),
        (Method::GET, format!("/v1/messages/{id}/raw"), Scope::Read),
        (Method::GET, format!("/v1/messages/{id}/attachments/0"), Scope::Read),
        (Method::POST, "/v1/messages".into(), Scope::Send),
        (Method::PATCH, format!("/v1/messages/{id}"), Scope::Send),
        (Method::POST, format!("/v1/messages/{id}/cancel"), Scope::Send),
        (Method::POST, format!("/v1/messages/{id}/retry"), Scope::Send),
        (Method::GET, "/v1/keys".into(), Scope::Admin),
        (Method::POST, "/v1/keys".into(), Scope::Admin),
        (Method::DELETE, "/v1/keys/key_00000000000070008000000000000000".into(), Scope::Admin),
    ];
    for scope in [Scope::Send, Scope::Read, Scope::Admin] {
        let api = app.with_scopes(&[scope]).await;
        for (method, path, needed) in &calls {
            let request = api.request(method.clone(), path).json(&json!({}));
            let response = crate::support::client::ApiResponse::to(request).await;
            let allowed = scope == *needed || scope == Scope::Admin;
            assert_eq!(response.status != 403, allowed, "{scope:?}: {method} {path} is {}", response.status);
        }
    }
}

#[tokio::test]
async fn key_may_send_only_from_its_sender_domains() {
    let app = TestApp::start().await;
    let api = app.with_sender_domains(&["acme.test", "xn--bcher-kva.test"]).await;
    let send = async |from: Value| api.post("/v1/messages", &message(json!({"from": from}))).await;
    for from in ["a@acme.test", "A <a@ACME.test>", "a@bücher.test"] {
        assert_eq!(send(json!(from)).await.status, 202, "{from}");
    }
    for from in ["a@other.test", "a@sub.acme.test", "a@xacme.test"] {
        assert_eq!(send(json!(from)).await.problem(), (403, "forbidden"), "{from}");
    }
    let faulty = api.post("/v1/messages", &message(json!({"from": "a@other.test", "to": "x"}))).await;
    assert_eq!(faulty.status, 422);
}

#[tokio::test]
async fn key_expires() {
    let app = TestApp::start().await;
    let body = json!({"name": "guest", "scopes": ["read"], "expires_at": app.clock.text_in(hours(1))});
    let created = app.post("/v1/keys", &body).await;
    let guest = app.with_key(created.body["secret"].as_str().unwrap());
    app.clock.advance(minutes(59));
    assert_eq!(guest.get("/v1/messages").await.status, 200);
    app.clock.advance(minutes(1));
    assert_eq!(guest.get("/v1/messages").await.problem(), (401, "unauthorized"));
}

#[tokio::test]
async fn all_faults_of_a_new_key_are_reported_at_once() {
    let app = TestApp::start().await;
    let body = json!({"scopes": ["fly"], "sender_domains": ["a b"], "expires_at": "2000-01-01T00:00:00Z", "x": 1});
    let response = app.post("/v1/keys", &body).await;
    let mut faults = response.faults();
    faults.sort_unstable();
    let expected = [
        ("/expires_at", "invalid_timestamp"),
        ("/name", "required"),
        ("/scopes/0", "invalid_value"),
        ("/sender_domains/0", "invalid_value"),
        ("/x", "unknown_field"),
    ];
    assert_eq!((response.status, faults), (422, expected.to_vec()));
}

#[tokio::test]
async fn keys_are_paged() {
    let app = TestApp::start().await;
    for n in 0..4 {
        app.clock.advance(minutes(1));
        app.post("/v1/keys", &json!({"name": format!("{n}")})).await;
    }
    let first = app.get("/v1/keys?limit=2").await.body;
    let second = app.get(&format!("/v1/keys?limit=3&after={}", first["next"].as_str().unwrap())).await.body;
    let names = |page: &Value| page["data"].as_array().unwrap().iter().map(|k| k["name"].clone()).collect::<Vec<_>>();
    assert_eq!([names(&first), names(&second)].concat(), ["3", "2", "1", "0", "test"]);
    assert_eq!(second["has_more"], false);
}
