//! The DNS response for a domain decides between a bounce and a retry, and does not delay other domains.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::minutes;
use crate::support::dns::DnsServer;

#[tokio::test]
async fn missing_domain_bounces_and_failed_lookup_is_deferred() {
    let dns = DnsServer::start().await;
    dns.null_mx("nomail.test");
    dns.empty("empty.test");
    dns.servfail("broken.test");
    dns.mx("lost.test", 10, "mx.broken.test");
    dns.servfail("mx.broken.test");
    dns.add_address("example.test", "127.0.0.1");
    let app = TestApp::builder().direct(&dns).start().await;
    let to = ["a@nowhere.test", "b@nomail.test", "c@empty.test", "d@broken.test", "e@lost.test", "f@example.test"];
    let sent = app.send(json!({"to": to})).await;
    app.run_until_idle().await;

    let message = app.message(&sent.id).await;
    let recipients = message["recipients"].as_array().unwrap().iter();
    let found: Vec<_> = recipients
        .map(|recipient| (recipient["status"].as_str().unwrap(), recipient["response"]["enhanced"].as_str().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            ("bounced", "5.1.2"),
            ("bounced", "5.1.10"),
            ("bounced", "5.1.2"),
            ("deferred", "4.4.3"),
            ("deferred", "4.4.3"),
            ("delivered", "2.0.0"),
        ]
    );
}

#[tokio::test]
async fn message_is_delivered_once_the_dns_recovers() {
    let dns = DnsServer::start().await;
    dns.servfail("example.test");
    let app = TestApp::builder().direct(&dns).start().await;
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "deferred");

    dns.repair("example.test");
    dns.add_address("example.test", "127.0.0.1");
    app.clock.advance(minutes(10));
    // Another worker, because this one's DNS cache uses a clock that the test does not advance.
    app.another_worker().await.drain().await.unwrap();
    assert_eq!(app.events(&sent.id).await, ["accepted", "deferred", "delivered"]);
}
