//! A stream may keep the content of its messages for another time.

use serde_json::{Value, json};

use super::{advance, delete_old_data};
use crate::support::app::TestApp;

async fn status_of_content(app: &TestApp, id: &str) -> u16 {
    app.get(&format!("/v1/messages/{id}/raw")).await.status
}

#[tokio::test]
async fn streams_keep_content_for_their_own_time() {
    let app = TestApp::start().await;
    for (name, kept) in [("codes", json!("1d")), ("letters", json!("forever")), ("other", Value::Null)] {
        let made = app.post("/v1/streams", &json!({"name": name, "content_retention": kept})).await;
        assert_eq!((made.status, &made.body["content_retention"]), (201, &kept), "{}", made.body);
    }
    let mut ids = Vec::new();
    for stream in ["codes", "letters", "other"] {
        ids.push(app.send(json!({"stream": stream})).await.id);
    }
    app.run_until_idle().await;
    for (days, statuses) in [(5, [200, 200, 200]), (4, [410, 200, 200]), (50, [410, 200, 410])] {
        advance(&app, days).await;
        delete_old_data(&app).await;
        for (id, status) in ids.iter().zip(statuses) {
            assert_eq!(status_of_content(&app, id).await, status, "after {days} more days");
        }
    }
    // What was kept is not read again until another stream's period has passed.
    let read_for = "SELECT count(DISTINCT read_for) FROM retention_weeks WHERE week = '2026-11-23'";
    assert_eq!(super::number(&app, read_for).await, 1);
    assert_eq!(delete_old_data(&app).await.contents, 0);
    assert_eq!(app.patch("/v1/streams/letters", &json!({"content_retention": null})).await.status, 200);
    assert_eq!(delete_old_data(&app).await.weeks[0], 1, "nothing else keeps the week");
    assert_eq!(status_of_content(&app, &ids[1]).await, 410);
}

#[tokio::test]
async fn content_is_not_kept_longer_than_messages() {
    let app = TestApp::start().await;
    let refused = app.patch("/v1/streams/bulk", &json!({"content_retention": "366d"})).await;
    assert_eq!(refused.faults(), [("/content_retention", "invalid_value")]);
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("`retention.messages`, 365d"), "{detail}");
    for value in [json!("1h"), json!("never"), json!(true)] {
        let refused = app.patch("/v1/streams/bulk", &json!({"content_retention": value})).await;
        assert_eq!(refused.status, 422, "{value}");
    }
    assert_eq!(app.get("/v1/streams/bulk").await.body["content_retention"], json!(null));
}

#[tokio::test]
async fn test_streams_have_the_period_of_the_live_ones() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    app.patch("/v1/streams/bulk", &json!({"content_retention": "2d"})).await;
    assert_eq!(test.get("/v1/streams/bulk").await.body["content_retention"], "2d");
}
