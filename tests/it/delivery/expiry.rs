//! A recipient whose retry window or `expires_at` has passed expires; it does not bounce.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};

/// Runs all attempts until the only recipient reaches an end state. Returns how many hours that took.
async fn hours_until_end_state(app: &TestApp, id: &str) -> i64 {
    let start = postrider::clock::Clock::now(&*app.clock);
    loop {
        app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
        app.run_until_idle().await;
        let ann = app.recipient(id).await;
        match ann["next_attempt_at"].as_str() {
            Some(next) => {
                assert_eq!(ann["status"], "deferred");
                app.clock.advance_to(next);
            }
            None => return (postrider::clock::Clock::now(&*app.clock) - start).num_hours(),
        }
    }
}

#[tokio::test]
async fn message_expires_after_72_hours_of_deferrals() {
    let app = TestApp::start().await;
    let sent = app.send(json!({})).await;
    assert_eq!(hours_until_end_state(&app, &sent.id).await, 72);
    let ann = app.recipient(&sent.id).await;
    assert_eq!((&ann["status"], &ann["response"]["code"]), (&json!("expired"), &json!(451)));
    assert!((20..30).contains(&ann["attempts"].as_i64().unwrap()), "{ann}");
    let events = app.events(&sent.id).await;
    assert!(!events.contains(&"bounced".to_owned()) && events.last().unwrap() == "expired", "{events:?}");
}

#[tokio::test]
async fn message_expires_at_expires_at() {
    let app = TestApp::start().await;
    let sent = app.send(json!({"expires_at": app.clock.text_in(hours(2))})).await;
    assert_eq!(hours_until_end_state(&app, &sent.id).await, 2);
    assert_eq!(app.status(&sent.id).await, "expired");
}

#[tokio::test]
async fn expired_message_is_not_sent() {
    let app = TestApp::start().await;
    let sent = app.send(json!({"expires_at": app.clock.text_in(minutes(5))})).await;
    app.clock.advance(minutes(5));
    app.run_until_idle().await;
    assert_eq!(app.events(&sent.id).await, ["accepted", "expired"]);
    assert_eq!((&app.recipient(&sent.id).await["attempts"], app.smtp.connections()), (&json!(0), 0));
}
