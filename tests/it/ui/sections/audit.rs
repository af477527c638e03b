//! The audit log: who changed what, with the values before and after.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::json;

use super::admin;

#[tokio::test]
async fn change_is_shown_with_values_before_and_after() {
    let (app, browser) = admin().await;
    app.patch("/v1/streams/bulk", &json!({"rate": 50})).await;
    let page = browser.page("/ui/audit").await;
    page.shows(&["update stream", "bulk", "<td class=\"mono c-main\">rate</td>", "50.0", "127.0.0.1", "badge-good"]);
    assert!(!page.text.contains("c-main\">weight<"), "unchanged fields are shown: {}", page.text);
}

#[tokio::test]
async fn filters_narrow_the_list_and_stay_in_the_pages() {
    let (app, browser) = admin().await;
    for n in 0..51 {
        app.clock.advance(TimeDelta::seconds(1));
        app.patch("/v1/streams/bulk", &json!({"rate": n + 1})).await;
    }
    app.post("/v1/streams/transactional/pause", &json!({})).await;
    let found = browser.page("/ui/audit?object=bulk&action=update_stream&since=1h").await;
    assert!(!found.text.contains("pause stream"), "{}", found.text);
    found.shows(&["Next page", "action=update_stream&#38;object=bulk&#38;since=1h&#38;after=aud_"]);
    browser.page("/ui/audit?object=none").await.shows(&["No change matches"]);
    browser.page("/ui/audit?since=yesterday").await.shows(&["is not a time"]);
}

#[tokio::test]
async fn refused_change_is_marked() {
    let (app, browser) = admin().await;
    let response = app.request(Method::PATCH, "/v1/streams/bulk").json(&json!({"rate": -1})).send().await.unwrap();
    assert_eq!(response.status(), 422);
    browser.page("/ui/audit").await.shows(&["refused", "badge-bad"]);
}
