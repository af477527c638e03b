//! Streams: created, and changed.

use serde_json::{Value, json};

use super::admin;

#[tokio::test]
async fn stream_is_created_and_its_settings_are_changed() {
    let (app, browser) = admin().await;
    browser.submit("/ui/streams", &[("name", "newsletter")]).await;
    let fields = [("priority", "70"), ("weight", "5"), ("rate", "12.5"), ("concurrency", "40"), ("retry_window", "2d")];
    let location = browser.submit("/ui/streams/newsletter/settings", &fields).await;
    browser.page(&location).await.shows(&["Changed.", "12.5/s", "value=\"2d\""]);
    let stream = app.get("/v1/streams/newsletter").await.body;
    assert_eq!((&stream["priority"], &stream["weight"], &stream["rate"]), (&json!(70), &json!(5), &json!(12.5)));
    browser.submit("/ui/streams/newsletter/settings", &[("priority", "70"), ("weight", "5")]).await;
    let stream = app.get("/v1/streams/newsletter").await.body;
    assert_eq!((&stream["rate"], &stream["retry_window"]), (&Value::Null, &Value::Null));
    let typed = [("rate", "fast"), ("concurrency", "77"), ("was_rate", "3")];
    let refused = browser.post("/ui/streams/newsletter/settings", &typed).await;
    assert_eq!(refused.status, 422);
    refused.shows(&["newsletter: rate: ", "value=\"fast\"", "value=\"77\"", "name=\"was_rate\" value=\"3\""]);
    refused.shows(&["id=\"stream-newsletter-settings\" open"]);
    assert!(!refused.text.contains("id=\"stream-bulk-settings\" open"), "{}", refused.text);
    let taken = browser.post("/ui/streams", &[("name", "newsletter")]).await;
    assert_eq!(taken.status, 422);
    taken.shows(&["already exists"]);
}

#[tokio::test]
async fn refused_reason_of_a_pause_is_kept() {
    let (app, browser) = admin().await;
    app.send(json!({})).await;
    let lane = app.get("/v1/lanes").await.body["data"][0]["id"].as_str().unwrap().to_owned();
    let reason = "a".repeat(501);
    for path in ["/ui/streams/bulk/pause".to_owned(), format!("/ui/lanes/{lane}/pause")] {
        let refused = browser.post(&path, &[("reason", &reason)]).await;
        assert_eq!(refused.status, 422, "{path}: {}", refused.text);
        refused.shows(&["role=\"alert\"", &format!("value=\"{reason}\""), "-pause\" open"]);
    }
}
