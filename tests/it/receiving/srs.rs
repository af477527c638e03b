//! Rewritten senders of messages that are passed on (`inbound.srs_domain`).

use super::relay::{SUPPORT, builder, relay_route, relays, url};
use super::{deliver, mime, received};
use crate::support::app::TestApp;
use crate::support::clock::hours;
use crate::support::smtp::SmtpServer;

async fn start() -> (TestApp, SmtpServer) {
    let app = builder().config(|config| config.inbound.srs_domain = Some("SRS.acme.test".into())).start().await;
    let inside = SmtpServer::start().await;
    relay_route(&app, SUPPORT, &url(&inside)).await;
    (app, inside)
}

/// Delivers a message, and returns the sender with which it was passed on.
async fn rewritten(app: &TestApp, inside: &SmtpServer, from: &str) -> String {
    let replies = deliver(app, from, &[SUPPORT], &mime("")).await;
    assert_eq!(replies[1], "250 2.0.0 Accepted\r\n");
    relays(app, "message_id").await;
    let count = inside.messages().len();
    app.run_until_idle().await;
    inside.received(count + 1).await[count].from.clone()
}

#[tokio::test]
async fn bounce_comes_back_to_the_sender() {
    let (app, inside) = start().await;
    let sender = rewritten(&app, &inside, "ann@example.test").await;
    assert!(sender.starts_with("SRS0=") && sender.ends_with("=example.test=ann@srs.acme.test"), "{sender}");
    let replies = deliver(&app, "", &[&sender], &mime("X-Failed: yes\r\n")).await;
    assert_eq!(replies, ["250 2.1.5 Recipient OK\r\n", "250 2.0.0 Accepted\r\n"].map(str::to_owned), "{sender}");
    let passed = relays(&app, "message_id").await;
    assert_eq!(passed[0]["to"], "ann@example.test");
    app.run_until_idle().await;
    let bounces = app.smtp.received(1).await;
    assert_eq!((bounces[0].from.as_str(), bounces[0].to.as_slice()), ("", &["ann@example.test".to_owned()][..]));
    assert!(String::from_utf8_lossy(&bounces[0].raw).contains("\r\nX-Failed: yes\r\n"));
    assert_eq!(rewritten(&app, &inside, "").await, "", "the null sender stays");
}

#[tokio::test]
async fn only_own_and_recent_addresses_get_bounces() {
    let (app, inside) = start().await;
    let sender = rewritten(&app, &inside, "ann@example.test").await;
    let forged = sender.replace("=ann@", "=bob@");
    let changed = sender.replace("SRS0=", "SRS0=A");
    let invented = "SRS0=AAAAAAAA=AA=other.test=victim@srs.acme.test";
    for to in [forged.as_str(), changed.as_str(), invented, "SRS1=AAAAAAAA=other.test==x@srs.acme.test"] {
        let replies = deliver(&app, "", &[to], &mime("")).await;
        assert_eq!(replies, ["550 5.1.1 No such mailbox\r\n"], "{to}");
    }
    let replies = deliver(&app, "spammer@other.test", &[&sender], &mime("")).await;
    assert!(replies[0].starts_with("550 5.7.1 Only bounces"), "{replies:?}");
    app.clock.advance(hours(24 * 22));
    let replies = deliver(&app, "", &[&sender], &mime("")).await;
    assert!(replies[0].starts_with("550 5.1.1"), "{replies:?}");
    assert_eq!(received(&app).await.len(), 1);
    assert!(app.smtp.messages().is_empty());
}
