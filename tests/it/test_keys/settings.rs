//! Test keys use the keys, domains, templates and streams of the tenant, and cannot change them.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::ApiResponse;
use crate::support::postgres::Database;
use crate::support::process::{on, run, stderr_of};

#[tokio::test]
async fn test_key_cannot_change_settings() {
    let app = TestApp::builder().with_inbound().start().await;
    assert_eq!(app.post("/v1/domains", &json!({"name": "acme.test"})).await.status, 201);
    let template = app.post("/v1/templates", &json!({"name": "a", "alias": "a", "subject": "a", "text": "a"})).await;
    assert_eq!(template.status, 201);
    let key = app.post("/v1/keys", &json!({"name": "shop"})).await.body["id"].as_str().unwrap().to_owned();
    let test = app.with_test_key().await;
    for (method, path, body) in [
        (Method::POST, "/v1/domains".to_owned(), json!({"name": "other.test"})),
        (Method::POST, "/v1/domains/acme.test/verify".into(), json!({})),
        (Method::POST, "/v1/domains/acme.test/rotate".into(), json!({})),
        (Method::DELETE, "/v1/domains/acme.test".into(), json!({})),
        (Method::POST, "/v1/templates".into(), json!({"name": "b", "subject": "b", "text": "b"})),
        (Method::PATCH, "/v1/templates/a".into(), json!({"subject": "b"})),
        (Method::POST, "/v1/templates/a/publish".into(), json!({})),
        (Method::DELETE, "/v1/templates/a".into(), json!({})),
        (Method::POST, "/v1/streams".into(), json!({"name": "news"})),
        (Method::PATCH, "/v1/streams/bulk".into(), json!({"rate": 1})),
        (Method::POST, "/v1/keys".into(), json!({"name": "ci", "mode": "test"})),
        (Method::PATCH, format!("/v1/keys/{key}"), json!({"name": "ci"})),
        (Method::DELETE, format!("/v1/keys/{key}"), json!({})),
    ] {
        let refused = ApiResponse::to(test.request(method.clone(), &path).json(&body)).await;
        assert_eq!(refused.problem(), (403, "forbidden"), "{method} {path}");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.starts_with("Test keys cannot change "), "{detail}");
    }
    for path in ["/v1/domains/acme.test", "/v1/templates/a", "/v1/streams/bulk", &format!("/v1/keys/{key}")] {
        assert_eq!(test.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn streams_have_the_settings_of_the_live_streams() {
    let app = TestApp::start().await;
    assert_eq!(app.post("/v1/streams", &json!({"name": "early", "retry_window": "2h"})).await.status, 201);
    let test = app.with_test_key().await;
    assert_eq!(app.post("/v1/streams", &json!({"name": "late", "priority": 7, "rate": 5})).await.status, 201);
    assert_eq!(app.patch("/v1/streams/early", &json!({"retry_window": "3h", "weight": 20})).await.status, 200);
    let settings = async |name: &str| {
        let path = format!("/v1/streams/{name}");
        let (live, test) = (app.get(&path).await.body, test.get(&path).await.body);
        assert_eq!(live, test, "{name}");
        live["effective"]["retry_window"].clone()
    };
    assert_eq!(settings("early").await, "3h");
    assert_eq!(settings("late").await, "3d");
    assert_eq!(test.send(json!({"stream": "late"})).await.body["status"], "queued");
}

#[tokio::test]
async fn pause_of_a_stream_applies_to_the_mode_of_the_key() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    assert_eq!(test.post("/v1/streams/transactional/pause", &json!({"reason": "a try"})).await.status, 200);
    let (live_id, test_id) = (app.send(json!({})).await.id, test.send(json!({})).await.id);
    app.run_until_idle().await;
    assert_eq!((app.status(&live_id).await, test.status(&test_id).await), ("relayed".into(), "queued".into()));
    assert_eq!(app.get("/v1/streams/transactional").await.body["paused"], Value::Null);
    assert_eq!(test.post("/v1/streams/transactional/resume", &json!({})).await.status, 200);
    app.run_until_idle().await;
    assert_eq!(test.status(&test_id).await, "delivered");
}

#[tokio::test]
async fn test_messages_count_against_no_quota() {
    let app = TestApp::start().await;
    let quota = json!({"recipients_per_day": 1});
    let refused = app.post("/v1/keys", &json!({"name": "ci", "mode": "test", "quota": quota})).await;
    assert_eq!((refused.status, refused.faults()), (422, vec![("/quota", "invalid_value")]));

    let created = app.post("/v1/keys", &json!({"name": "ci", "mode": "test"})).await;
    let secret = created.body["secret"].as_str().unwrap();
    assert!(secret.starts_with("pr_test_") && created.body["mode"] == "test", "{}", created.body);
    let path = format!("/v1/keys/{}", created.body["id"].as_str().unwrap());
    assert_eq!(app.patch(&path, &json!({"quota": quota})).await.faults(), [("/quota", "invalid_value")]);
    assert_eq!(app.patch(&path, &json!({"rate": {"requests_per_second": 100}, "quota": null})).await.status, 200);
    let test = app.with_key(secret);
    let sent = test.send(json!({})).await.id;
    assert_eq!(test.message(&sent).await["key_id"], created.body["id"]);
}

#[tokio::test]
async fn command_line_creates_test_keys() {
    let database = Database::new();
    let created = run(on(&database.url, &["keys", "create", "--name", "ci", "--test"])).await;
    let secret = String::from_utf8(created.stdout.clone()).unwrap();
    assert!(secret.starts_with("pr_test_"), "{secret}{}", stderr_of(&created));
    let listed = run(on(&database.url, &["keys", "list"])).await;
    let lines = String::from_utf8(listed.stdout).unwrap();
    assert!(lines.lines().any(|line| line.contains("\tci\t") && line.ends_with("\ttest")), "{lines}");
}
