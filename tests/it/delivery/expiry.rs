//! A recipient whose retry window ends is expired, not bounced.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};

/// Runs all attempts until the only recipient has an end state, and returns how many hours that took.
async fn hours_until_the_end(app: &TestApp, id: &str) -> i64 {
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
async fn three_days_of_later_end_as_expired() {
    let app = TestApp::start().await;
    let mail = app.send(json!({})).await;
    assert_eq!(hours_until_the_end(&app, &mail.id).await, 72);
    let ann = app.recipient(&mail.id).await;
    assert_eq!((&ann["status"], &ann["response"]["code"]), (&json!("expired"), &json!(451)));
    assert!((20..30).contains(&ann["attempts"].as_i64().unwrap()), "{ann}");
    let events = app.events(&mail.id).await;
    assert!(!events.contains(&"bounced".to_owned()) && events.last().unwrap() == "expired", "{events:?}");
}

#[tokio::test]
async fn expires_at_cuts_it_short() {
    let app = TestApp::start().await;
    let mail = app.send(json!({"expires_at": app.clock.text_in(hours(2))})).await;
    assert_eq!(hours_until_the_end(&app, &mail.id).await, 2);
    assert_eq!(app.status(&mail.id).await, "expired");
}

#[tokio::test]
async fn what_expired_while_it_waited_is_not_sent() {
    let app = TestApp::start().await;
    let mail = app.send(json!({"expires_at": app.clock.text_in(minutes(5))})).await;
    app.clock.advance(minutes(5));
    app.run_until_idle().await;
    assert_eq!(app.events(&mail.id).await, ["accepted", "expired"]);
    assert_eq!((&app.recipient(&mail.id).await["attempts"], app.smtp.connections()), (&json!(0), 0));
}
