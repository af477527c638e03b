//! What callers get once content or events are deleted.

use serde_json::json;

use super::{advance, delete_old_data};
use crate::support::app::TestApp;

#[tokio::test]
async fn state_is_kept_without_content() {
    let app = TestApp::start().await;
    let file = json!([{"filename": "a.txt", "content": "aGk="}]);
    let id = app.send(json!({"html": "<p>secret</p>", "attachments": file})).await.id;
    app.run_until_idle().await;
    advance(&app, 60).await;
    delete_old_data(&app).await;

    let shown = app.message(&id).await;
    assert!(shown["content_deleted_at"].as_str().is_some_and(|at| at.starts_with("2027-01-22")), "{shown}");
    assert_eq!((&shown["status"], &shown["attachments"]), (&json!("relayed"), &json!([])));
    assert_eq!(app.get("/v1/messages").await.body["data"][0]["content_deleted_at"], shown["content_deleted_at"]);
    let path = |rest: &str| format!("/v1/messages/{id}/{rest}");
    for rest in ["raw", "attachments/0"] {
        let gone = app.get(&path(rest)).await;
        assert_eq!(gone.problem(), (410, "content_deleted"), "{rest}");
        assert!(gone.body["detail"].as_str().unwrap().contains("was deleted"), "{}", gone.body);
    }
    let retried = app.post(&path("retry"), &json!({})).await;
    assert_eq!(retried.problem(), (409, "nothing_to_retry"));
    assert!(retried.body["detail"].as_str().unwrap().contains("content"), "{}", retried.body);
    assert_eq!(app.get(&path("explain")).await.status, 200);
    let email = app.get(&format!("/emails/{}", uuid::Uuid::parse_str(&id[4..]).unwrap())).await;
    assert_eq!((email.status, &email.body["html"]), (200, &json!(null)), "{}", email.body);
}

#[tokio::test]
async fn expired_cursor_is_reported_with_the_next_one() {
    let app = TestApp::start().await;
    for _ in 0..3 {
        app.send(json!({})).await;
    }
    app.run_until_idle().await;
    app.worker.count_events().await.unwrap();
    let all = app.get("/v1/events?limit=100").await.body;
    let last = all["data"].as_array().unwrap().last().unwrap()["seq"].as_i64().unwrap();
    assert_eq!(last, 6);
    advance(&app, 100).await;
    assert!(delete_old_data(&app).await.weeks[2] > 0);
    app.send(json!({})).await;

    let expired = app.get("/v1/events?after=2").await;
    assert_eq!(expired.problem(), (410, "cursor_expired"), "{}", expired.body);
    assert_eq!(
        expired.body["detail"],
        "Events 3 to 6 were deleted because of their age. To continue with the first stored event, pass 6 instead of 2."
    );
    for after in ["", "after=0", "after=6"] {
        let page = app.get(&format!("/v1/events?{after}")).await;
        let first = page.body["data"][0]["seq"].as_i64();
        assert_eq!((page.status, first), (200, Some(7)), "{after}: {}", page.body);
    }
    let stream = app.request(reqwest::Method::GET, "/v1/events").header("accept", "text/event-stream");
    let stream = crate::support::client::ApiResponse::to(stream.header("last-event-id", "2")).await;
    assert_eq!(stream.problem(), (410, "cursor_expired"));
    assert_eq!(app.get("/v1/events?after=8").await.status, 422, "it does not exist yet");
}

#[tokio::test]
async fn feed_continues_after_all_events_are_deleted() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.worker.count_events().await.unwrap();
    advance(&app, 100).await;
    delete_old_data(&app).await;
    let empty = app.get("/v1/events").await.body;
    assert_eq!((&empty["data"], &empty["next"]), (&json!([]), &json!("2")));
    assert_eq!(app.get("/v1/events?after=2").await.status, 200);
    assert_eq!(app.get("/v1/events?after=latest").await.body["next"], "2");
    app.send(json!({})).await;
    assert_eq!(app.get("/v1/events?after=2").await.body["data"][0]["seq"], 3);
}

#[tokio::test]
async fn replay_from_deleted_events_is_refused() {
    let app = TestApp::builder().config(|config| config.webhooks.allow_private = true).start().await;
    let endpoint =
        app.post("/v1/webhooks", &json!({"url": "http://127.0.0.1:9/", "events": ["webhook.disabled"]})).await;
    let path = format!("/v1/webhooks/{}", endpoint.body["id"].as_str().unwrap());
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.worker.count_events().await.unwrap();
    app.worker.notify().await.unwrap();
    advance(&app, 100).await;
    assert!(delete_old_data(&app).await.weeks[2] > 0);
    let refused = app.post(&format!("{path}/replay"), &json!({"after_seq": 1})).await;
    assert_eq!(refused.problem(), (410, "cursor_expired"), "{}", refused.body);
    for start in [json!({"after_seq": 0}), json!({"since": "2026-11-23T00:00:00Z"})] {
        assert_eq!(app.post(&format!("{path}/replay"), &start).await.status, 200, "what is stored: {start}");
    }
}
