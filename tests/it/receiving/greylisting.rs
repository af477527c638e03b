//! Greylisting of messages for inbound routes (`inbound.greylist`).

use std::time::Duration;

use super::{deliver, mime, received, route};
use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};

const TO: &str = "x@reply.acme.test";

async fn start() -> TestApp {
    let app = TestApp::builder()
        .with_inbound()
        .config(|config| config.inbound.greylist = Duration::from_mins(5))
        .start()
        .await;
    route(&app, "*@reply.acme.test", "store").await;
    app
}

/// Delivers a message, and returns the code of the reply to its end.
async fn code(app: &TestApp, from: &str, to: &[&str]) -> String {
    let replies = deliver(app, from, to, &mime("")).await;
    replies.last().unwrap()[..9].to_owned()
}

#[tokio::test]
async fn unknown_sender_passes_after_the_delay() {
    let app = start().await;
    assert_eq!(code(&app, "ann@example.test", &[TO]).await, "451 4.7.1");
    app.clock.advance(minutes(4));
    assert_eq!(code(&app, "ann@example.test", &[TO]).await, "451 4.7.1", "it has not waited long enough");
    app.clock.advance(minutes(2));
    assert_eq!(code(&app, "Ann@Example.test", &[TO]).await, "250 2.0.0");
    assert_eq!(code(&app, "ann@example.test", &[TO]).await, "250 2.0.0");
    for (from, to) in [("bob@example.test", TO), ("ann@example.test", "y@reply.acme.test"), ("", TO)] {
        assert_eq!(code(&app, from, &[to]).await, "451 4.7.1", "{from} {to}");
    }
    assert_eq!(code(&app, "ann@example.test", &[TO, "z@reply.acme.test"]).await, "451 4.7.1", "the reply is for both");
    assert_eq!(received(&app).await.len(), 2);
}

#[tokio::test]
async fn known_sender_is_remembered_for_weeks() {
    let app = start().await;
    code(&app, "ann@example.test", &[TO]).await;
    app.clock.advance(minutes(6));
    assert_eq!(code(&app, "ann@example.test", &[TO]).await, "250 2.0.0");
    for _ in 0..2 {
        app.clock.advance(hours(24 * 34));
        assert_eq!(code(&app, "ann@example.test", &[TO]).await, "250 2.0.0", "each message extends the time");
    }
    app.clock.advance(hours(24 * 36));
    assert_eq!(code(&app, "ann@example.test", &[TO]).await, "451 4.7.1");
    // A server that tries again after days only is deferred again.
    app.clock.advance(hours(24 * 3));
    assert_eq!(code(&app, "ann@example.test", &[TO]).await, "451 4.7.1");
}

#[tokio::test]
async fn greylist_has_no_addresses_and_is_cleaned_up() {
    let app = start().await;
    code(&app, "ann@example.test", &[TO]).await;
    let count = "SELECT count(*) FROM greylist WHERE length(key) = 32";
    let rows =
        async || -> i64 { sqlx::query_scalar(count).fetch_one(&mut app.database.connect().await).await.unwrap() };
    assert_eq!(rows().await, 1);
    app.clock.advance(hours(24 * 3));
    app.worker.clean_up().await.unwrap();
    assert_eq!(rows().await, 0);
}

#[tokio::test]
async fn bounces_are_not_greylisted() {
    let app = start().await;
    let sent = app.send(serde_json::json!({})).await;
    app.run_until_idle().await;
    let path = app.smtp.messages().last().unwrap().from.clone();
    let bounce = crate::support::reports::dsn(None, None, &[crate::support::reports::failed("ann@example.test")]);
    assert!(app.deliver_bounce(&path, &bounce).await.starts_with("250"));
    assert_eq!(app.status(&sent.id).await, "bounced");
}
