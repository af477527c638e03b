//! A destination that throttles gets a lower rate, until it accepts as many messages as before.

use serde_json::json;
use sqlx::Row as _;

use crate::support::app::TestApp;
use crate::support::clock::{millis, minutes, seconds};

/// Returns the learned rate of this domain's lane.
async fn learned(app: &TestApp, domain: &str) -> Option<f64> {
    let mut connection = app.database.connect().await;
    let query = sqlx::query("SELECT learned_rate FROM lanes WHERE domain = $1").bind(domain);
    query.fetch_one(&mut connection).await.unwrap().get(0)
}

/// Returns the domains that have lanes.
async fn lanes(app: &TestApp) -> Vec<String> {
    let mut connection = app.database.connect().await;
    sqlx::query_scalar("SELECT domain FROM lanes ORDER BY domain").fetch_all(&mut connection).await.unwrap()
}

/// Returns the number of recipients in the lane of this domain that have had no attempt yet.
async fn waiting(app: &TestApp, domain: &str) -> i64 {
    let mut connection = app.database.connect().await;
    let query = "SELECT count(*) FROM queue q JOIN lanes l ON l.id = q.lane_id WHERE domain = $1 AND attempts = 0";
    sqlx::query_scalar(query).bind(domain).fetch_one(&mut connection).await.unwrap()
}

async fn send(app: &TestApp, to: &str, count: usize) {
    for _ in 0..count {
        app.send(json!({"to": to})).await;
    }
}

#[tokio::test]
async fn reply_421_lowers_the_rate_and_success_raises_it() {
    let app = TestApp::start().await;
    app.smtp.mail().replies(["421 4.7.0 too fast"]);
    send(&app, "ann@example.test", 1).await;
    app.run_until_idle().await;
    assert_eq!(learned(&app, "*").await, Some(1.0));

    send(&app, "ann@example.test", 4).await;
    for sent in 1..=3 {
        app.run_until_idle().await;
        assert_eq!(app.smtp.messages().len(), sent);
        app.clock.advance(seconds(1));
    }
    app.clock.advance(seconds(3));
    app.run_until_idle().await;
    assert_eq!((learned(&app, "*").await, app.smtp.messages().len()), (Some(1.25), 4));

    app.clock.advance(seconds(15));
    send(&app, "ann@example.test", 5).await;
    app.run_until_idle().await;
    assert_eq!(
        (learned(&app, "*").await, app.smtp.messages().len()),
        (None, 9),
        "the rate was raised above the first throttled rate"
    );
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 10);
}

#[tokio::test]
async fn each_throttle_halves_the_rate_once() {
    let app = TestApp::start().await;
    for (throttles, rate) in [(3, 1.0), (1, 0.5), (1, 0.25)] {
        for _ in 0..throttles {
            app.smtp.mail().replies(["450 4.7.1 slow down"]);
        }
        send(&app, "ann@example.test", throttles).await;
        app.run_until_idle().await;
        assert_eq!(learned(&app, "*").await, Some(rate));
        app.clock.advance(seconds(10));
    }
}

#[tokio::test]
async fn greylisting_does_not_lower_the_rate() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.7.1 Greylisted"]);
    send(&app, "ann@example.test", 1).await;
    app.run_until_idle().await;
    assert_eq!(learned(&app, "*").await, None);
}

#[tokio::test]
async fn domain_throttled_by_a_relay_gets_its_own_rate() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@busy.test").replies(["450 4.7.0 busy.test takes no more"]);
    send(&app, "ann@busy.test", 1).await;
    app.run_until_idle().await;
    assert_eq!((learned(&app, "busy.test").await, learned(&app, "*").await), (Some(1.0), None));

    send(&app, "bo@busy.test", 3).await;
    send(&app, "cy@calm.test", 10).await;
    app.run_until_idle().await;
    let to = |name: &str| app.smtp.messages().iter().filter(|message| message.to == [name]).count();
    assert_eq!((to("cy@calm.test"), to("bo@busy.test")), (10, 1));
    for sent in 2..=3 {
        app.clock.advance(millis(1_000));
        app.run_until_idle().await;
        assert_eq!(to("bo@busy.test"), sent);
    }
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(to("ann@busy.test"), 1);
}

#[tokio::test]
async fn reply_421_to_rcpt_throttles_the_relay() {
    let app = TestApp::start().await;
    app.smtp.rcpt("cy@calm.test").replies(["421 4.7.0 too fast"]);
    let message = app.send(json!({"to": ["ann@busy.test", "cy@calm.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(
        (app.states(&message.id).await, lanes(&app).await),
        (vec!["deferred".into(); 2], ["*"].map(str::to_owned).into())
    );
    assert_eq!(learned(&app, "*").await, Some(1.0));
}

#[tokio::test]
async fn refusals_for_many_domains_throttle_the_relay() {
    let app = TestApp::start().await;
    let domains = ["a.test", "b.test", "c.test", "d.test"];
    for domain in domains {
        app.smtp.rcpt(&format!("ann@{domain}")).replies(["451 4.7.1 you send too much"]);
    }
    app.send(json!({"to": domains.map(|domain| format!("ann@{domain}"))})).await;
    app.run_until_idle().await;
    assert_eq!((learned(&app, "*").await, lanes(&app).await), (Some(1.0), vec!["*".to_owned()]));
}

#[tokio::test]
async fn recovered_domain_rejoins_the_relays_lane() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@busy.test").replies(["450 4.7.0 busy.test takes no more"]);
    send(&app, "ann@busy.test", 1).await;
    app.run_until_idle().await;
    let (_api, client) = app.another_api().await;
    client.send(json!({"to": "bo@busy.test"})).await;
    assert_eq!(waiting(&app, "busy.test").await, 1);
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(learned(&app, "busy.test").await, None);
    let (_api, client) = app.another_api().await;
    client.send(json!({"to": "bo@busy.test"})).await;
    assert_eq!(waiting(&app, "busy.test").await, 0);
    app.run_until_idle().await;
}

#[tokio::test]
async fn message_to_two_domains_goes_to_the_unthrottled_one_at_once() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@busy.test").replies(["450 4.7.1 busy.test takes no more"]);
    let message = app.send(json!({"to": ["ann@busy.test", "cy@calm.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&message.id).await, ["deferred", "relayed"]);
    // Uses the only slot of the rate.
    send(&app, "bo@busy.test", 1).await;
    app.run_until_idle().await;
    let message = app.send(json!({"to": ["ann@busy.test", "cy@calm.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&message.id).await, ["queued", "relayed"]);
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    app.clock.advance(seconds(1));
    app.run_until_idle().await;
    assert_eq!(app.states(&message.id).await, ["relayed", "relayed"]);
}
