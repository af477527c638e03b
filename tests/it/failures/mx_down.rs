//! Every mail exchanger of a domain is down for more than a day. Nothing bounces.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};
use crate::support::dns::DnsServer;

/// A domain with two mail exchangers on which nothing listens, and another domain that works.
async fn setup() -> (DnsServer, TestApp) {
    let dns = DnsServer::start().await;
    for (index, ip) in ["127.0.0.8", "127.0.0.9"].into_iter().enumerate() {
        let host = format!("mx{index}.dead.test");
        dns.mx("dead.test", 10, &host);
        dns.add_address(&host, ip);
    }
    dns.add_address("alive.test", "127.0.0.1");
    let app = TestApp::builder().direct(&dns).start().await;
    (dns, app)
}

/// Advances the clock hour by hour; returns the recipient's states without consecutive duplicates.
async fn pass_hours(app: &TestApp, id: &str, count: i64) -> Vec<String> {
    let mut states = Vec::new();
    for _ in 0..count {
        app.clock.advance(hours(1));
        app.run_until_idle().await;
        states.push(app.status(id).await);
    }
    states.dedup();
    states
}

#[tokio::test]
async fn message_is_delivered_after_26_hours_of_outage() {
    let (dns, app) = setup().await;
    let sent = app.send(json!({"to": "ann@dead.test"})).await;
    app.run_until_idle().await;
    assert_eq!(pass_hours(&app, &sent.id, 26).await, ["deferred"]);
    let ann = app.recipient(&sent.id).await;
    assert!(ann["response"]["text"].as_str().unwrap().contains("could not connect"), "{ann}");
    assert!((5..20).contains(&ann["attempts"].as_i64().unwrap()), "{ann}");

    // The domain gets a working mail exchanger: the test's server.
    dns.mx("dead.test", 20, "alive.test");
    app.another_worker().await.drain().await.unwrap();
    for _ in 0..5 {
        app.clock.advance(hours(1));
        app.another_worker().await.drain().await.unwrap();
    }
    assert_eq!(app.status(&sent.id).await, "delivered");
    assert_eq!(app.smtp.messages().len(), 1);
}

#[tokio::test]
async fn message_expires_after_72_hours_without_a_bounce() {
    let (_dns, app) = setup().await;
    let sent = app.send(json!({"to": "ann@dead.test"})).await;
    app.run_until_idle().await;
    assert_eq!(pass_hours(&app, &sent.id, 71).await, ["deferred"]);
    app.clock.advance(minutes(59));
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "deferred");
    assert_eq!(pass_hours(&app, &sent.id, 5).await, ["expired"]);
    let events = app.events(&sent.id).await;
    assert!(events.iter().all(|event| event != "bounced") && events.last().unwrap() == "expired", "{events:?}");
}

#[tokio::test]
async fn other_domains_are_delivered_during_the_outage() {
    let (_dns, app) = setup().await;
    let sent = app.send(json!({"to": ["ann@dead.test", "bo@alive.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["deferred", "delivered"]);
}
