//! Actions on everything that matches a search, and exports.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;

use super::admin;
use crate::support::app::TestApp;
use crate::support::until::until;

async fn scheduled(app: &TestApp, subject: &str) -> String {
    app.send(json!({"subject": subject, "scheduled_at": app.clock.text_in(TimeDelta::hours(1))})).await.id
}

#[tokio::test]
async fn everything_that_matches_is_counted_and_then_canceled() {
    let (app, browser) = admin().await;
    let (one, other) = (scheduled(&app, "Spring sale").await, scheduled(&app, "Invoice").await);
    browser.page("/ui/messages?q=spring").await.shows(&["value=\"spring\"", "Cancel all…", "format=csv&#38;q=spring"]);
    let form = [("action", "cancel"), ("q", "spring")];
    let page = browser.post("/ui/actions/count", &form).await;
    assert_eq!(page.status, 200, "{}", page.text);
    page.shows(&["Cancel 1 recipient?", "<code class=\"break\">spring</code>", "This cannot be undone."]);
    assert_eq!(app.status(&one).await, "scheduled", "counting changes nothing");
    // Accepted between the count and the confirmation.
    app.clock.advance(TimeDelta::seconds(1));
    let later = scheduled(&app, "Spring sale again").await;
    let at = page.text.split("name=\"at\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let location = browser.submit("/ui/actions", &[("action", "cancel"), ("q", "spring"), ("at", at)]).await;
    until("the action is done", Duration::from_secs(20), async || {
        let page = browser.page(&location).await;
        if page.text.contains("badge-good\">done") { Ok(()) } else { Err(page.text) }
    })
    .await;
    browser.page(&location).await.shows(&["subject:spring", "<dt>Changed</dt><dd>1</dd>"]);
    browser.page("/ui/actions").await.shows(&["cancel", "subject:spring"]);
    assert_eq!((app.status(&one).await.as_str(), app.status(&other).await.as_str()), ("canceled", "scheduled"));
    assert_eq!(app.status(&later).await, "scheduled", "it was not counted");
}

#[tokio::test]
async fn action_without_a_count_is_counted_first() {
    let (app, browser) = admin().await;
    let sent = scheduled(&app, "Spring sale").await;
    let page = browser.post("/ui/actions", &[("action", "cancel"), ("q", "spring")]).await;
    assert_eq!(page.status, 200, "{}", page.text);
    page.shows(&["Cancel 1 recipient?"]);
    assert_eq!(app.status(&sent).await, "scheduled");
}

#[tokio::test]
async fn search_that_cannot_be_an_action_is_explained() {
    let (app, browser) = admin().await;
    scheduled(&app, "Invoice").await;
    for (q, text) in
        [("held:true", "`held:` cannot select"), ("status:bounced", "status: "), ("too:x", "is not a field")]
    {
        for path in ["/ui/actions/count", "/ui/actions"] {
            let page = browser.post(path, &[("action", "cancel"), ("q", q)]).await;
            assert_eq!(page.status, 422, "{path} {q}");
            page.shows(&[text]);
        }
    }
    browser.post("/ui/actions/count", &[("action", "retry"), ("q", "")]).await.shows(&["Nothing matches"]);
}

#[tokio::test]
async fn export_has_what_matches() {
    let (app, browser) = admin().await;
    scheduled(&app, "Spring sale").await;
    scheduled(&app, "Invoice").await;
    let csv = browser.page("/ui/messages/export?format=csv&q=spring").await;
    assert!(csv.header("content-type").starts_with("text/csv"));
    assert!(csv.header("content-disposition").starts_with("attachment"));
    assert!(csv.text.contains("Spring sale") && !csv.text.contains("Invoice"), "{}", csv.text);
    let ndjson = browser.page("/ui/messages/export?format=ndjson&q=").await;
    assert_eq!(ndjson.text.lines().count(), 2, "{}", ndjson.text);
    assert_eq!(browser.get("/ui/messages/export?q=too%3Ax").await.status, 422);
}

#[tokio::test]
async fn suggestions_name_streams_and_templates() {
    let (app, browser) = admin().await;
    app.post("/v1/streams", &json!({"name": "newsletter"})).await;
    app.post("/v1/templates", &json!({"name": "Invoice", "alias": "invoice"})).await;
    browser.page("/ui/messages").await.shows(&[
        "value=\"stream:newsletter\"",
        "value=\"template:invoice\"",
        "value=\"to:\"",
        "value=\"key:\"",
    ]);
}
