//! Limits of lanes, and pauses of a lane below a paused stream.

use serde_json::{Value, json};

use super::admin;
use crate::support::app::TestApp;

async fn lane(app: &TestApp) -> Value {
    app.get("/v1/lanes").await.body["data"][0].clone()
}

#[tokio::test]
async fn limits_of_a_lane_are_set_and_removed() {
    let (app, browser) = admin().await;
    app.send(json!({})).await;
    let id = lane(&app).await["id"].as_str().unwrap().to_owned();
    let path = format!("/ui/lanes/{id}/limits");
    let location =
        browser.submit(&path, &[("rate", "0.5"), ("connections", "2"), ("messages_per_connection", "")]).await;
    browser.page(&location).await.shows(&["The limits of the lane were changed.", "value=\"0.5\"", "value=\"2\""]);
    let limits = lane(&app).await["limits"].clone();
    assert_eq!((&limits["rate"]["own"], &limits["connections"]["own"]), (&json!(0.5), &json!(2)));
    browser.submit(&path, &[]).await;
    assert_eq!(lane(&app).await["limits"]["rate"]["own"], Value::Null);
    let refused = browser.post(&path, &[("rate", "1,5"), ("connections", "7")]).await;
    assert_eq!(refused.status, 422, "a decimal comma");
    refused.shows(&["role=\"alert\"", "value=\"1,5\"", "value=\"7\""]);
    // The second try must not undo what a colleague has changed since the form was opened.
    let refused = browser.post(&path, &[("rate", "x"), ("connections", "2"), ("was_connections", "2")]).await;
    refused.shows(&["name=\"was_connections\" value=\"2\""]);
}

#[tokio::test]
async fn limits_that_the_form_did_not_change_stay() {
    let (app, browser) = admin().await;
    app.send(json!({})).await;
    let id = lane(&app).await["id"].as_str().unwrap().to_owned();
    let form = browser.page("/ui/lanes").await;
    form.shows(&["name=\"was_rate\" value=\"\"", "name=\"was_connections\" value=\"\""]);
    // A colleague sets the rate while the form is open.
    browser.submit(&format!("/ui/lanes/{id}/limits"), &[("rate", "5")]).await;
    let fields = [("rate", ""), ("was_rate", ""), ("connections", "3"), ("was_connections", "")];
    browser.submit(&format!("/ui/lanes/{id}/limits"), &fields).await;
    let limits = lane(&app).await["limits"].clone();
    assert_eq!((&limits["rate"]["own"], &limits["connections"]["own"]), (&json!(5.0), &json!(3)));
}

#[tokio::test]
async fn lane_below_a_paused_stream_is_not_paused_again() {
    let (app, browser) = admin().await;
    app.send(json!({})).await;
    let id = lane(&app).await["id"].as_str().unwrap().to_owned();
    app.post(&format!("/v1/lanes/{id}/pause"), &json!({"reason": "the postmaster asked"})).await;
    app.post("/v1/streams/transactional/pause", &json!({"reason": "the relay moves"})).await;
    let found = lane(&app).await;
    assert_eq!((&found["paused"]["what"], &found["own_pause"]["what"]), (&json!("stream"), &json!("lane")));
    let page = browser.page("/ui/lanes").await;
    page.shows(&["the relay moves", "The lane itself was paused, too", "the postmaster asked", "/resume"]);
    assert!(!page.text.contains("Pause the lane"), "{}", page.text);
    browser.submit(&format!("/ui/lanes/{id}/resume"), &[]).await;
    assert_eq!(lane(&app).await["own_pause"], Value::Null);
    browser.page("/ui/lanes").await.shows(&["Pause the lane"]);
}
