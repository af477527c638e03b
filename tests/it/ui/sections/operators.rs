//! Tenants, workers and the database, for keys with the scope `operator`.

use postrider::domain::key::Scope;
use serde_json::{Value, json};

use super::admin;
use crate::support::app::TestApp;
use crate::ui::browser::Browser;

async fn tenant(app: &TestApp) -> String {
    app.post("/v1/tenants", &json!({"name": "Acme"})).await.body["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn tenant_is_suspended_with_a_reason_and_resumed() {
    let (app, browser) = admin().await;
    let id = tenant(&app).await;
    browser.page("/ui/tenants").await.shows(&["Acme", "active"]);
    let path = format!("/ui/tenants/{id}");
    let location = browser.submit(&format!("{path}/suspend"), &[("reason", "unpaid")]).await;
    browser.page(&location).await.shows(&["The tenant was suspended.", "unpaid", "Resume the tenant"]);
    let state = async || app.get(&format!("/v1/tenants/{id}")).await.body["status"].clone();
    assert_eq!(state().await, "suspended");
    browser.page("/ui/tenants?filter=suspended").await.shows(&["Acme"]);
    browser.submit(&format!("{path}/resume"), &[]).await;
    assert_eq!(state().await, "active");
}

#[tokio::test]
async fn tenant_is_created_and_limited() {
    let (app, browser) = admin().await;
    let path = browser.submit("/ui/tenants", &[("name", "Acme")]).await;
    let path = path.split('?').next().unwrap().to_owned();
    let limits =
        [("requests_per_second", "10"), ("recipients_per_day", "5,000"), ("weight", "200"), ("min_priority", "40")];
    let location = browser.submit(&format!("{path}/limits"), &limits).await;
    browser.page(&location).await.shows(&["5,000", "Left today", "value=\"200\""]);
    let api = path.replace("/ui", "/v1");
    let page = browser.post(&format!("{path}/key"), &[("name", "first")]).await;
    page.shows(&["It is not shown again", "first", "pr_live_"]);
    let tenant = app.get(&api).await.body;
    assert_eq!((&tenant["weight"], &tenant["quota"]["recipients_per_day"]), (&json!(200), &json!(5_000)));
    assert_eq!(tenant["min_priority"], 40);
    browser.submit(&format!("{path}/limits"), &[("weight", "100")]).await;
    assert_eq!(app.get(&api).await.body["rate"], Value::Null, "an empty field removes the limit");
    let refused = browser.post(&format!("{path}/limits"), &[("requests_per_second", "ten"), ("weight", "100")]).await;
    assert_eq!(refused.status, 422);
    refused.shows(&["write a whole number", "value=\"ten\""]);
    assert_eq!(browser.post("/ui/tenants", &[("name", "Acme")]).await.status, 422, "the name is taken");
}

#[tokio::test]
async fn limits_of_a_tenant_that_the_form_did_not_change_stay() {
    let (app, browser) = admin().await;
    let id = tenant(&app).await;
    let (path, api) = (format!("/ui/tenants/{id}"), format!("/v1/tenants/{id}"));
    let weight = app.get(&api).await.body["weight"].to_string();
    browser.page(&path).await.shows(&[&format!("name=\"was_weight\" value=\"{weight}\"")]);
    // A colleague sets the priority while the form is open.
    browser.submit(&format!("{path}/limits"), &[("min_priority", "40")]).await;
    let empty = ["requests_per_second", "burst", "recipients_per_day", "min_priority"];
    let opened = empty.map(|name| (format!("was_{name}"), String::new()));
    let mut typed: Vec<(&str, &str)> = opened.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    typed.extend([("was_weight", weight.as_str()), ("weight", "300"), ("min_priority", "")]);
    browser.submit(&format!("{path}/limits"), &typed).await;
    let tenant = app.get(&api).await.body;
    assert_eq!((&tenant["weight"], &tenant["min_priority"]), (&json!(300), &json!(40)));
}

#[tokio::test]
async fn refused_forms_of_a_tenant_keep_what_was_typed() {
    let (app, browser) = admin().await;
    let path = format!("/ui/tenants/{}", tenant(&app).await);
    let (reason, name) = ("a".repeat(501), "b".repeat(129));
    for (action, field, value) in
        [("suspend", "reason", reason.as_str()), ("key", "name", name.as_str()), ("delete", "name", "Acne")]
    {
        let refused = browser.post(&format!("{path}/{action}"), &[(field, value)]).await;
        assert_eq!(refused.status, 422, "{action}: {}", refused.text);
        refused.shows(&["role=\"alert\"", &format!("value=\"{value}\""), "class=\"confirm\" open"]);
        assert_eq!(refused.text.matches("class=\"confirm\" open").count(), 1, "{action}: {}", refused.text);
    }
}

#[tokio::test]
async fn tenant_is_deleted_once_its_name_was_typed() {
    let (app, browser) = admin().await;
    let id = tenant(&app).await;
    let path = format!("/ui/tenants/{id}");
    let refused = browser.post(&format!("{path}/delete"), &[("name", "acme")]).await;
    assert_eq!(refused.status, 422);
    refused.shows(&["Nothing was deleted."]);
    assert_eq!(app.get(&format!("/v1/tenants/{id}")).await.body["status"], "active");
    let location = browser.submit(&format!("{path}/delete"), &[("name", "Acme")]).await;
    browser.page(&location).await.shows(&["Its data is being deleted."]);
    assert_ne!(app.get(&format!("/v1/tenants/{id}")).await.body["deletion"], Value::Null);
}

#[tokio::test]
async fn operators_key_opens_only_its_sections() {
    let (app, _) = admin().await;
    let operator = app.with_scopes(&[Scope::Operator]).await;
    let browser = Browser::signed_in(&app.base, &operator.key).await;
    assert_eq!(browser.get("/ui").await.location(), "/ui/tenants");
    let page = browser.page("/ui/tenants").await;
    page.shows(&["href=\"/ui/service\""]);
    assert!(!page.text.contains("href=\"/ui/messages\""), "{}", page.text);
    assert_eq!(browser.get("/ui/messages").await.status, 403);
    let reader = app.with_scopes(&[Scope::Admin]).await;
    let browser = Browser::signed_in(&app.base, &reader.key).await;
    assert!(!browser.page("/ui").await.text.contains("href=\"/ui/tenants\""));
    for path in ["/ui/tenants", "/ui/service"] {
        assert_eq!(browser.get(path).await.status, 403, "{path}");
    }
}

#[tokio::test]
async fn service_page_shows_workers_and_what_is_wrong() {
    let (app, browser) = admin().await;
    app.post("/v1/streams/bulk/pause", &json!({"reason": "the relay moves"})).await;
    app.run_until_idle().await;
    let page = browser.page("/ui/service").await;
    page.shows(&["What needs attention", "stream bulk", "tenant ten_", "process ", "Postgres"]);
    assert!(!page.text.contains("the relay moves"), "a tenant's text: {}", page.text);
    let workers = app.get("/v1/workers").await.body;
    page.shows(&[workers["data"][0]["id"].as_str().unwrap(), "alive"]);
    let service = app.get("/v1/service").await.body;
    let checks = service["checks"].as_array().unwrap();
    let paused = checks.iter().find(|check| check["name"] == "stream bulk").expect("a check");
    assert_eq!(paused["status"], "warn", "{service}");
    assert!(service["database"]["connections"].as_u64().unwrap() > 0, "{service}");
}
