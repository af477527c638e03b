//! The actions of the pages, as forms.

use chrono::TimeDelta;
use postrider::domain::key::Scope;
use serde_json::{Value, json};

use super::browser::{Browser, Page};
use crate::support::app::TestApp;

async fn admin() -> (TestApp, Browser) {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    (app, browser)
}

async fn first(app: &TestApp, path: &str) -> Value {
    app.get(path).await.body["data"][0].clone()
}

#[tokio::test]
async fn message_is_canceled() {
    let (app, browser) = admin().await;
    let sent = app.send(json!({"scheduled_at": app.clock.text_in(TimeDelta::hours(1))})).await;
    let path = format!("/ui/messages/{}", sent.id);
    browser.page(&path).await.shows(&["Cancel the message"]);
    let location = browser.submit(&format!("{path}/cancel"), &[]).await;
    assert_eq!(location, format!("{path}?done=canceled"));
    browser.page(&location).await.shows(&["The message was canceled."]);
    assert_eq!(app.status(&sent.id).await, "canceled");
}

#[tokio::test]
async fn message_in_flight_is_too_late_to_cancel() {
    let (app, browser) = admin().await;
    let gate = app.smtp.dot().stalls();
    let sent = app.send(json!({})).await;
    let working = app.start_working();
    gate.reached().await;
    let location = browser.submit(&format!("/ui/messages/{}/cancel", sent.id), &[]).await;
    let page = browser.page(&location).await;
    page.shows(&["Too late to cancel"]);
    assert!(!page.text.contains("was canceled"), "{}", page.text);
    gate.open();
    working.await.unwrap().unwrap();
    assert_eq!(app.status(&sent.id).await, "relayed");
}

#[tokio::test]
async fn partly_canceled_message_says_so() {
    let (app, browser) = admin().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
    let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.run_until_idle().await;
    let location = browser.submit(&format!("/ui/messages/{}/cancel", sent.id), &[]).await;
    browser.page(&location).await.shows(&["Canceled for some recipients"]);
}

#[tokio::test]
async fn lane_is_retried_and_says_whether_anything_was_deferred() {
    let (app, browser) = admin().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    let id = first(&app, "/v1/lanes").await["id"].as_str().unwrap().to_owned();
    let retry = async || browser.submit(&format!("/ui/lanes/{id}/retry"), &[]).await;
    browser.page(&retry().await).await.shows(&["deferred recipients are due now"]);
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "relayed");
    browser.page(&retry().await).await.shows(&["has no deferred recipients"]);
}

#[tokio::test]
async fn deferred_message_is_retried_now() {
    let (app, browser) = admin().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    browser.submit(&format!("/ui/messages/{}/retry", sent.id), &[]).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "relayed");
}

#[tokio::test]
async fn lane_is_paused_with_a_reason_and_resumed() {
    let (app, browser) = admin().await;
    app.send(json!({})).await;
    let id = first(&app, "/v1/lanes").await["id"].as_str().unwrap().to_owned();
    browser.submit(&format!("/ui/lanes/{id}/pause"), &[("reason", "the relay moves")]).await;
    assert_eq!(first(&app, "/v1/lanes").await["paused"]["reason"], "the relay moves");
    browser.page("/ui/lanes").await.shows(&["the relay moves", "Resume"]);
    browser.submit(&format!("/ui/lanes/{id}/resume"), &[]).await;
    assert_eq!(first(&app, "/v1/lanes").await["paused"], Value::Null);
}

#[tokio::test]
async fn action_on_a_lane_leads_back_to_the_same_list() {
    let (app, browser) = admin().await;
    app.send(json!({})).await;
    let id = first(&app, "/v1/lanes").await["id"].as_str().unwrap().to_owned();
    let next = format!("/ui/lanes?q=example.test&after=7#{id}-details");
    let location = browser.submit(&format!("/ui/lanes/{id}/pause"), &[("next", &next)]).await;
    assert_eq!(location, format!("/ui/lanes?q=example.test&after=7&done=paused#{id}-details"));
    let location = browser.submit(&format!("/ui/lanes/{id}/resume"), &[("next", "https://evil.test/")]).await;
    assert_eq!(location, "/ui?done=resumed");
}

#[tokio::test]
async fn traced_lane_keeps_conversations_of_successes() {
    let (app, browser) = admin().await;
    let sent = app.send(json!({})).await;
    let id = first(&app, "/v1/lanes").await["id"].as_str().unwrap().to_owned();
    let location = browser.submit(&format!("/ui/lanes/{id}/trace"), &[]).await;
    browser.page(&location).await.shows(&["The next 10 SMTP conversations of the lane are recorded"]);
    app.run_until_idle().await;
    browser.page(&format!("/ui/messages/{}", sent.id)).await.shows(&["relayed", "SMTP conversation"]);
}

#[tokio::test]
async fn stream_is_paused_and_resumed() {
    let (app, browser) = admin().await;
    browser.submit("/ui/streams/bulk/pause", &[]).await;
    assert_ne!(app.get("/v1/streams/bulk").await.body["paused"], Value::Null);
    browser.submit("/ui/streams/bulk/resume", &[]).await;
    assert_eq!(app.get("/v1/streams/bulk").await.body["paused"], Value::Null);
}

#[tokio::test]
async fn change_is_in_the_audit_log_with_the_browser() {
    let (app, browser) = admin().await;
    let form = browser.form("/ui/streams/bulk/pause", &[("reason", "a test")]);
    let page = Page::to(form.header("sec-fetch-site", "same-origin").header("user-agent", "a browser")).await;
    assert_eq!(page.status, 303, "{}", page.text);
    let entry = first(&app, "/v1/audit?action=pause_stream").await;
    assert_eq!((&entry["source"], &entry["object"]), (&json!("dashboard"), &json!("bulk")), "{entry}");
    assert_eq!((&entry["result"], &entry["after"]["paused"]["reason"]), (&json!("done"), &json!("a test")), "{entry}");
    let actor = &entry["actor"];
    assert_eq!((&actor["name"], &actor["user_agent"]), (&json!("test"), &json!("a browser")), "{entry}");
    assert_eq!(actor["remote_address"], "127.0.0.1");
}

#[tokio::test]
async fn suppression_is_added_and_removed() {
    let (app, browser) = admin().await;
    browser.submit("/ui/suppressions", &[("address", " ann@example.test "), ("note", "by phone")]).await;
    let entry = first(&app, "/v1/suppressions").await;
    assert_eq!((&entry["address"], &entry["note"]), (&json!("ann@example.test"), &json!("by phone")));
    browser.page("/ui/suppressions?q=ann%40example.test").await.shows(&["by phone"]);
    browser.submit("/ui/suppressions/remove", &[("address", "ann@example.test"), ("stream", "*")]).await;
    assert_eq!(app.get("/v1/suppressions").await.body["data"], json!([]));
}

#[tokio::test]
async fn wrong_address_is_explained_beside_the_form() {
    let (_app, browser) = admin().await;
    let page = browser.post("/ui/suppressions", &[("address", "nobody")]).await;
    assert_eq!(page.status, 422);
    page.shows(&["note-bad", "address"]);
    browser.page("/ui/suppressions?q=nobody").await.shows(&["address: Pass an address"]);
}

#[tokio::test]
async fn key_is_created_shown_once_and_revoked() {
    let (app, browser) = admin().await;
    // The list is ordered by time.
    app.clock.advance(TimeDelta::seconds(1));
    let page = browser.post("/ui/keys", &[("name", "shop"), ("role", "send-read")]).await;
    page.shows(&["It is not shown again", "shop"]);
    let secret = page.text.split("data-copy=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().to_owned();
    let shop = app.with_key(&secret);
    assert_eq!(shop.get("/v1/messages").await.status, 200);
    assert!(!browser.page("/ui/keys").await.text.contains(&secret));
    let id = first(&app, "/v1/keys").await["id"].as_str().unwrap().to_owned();
    browser.submit(&format!("/ui/keys/{id}/revoke"), &[]).await;
    assert_eq!(shop.get("/v1/messages").await.status, 401);
    browser.page("/ui/keys").await.shows(&["revoked"]);
}

#[tokio::test]
async fn domain_is_registered_and_shows_its_records() {
    let app = TestApp::builder()
        .config(|config| config.secret_key = Some("a secret of the tests, and of nobody else".to_owned().into()))
        .start()
        .await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let location = browser.submit("/ui/domains", &[("name", "acme.test")]).await;
    browser.page(&location).await.shows(&["_domainkey.acme.test", "data-copy=\"v=DKIM1;", "pending"]);
    let refused = browser.post("/ui/domains", &[("name", "acme.test")]).await;
    assert_eq!(refused.status, 422);
    refused.shows(&["already registered", "value=\"acme.test\""]);
}

#[tokio::test]
async fn reader_gets_no_buttons_and_no_actions() {
    let app = TestApp::start().await;
    let reader = app.with_scopes(&[Scope::Read]).await;
    let sent = app.send(json!({"scheduled_at": app.clock.text_in(TimeDelta::hours(1))})).await;
    let browser = Browser::signed_in(&app.base, &reader.key).await;
    let page = browser.page(&format!("/ui/messages/{}", sent.id)).await;
    assert!(!page.text.contains("Cancel the message"), "{}", page.text);
    let refused = browser.post(&format!("/ui/messages/{}/cancel", sent.id), &[]).await;
    assert_eq!(refused.status, 403);
    refused.shows(&["This key lacks the scope `send`."]);
    assert_eq!(app.status(&sent.id).await, "scheduled");
    let id = first(&app, "/v1/lanes").await["id"].as_str().unwrap().to_owned();
    assert_eq!(browser.post(&format!("/ui/lanes/{id}/pause"), &[]).await.status, 403);
}
