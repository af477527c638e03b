//! What the overview says is in order, what every page says about the tenant, and what it hides.

use postrider::domain::key::Scope;
use serde_json::json;

use super::browser::Browser;
use crate::support::app::TestApp;

#[tokio::test]
async fn overview_says_only_what_was_looked_at() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let all = "No lane is stopped, no message is held, no webhook fails, and no domain lacks its records.";
    browser.page("/ui").await.shows(&["Nothing is wrong", all]);
    let limited = json!({"name": "shop", "scopes": ["read"], "sender_domains": ["shop.test"]});
    let limited = app.post("/v1/keys", &limited).await.body;
    let page = Browser::signed_in(&app.base, limited["secret"].as_str().unwrap()).await.page("/ui").await;
    page.shows(&["No problem was found", "No message is held and no domain lacks its records."]);
    page.shows(&["Not visible to this key: lanes, webhooks."]);
    assert!(!page.text.contains("Nothing is wrong") && !page.text.contains("webhook fails"), "{}", page.text);
}

#[tokio::test]
async fn suspension_is_one_problem_and_shown_on_every_page() {
    let app = TestApp::start().await;
    let sent = app.send(json!({"to": ["ann@example.test", "bo@other.test"]})).await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    browser.page("/ui/lanes").await.shows(&["Pause the lane"]);
    let tenant = "/v1/tenants/ten_00000000000000000000000000000000";
    assert_eq!(app.post(&format!("{tenant}/suspend"), &json!({"reason": "unpaid"})).await.status, 200);
    let banner = "This tenant is suspended since 2026-11-23 12:00 UTC: unpaid. Nothing is accepted or sent.";
    for path in ["/ui", "/ui/lanes", "/ui/keys", &format!("/ui/messages/{}", sent.id)] {
        browser.page(path).await.shows(&[banner]);
    }
    let overview = browser.page("/ui").await;
    assert_eq!(overview.text.matches("class=\"problem-title\"").count(), 1, "{}", overview.text);
    let lanes = browser.page("/ui/lanes").await;
    assert!(!lanes.text.contains("Pause the lane") && !lanes.text.contains("Resume"), "{}", lanes.text);
    assert_eq!(app.post(&format!("{tenant}/resume"), &json!({})).await.status, 200);
    assert!(!browser.page("/ui").await.text.contains("suspended"));
}

#[tokio::test]
async fn session_of_a_test_key_shows_test_data_and_says_so() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    let browser = Browser::signed_in(&app.base, &test.key).await;
    for path in ["/ui", "/ui/messages", "/ui/lanes"] {
        browser.page(path).await.shows(&["Test data. Nothing leaves this machine."]);
    }
    for (path, form) in [("/ui/domains", "action=\"/ui/domains\""), ("/ui/keys", "action=\"/ui/keys\"")] {
        assert!(!browser.page(path).await.text.contains(form), "{path}");
        let live = Browser::signed_in(&app.base, &app.key).await.page(path).await;
        live.shows(&[form]);
        assert!(!live.text.contains("Test data"), "{path}");
    }
}

#[tokio::test]
async fn failure_page_shows_the_id_of_the_request() {
    let app = TestApp::start().await;
    let reader = app.with_scopes(&[Scope::Read]).await;
    let page = Browser::signed_in(&app.base, &reader.key).await.get("/ui/keys").await;
    assert_eq!(page.status, 403);
    page.shows(&[&format!("Request <code>{}</code>", page.header("x-request-id"))]);
}
