//! Every mail exchanger of a domain is down for more than a day. Nothing bounces.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};
use crate::support::dns::DnsServer;

/// A domain whose two servers do not respond, and another domain that works.
async fn world() -> (DnsServer, TestApp) {
    let dns = DnsServer::start().await;
    for (index, ip) in ["127.0.0.8", "127.0.0.9"].into_iter().enumerate() {
        let host = format!("mx{index}.dead.test");
        dns.mx("dead.test", 10, &host);
        dns.has_address(&host, ip);
    }
    dns.has_address("alive.test", "127.0.0.1");
    let app = TestApp::builder().direct(&dns).start().await;
    (dns, app)
}

/// Advances hour by hour; returns the states of the recipient, each once.
async fn pass(app: &TestApp, id: &str, count: i64) -> Vec<String> {
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
async fn for_26_hours_it_waits_and_then_it_arrives() {
    let (dns, app) = world().await;
    let mail = app.send(json!({"to": "ann@dead.test"})).await;
    app.run_until_idle().await;
    assert_eq!(pass(&app, &mail.id, 26).await, ["deferred"]);
    let ann = app.recipient(&mail.id).await;
    assert!(ann["response"]["text"].as_str().unwrap().contains("could not connect"), "{ann}");
    assert!((5..20).contains(&ann["attempts"].as_i64().unwrap()), "{ann}");

    // One of them comes back, at the address where our server listens.
    dns.mx("dead.test", 20, "alive.test");
    app.another_worker().await.drain().await.unwrap();
    for _ in 0..5 {
        app.clock.advance(hours(1));
        app.another_worker().await.drain().await.unwrap();
    }
    assert_eq!(app.status(&mail.id).await, "delivered");
    assert_eq!(app.smtp.mails().len(), 1);
}

#[tokio::test]
async fn for_72_hours_it_waits_and_then_it_expires_and_never_bounces() {
    let (_dns, app) = world().await;
    let mail = app.send(json!({"to": "ann@dead.test"})).await;
    app.run_until_idle().await;
    assert_eq!(pass(&app, &mail.id, 71).await, ["deferred"]);
    app.clock.advance(minutes(59));
    app.run_until_idle().await;
    assert_eq!(app.status(&mail.id).await, "deferred");
    assert_eq!(pass(&app, &mail.id, 5).await, ["expired"]);
    let events = app.events(&mail.id).await;
    assert!(events.iter().all(|event| event != "bounced") && events.last().unwrap() == "expired", "{events:?}");
}

#[tokio::test]
async fn the_neighbour_gets_its_mail_meanwhile() {
    let (_dns, app) = world().await;
    let mail = app.send(json!({"to": ["ann@dead.test", "bo@alive.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&mail.id).await, ["deferred", "delivered"]);
}
