//! API keys: created with limits, limited later, with the use of their quota.

use serde_json::{Value, json};

use super::admin;

#[tokio::test]
async fn key_is_created_with_limits_and_limited_again() {
    let (app, browser) = admin().await;
    let fields = [
        ("name", "shop"),
        ("role", "metadata"),
        ("requests_per_second", "10"),
        ("burst", "20"),
        ("recipients_per_day", "1,000"),
        ("allowed_ips", "192.0.2.0/24"),
        ("days", "30"),
    ];
    let page = browser.post("/ui/keys", &fields).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let keys = app.get("/v1/keys").await.body;
    let key = keys["data"].as_array().unwrap().iter().find(|key| key["name"] == "shop").unwrap().clone();
    assert_eq!((&key["scopes"], &key["rate"]["burst"]), (&json!(["metadata"]), &json!(20)));
    assert_eq!((&key["quota"]["recipients_per_day"], &key["allowed_ips"]), (&json!(1_000), &json!(["192.0.2.0/24"])));
    assert!(key["expires_at"].as_str().unwrap().starts_with("2026-12-23T12:00:00"), "{key}");

    let path = format!("/ui/keys/{}", key["id"].as_str().unwrap());
    browser.page(&path).await.shows(&["Used today", "Left today", "1,000", "metadata", "192.0.2.0/24"]);
    let location = browser.submit(&format!("{path}/limits"), &[("recipients_per_day", "500")]).await;
    browser.page(&location).await.shows(&["The limits were changed.", "500"]);
    let changed = app.get(&path.replace("/ui", "/v1")).await.body;
    assert_eq!((&changed["rate"], &changed["allowed_ips"]), (&Value::Null, &Value::Null));
    let refused = browser.post(&format!("{path}/limits"), &[("allowed_ips", "nowhere")]).await;
    assert_eq!(refused.status, 422);
    refused.shows(&["role=\"alert\"", "value=\"nowhere\""]);
}

#[tokio::test]
async fn test_key_is_created() {
    let (app, browser) = admin().await;
    let page = browser.post("/ui/keys", &[("name", "ci"), ("role", "send-read"), ("mode", "test")]).await;
    page.shows(&["pr_test_"]);
    let refused = browser.post("/ui/keys", &[("name", "ci"), ("days", "soon")]).await;
    assert_eq!(refused.status, 422);
    refused.shows(&["write a whole number", "value=\"soon\""]);
    let keys = app.get("/v1/keys?limit=100").await.body;
    let created = keys["data"].as_array().unwrap().iter().filter(|key| key["name"] == "ci" && key["mode"] == "test");
    assert_eq!(created.count(), 1, "{keys}");
}

#[tokio::test]
async fn limits_that_the_form_did_not_change_stay() {
    let (app, browser) = admin().await;
    let created =
        app.post("/v1/keys", &json!({"name": "shop", "rate": {"requests_per_second": 10, "burst": 20}})).await;
    let path = format!("/ui/keys/{}", created.body["id"].as_str().unwrap());
    let api = path.replace("/ui", "/v1");
    browser.page(&path).await.shows(&[
        "name=\"was_requests_per_second\" value=\"10\"",
        "name=\"was_burst\" value=\"20\"",
        "name=\"was_recipients_per_day\" value=\"\"",
        "name=\"was_allowed_ips\" value=\"\"",
    ]);
    // A colleague changes the rate and the networks while the form is open.
    let change = json!({"rate": {"requests_per_second": 99, "burst": 99}, "allowed_ips": ["192.0.2.0/24"]});
    let patched =
        crate::support::client::ApiResponse::to(app.request(reqwest::Method::PATCH, &api).json(&change)).await;
    assert_eq!(patched.status, 200, "{}", patched.body);
    let opened = [
        ("was_requests_per_second", "10"),
        ("was_burst", "20"),
        ("was_recipients_per_day", ""),
        ("was_allowed_ips", ""),
        ("requests_per_second", "10"),
        ("burst", "20"),
        ("allowed_ips", ""),
    ];
    let typed = [&opened[..], &[("recipients_per_day", "many")]].concat();
    let refused = browser.post(&format!("{path}/limits"), &typed).await;
    assert_eq!(refused.status, 422);
    refused.shows(&["value=\"many\"", "name=\"was_requests_per_second\" value=\"10\""]);
    let typed = [&opened[..], &[("recipients_per_day", "500")]].concat();
    browser.submit(&format!("{path}/limits"), &typed).await;
    let key = app.get(&api).await.body;
    assert_eq!((&key["rate"]["burst"], &key["quota"]["recipients_per_day"]), (&json!(99), &json!(500)));
    assert_eq!(key["allowed_ips"], json!(["192.0.2.0/24"]));
}
