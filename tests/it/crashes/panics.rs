//! A message that makes a worker panic does not affect others.

use serde_json::json;

use crate::support::app::TestApp;

#[tokio::test]
async fn message_with_an_overflowing_deadline_is_held_others_are_sent() {
    let app = TestApp::start().await;
    let message = app.send(json!({})).await;
    // One of the last possible dates, so that adding the retry window overflows.
    app.sql("UPDATE queue SET first_due_at = '262142-12-30T00:00:00Z'").await;
    let other = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!((app.status(&other.id).await.as_str(), app.smtp.messages().len()), ("relayed", 1));
    let ann = app.recipient(&message.id).await;
    assert!(ann["held"].as_str().is_some_and(|held| held.starts_with("held: postrider failed")), "{ann}");
    assert_eq!(app.post(&format!("/v1/messages/{}/cancel", message.id), &json!({})).await.status, 200);
}
