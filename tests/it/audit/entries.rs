//! What an entry contains, and how entries are found.

use postrider::domain::key::Scope;
use reqwest::Method;
use reqwest::header::USER_AGENT;
use serde_json::{Value, json};

use super::{entries, entry};
use crate::support::app::TestApp;
use crate::support::client::ApiResponse;

#[tokio::test]
async fn change_is_recorded_with_its_actor_and_both_states() {
    let app = TestApp::start().await;
    let request =
        app.request(Method::PATCH, "/v1/streams/bulk").header(USER_AGENT, "ops-tool/1").json(&json!({"rate": 5}));
    let response = ApiResponse::to(request).await;
    assert_eq!(response.status, 200, "{}", response.body);
    let entry = entry(&app, "action=update_stream").await;
    assert_eq!((&entry["before"]["rate"], &entry["after"]["rate"]), (&Value::Null, &response.body["rate"]), "{entry}");
    assert_eq!((&entry["object"], &entry["result"], &entry["status"]), (&json!("bulk"), &json!("done"), &json!(200)));
    assert_eq!(entry["request_id"], response.headers["x-request-id"].to_str().unwrap());
    let actor = &entry["actor"];
    assert_eq!((&actor["name"], &actor["user_agent"]), (&json!("test"), &json!("ops-tool/1")));
    assert_eq!((&actor["remote_address"], &entry["source"]), (&json!("127.0.0.1"), &json!("api")));
    assert!(actor["key_id"].as_str().unwrap().starts_with("key_"), "{entry}");
}

#[tokio::test]
async fn no_entry_contains_a_secret() {
    let app = TestApp::builder().config(|config| config.webhooks.this_machine_only = true).start().await;
    let key = app.post("/v1/keys", &json!({"name": "shop", "scopes": ["send"]})).await.body;
    let url = "http://user:s3cret@127.0.0.1:9/hooks?token=t0ken";
    let webhook = app.post("/v1/webhooks", &json!({"url": url})).await.body;
    let id = webhook["id"].as_str().map(str::to_owned);
    let mut secrets = vec![key["secret"].clone(), app.key.clone().into(), json!("t0ken")];
    if let Some(id) = &id {
        let rotated = app.post(&format!("/v1/webhooks/{id}/rotate-secret"), &json!({})).await.body;
        secrets.extend([webhook["secret"].clone(), rotated["secret"].clone()]);
    }
    let created = entry(&app, "action=create_key").await;
    assert_eq!((&created["object"], &created["after"]["scopes"]), (&key["id"], &json!(["send"])), "{created}");
    assert_eq!(created["after"]["secret"], Value::Null);
    let query = "SELECT string_agg(a::text, ' ') FROM audit_log a";
    let text: String = sqlx::query_scalar(query).fetch_one(&mut app.database.connect().await).await.unwrap();
    for secret in secrets {
        let secret = secret.as_str().unwrap();
        assert!(secret.len() > 4 && !text.contains(secret), "{secret} in {text}");
    }
}

#[tokio::test]
async fn refused_changes_are_recorded() {
    let app = TestApp::start().await;
    let sender = app.with_scopes(&[Scope::Send]).await;
    assert_eq!(sender.post("/v1/keys", &json!({"name": "more", "scopes": ["admin"]})).await.status, 403);
    let refused = entry(&app, "action=create_key").await;
    assert_eq!((&refused["result"], &refused["status"]), (&json!("refused"), &json!(403)));
    assert_eq!((&refused["object"], &refused["after"]), (&Value::Null, &Value::Null));
    // Without a valid key, there is no actor and no entry.
    assert_eq!(app.with_key("pr_0").delete("/v1/keys/key_00000000000070008000000000000000").await.status, 401);
    assert_eq!(entries(&app, "action=revoke_key").await, Vec::<Value>::new());
}

#[tokio::test]
async fn sending_and_reading_are_not_recorded() {
    let app = TestApp::start().await;
    let sent = app.send(json!({})).await.id;
    app.post("/v1/messages/batch", &json!([crate::support::client::message(json!({}))])).await;
    app.get(&format!("/v1/messages/{sent}")).await;
    assert_eq!(entries(&app, "").await, Vec::<Value>::new());
    app.post(&format!("/v1/messages/{sent}/cancel"), &json!({})).await;
    let canceled = entry(&app, "").await;
    assert_eq!((&canceled["action"], &canceled["object"]), (&json!("cancel_message"), &json!(sent)));
    assert_eq!(canceled["after"], json!({"canceled": 1, "too_late": 0}));
}

#[tokio::test]
async fn change_without_a_database_row_is_not_made() {
    let app = TestApp::start().await;
    app.sql("ALTER TABLE audit_log RENAME TO audit_log_away").await;
    let request = app.request(Method::POST, "/v1/streams").json(&json!({"name": "news"}));
    assert_eq!(request.send().await.unwrap().status(), 500);
    app.sql("ALTER TABLE audit_log_away RENAME TO audit_log").await;
    assert_eq!(app.get("/v1/streams/news").await.status, 404);
}

#[tokio::test]
async fn entries_are_filtered_and_paged_newest_first() {
    let app = TestApp::start().await;
    let start = app.clock.text_in(chrono::TimeDelta::zero());
    for name in ["one", "two", "three"] {
        assert_eq!(app.post("/v1/streams", &json!({"name": name})).await.status, 201);
        app.clock.advance(chrono::TimeDelta::minutes(1));
    }
    let end = app.clock.text_in(chrono::TimeDelta::zero());
    let other = app.with_scopes(&[Scope::Admin]).await;
    other.post("/v1/streams/one/pause", &json!({"reason": "a test"})).await;
    let objects = |entries: Vec<Value>| entries.into_iter().map(|entry| entry["object"].clone()).collect::<Vec<_>>();
    let all = objects(entries(&app, "").await);
    assert_eq!(all, ["one", "three", "two", "one"]);
    let encoded = |time: &str| time.replace('+', "%2B");
    let (since, until) =
        (format!("since={}", encoded(&end)), format!("since={}&until={}", encoded(&start), encoded(&end)));
    let other_key = entry(&app, "action=pause_stream").await["actor"]["key_id"].as_str().unwrap().to_owned();
    for (query, expected) in [
        ("action=create_stream", vec!["three", "two", "one"]),
        ("object=one", vec!["one", "one"]),
        (&since, vec!["one"]),
        (&until, vec!["three", "two", "one"]),
        ("actor=test&object=two", vec!["two"]),
        (&format!("actor={other_key}"), vec!["one"]),
        ("actor=nobody", vec![]),
    ] {
        assert_eq!(objects(entries(&app, query).await), expected, "{query}");
    }
    let first = app.get("/v1/audit?limit=3").await.body;
    let rest = app.get(&format!("/v1/audit?limit=3&after={}", first["next"].as_str().unwrap())).await.body;
    assert_eq!((first["data"].as_array().unwrap().len(), rest["data"].as_array().unwrap().len()), (3, 1));
}

#[tokio::test]
async fn removed_object_is_recorded_as_it_was() {
    let app = TestApp::start().await;
    app.post("/v1/suppressions", &json!({"address": "bo@example.test", "note": "by phone"})).await;
    assert_eq!(app.delete("/v1/suppressions/bo@example.test").await.status, 204);
    let removed = entry(&app, "action=remove_suppression").await;
    assert_eq!(removed["object"], "bo@example.test");
    assert_eq!((&removed["before"][0]["note"], &removed["after"]), (&json!("by phone"), &Value::Null), "{removed}");
    let added = entry(&app, "action=add_suppressions").await;
    assert_eq!(added["after"]["addresses"], json!(["bo@example.test"]));
}
