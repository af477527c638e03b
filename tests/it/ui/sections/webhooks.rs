//! The request and the reply of a delivery.

use serde_json::json;

use crate::support::hooks;
use crate::support::receiver::{Receiver, Reply};
use crate::ui::browser::Browser;

#[tokio::test]
async fn failed_delivery_shows_request_and_reply() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = app.post("/v1/webhooks", &json!({"url": receiver.url("/hook")})).await.body;
    receiver.script("/hook", [Reply::Status(503)]);
    let sent = app.send(json!({})).await;
    app.notify().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let page = browser.page(&format!("/ui/webhooks/{}", hook["id"].as_str().unwrap())).await;
    page.shows(&["badge-bad\">503<"]);
    let is_request = |(name, value): &&(String, String)| name == "href" && value.contains("/request?seq=");
    let tags = page.tags();
    let (_, path) = tags.iter().flat_map(|tag| &tag.attributes).find(is_request).expect("a link to the request");
    let request = browser.page(path).await;
    request.shows(&["badge-bad\">503<", "answer", "message.accepted", &sent.id, "webhook-id"]);
}

#[tokio::test]
async fn refused_start_of_a_replay_is_kept() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = app.post("/v1/webhooks", &json!({"url": receiver.url("/hook")})).await.body;
    let path = format!("/ui/webhooks/{}/replay", hook["id"].as_str().unwrap());
    let browser = Browser::signed_in(&app.base, &app.key).await;
    for from in ["yesterday", "999999"] {
        let page = browser.post(&path, &[("from", from)]).await;
        assert_eq!(page.status, 422, "{from}: {}", page.text);
        page.shows(&["role=\"alert\"", "From: ", &format!("value=\"{from}\""), "class=\"confirm\" open"]);
    }
}
