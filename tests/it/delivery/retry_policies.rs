//! Streams with their own retry schedule, retry window and greylisting wait.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};

/// Starts an app with these stream settings, and sends a message so that the worker reads them.
async fn start(change: &'static str) -> TestApp {
    let app = TestApp::start().await;
    app.sql(change).await;
    // Longer than the cache TTL.
    app.clock.advance(minutes(1));
    app.send(json!({})).await;
    app.run_until_idle().await;
    app
}

#[tokio::test]
async fn stream_uses_its_own_retry_schedule_and_window() {
    let app = start("UPDATE streams SET retry_schedule = '{3600,7200}', retry_window = 9000 WHERE name = 'bulk'").await;
    app.smtp.rcpt("bo@example.test").replies(["451 4.3.2 later"; 3]);
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"; 3]);
    let bulk = app.send(json!({"stream": "bulk", "to": "bo@example.test"})).await;
    let usual = app.send(json!({})).await;

    app.run_until_idle().await;
    app.clock.advance(minutes(40));
    app.run_until_idle().await;
    assert_eq!(app.recipient(&usual.id).await["attempts"], 2, "the default wait is 1 minute");
    assert_eq!(app.recipient(&bulk.id).await["attempts"], 1, "the stream's wait is an hour, ±20 %");
    app.clock.advance(minutes(32));
    app.run_until_idle().await;
    assert_eq!(app.recipient(&bulk.id).await["attempts"], 2);
    app.clock.advance(hours(3));
    app.run_until_idle().await;
    assert_eq!((app.status(&bulk.id).await.as_str(), app.status(&usual.id).await.as_str()), ("expired", "relayed"));
}

#[tokio::test]
async fn wait_in_the_reply_overrides_the_streams_greylist() {
    let app = start("UPDATE streams SET greylist = 1200 WHERE name = 'bulk'").await;
    app.smtp.rcpt("bo@example.test").replies(["451 4.7.1 Greylisted"]);
    app.smtp.rcpt("cy@example.test").replies(["451 4.7.1 Greylisted for 30 seconds"]);
    let sent = app.send(json!({"stream": "bulk", "to": ["bo@example.test", "cy@example.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["deferred", "deferred"]);
    app.clock.advance(minutes(1));
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["deferred", "relayed"]);
    app.clock.advance(minutes(25));
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["relayed", "relayed"]);
}
