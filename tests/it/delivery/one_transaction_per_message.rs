//! A message is one SMTP transaction for all recipients with the same destination, also after a claim.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::minutes;
use crate::support::dns::DnsServer;

fn sixteen() -> Vec<String> {
    (0..16).map(|n| format!("u{n}@example.test")).collect()
}

#[tokio::test]
async fn a_claim_takes_all_recipients_of_a_message() {
    let dns = DnsServer::start().await;
    dns.mx("example.test", 10, "mx.test");
    dns.has_address("mx.test", "127.0.0.1");
    let app = TestApp::builder().direct(&dns).start().await;
    let mail = app.send(json!({"to": sixteen()})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&mail.id).await, vec!["delivered"; 16]);
    assert_eq!(app.smtp.mails().iter().map(|mail| mail.to.len()).collect::<Vec<_>>(), [16]);
}

#[tokio::test]
async fn recipients_who_were_deferred_go_together_again() {
    let app = TestApp::start().await;
    app.smtp.dot().replies(["451 4.3.0 later"]);
    let mail = app.send(json!({"to": sixteen()})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&mail.id).await, vec!["deferred"; 16]);
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(app.states(&mail.id).await, vec!["relayed"; 16]);
    assert_eq!(app.smtp.mails().iter().map(|mail| mail.to.len()).collect::<Vec<_>>(), [16]);
}
