//! All recipients of a message with the same destination get it in one SMTP transaction.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::minutes;
use crate::support::dns::DnsServer;

fn sixteen_recipients() -> Vec<String> {
    (0..16).map(|n| format!("u{n}@example.test")).collect()
}

#[tokio::test]
async fn claim_leases_all_recipients_of_a_message() {
    let dns = DnsServer::start().await;
    dns.mx("example.test", 10, "mx.test");
    dns.add_address("mx.test", "127.0.0.1");
    let app = TestApp::builder().direct(&dns).start().await;
    let sent = app.send(json!({"to": sixteen_recipients()})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, vec!["delivered"; 16]);
    assert_eq!(app.smtp.messages().iter().map(|message| message.to.len()).collect::<Vec<_>>(), [16]);
}

#[tokio::test]
async fn deferred_recipients_are_retried_in_one_transaction() {
    let app = TestApp::start().await;
    app.smtp.dot().replies(["451 4.3.0 later"]);
    let sent = app.send(json!({"to": sixteen_recipients()})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, vec!["deferred"; 16]);
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, vec!["relayed"; 16]);
    assert_eq!(app.smtp.messages().iter().map(|message| message.to.len()).collect::<Vec<_>>(), [16]);
}
