//! A greylisted message is deferred and sent later; it never bounces.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::minutes;
use crate::support::dns::DnsServer;

#[tokio::test]
async fn greylisted_then_relayed() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.7.1 Greylisted, come back later"]);
    let mail = app.send(json!({})).await;
    assert_eq!(mail.body["status"], "queued");

    app.run_until_idle().await;
    let ann = app.recipient(&mail.id).await;
    assert_eq!((&ann["status"], &ann["attempts"]), (&json!("deferred"), &json!(1)));
    assert_eq!(ann["response"], json!({"code": 451, "enhanced": "4.7.1", "text": "Greylisted, come back later"}));

    app.clock.advance(minutes(3));
    app.run_until_idle().await;
    assert_eq!(app.recipient(&mail.id).await["attempts"], 1, "greylisting is given 5 minutes");

    app.clock.advance(minutes(3));
    app.run_until_idle().await;
    let ann = app.recipient(&mail.id).await;
    assert_eq!(
        (&ann["status"], &ann["attempts"], &ann["response"]["code"]),
        (&json!("relayed"), &json!(2), &json!(250))
    );
    assert_eq!((&ann["next_attempt_at"], &ann["mx"]), (&json!(null), &json!("127.0.0.1")));
    assert_eq!(app.events(&mail.id).await, ["accepted", "deferred", "relayed"]);
    assert_eq!(app.smtp.mails().len(), 1);
}

#[tokio::test]
async fn the_recipients_own_server_makes_it_delivered() {
    let dns = DnsServer::start().await;
    dns.mx("example.test", 10, "mx.example.test");
    dns.has_address("mx.example.test", "127.0.0.1");
    let app = TestApp::builder().direct(&dns).start().await;
    app.smtp.mail().replies(["421 4.3.2 shutting down"]);
    let mail = app.send(json!({})).await;

    app.run_until_idle().await;
    assert_eq!(app.status(&mail.id).await, "deferred");
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    let ann = app.recipient(&mail.id).await;
    assert_eq!((&ann["status"], &ann["mx"]), (&json!("delivered"), &json!("mx.example.test")));
    assert_eq!(app.events(&mail.id).await, ["accepted", "deferred", "delivered"]);
}

#[tokio::test]
async fn a_domain_that_takes_no_mail_bounces_and_delays_nobody_else() {
    let dns = DnsServer::start().await;
    dns.null_mx("nomail.test");
    dns.servfail("broken.test");
    dns.has_address("example.test", "127.0.0.1");
    let app = TestApp::builder().direct(&dns).start().await;
    let mail = app.send(json!({"to": ["ann@nomail.test", "bo@broken.test", "cy@example.test"]})).await;

    app.run_until_idle().await;
    assert_eq!(app.states(&mail.id).await, ["bounced", "deferred", "delivered"]);
    assert_eq!(app.message(&mail.id).await["recipients"][0]["response"]["enhanced"], "5.1.10");
}

#[tokio::test]
async fn a_retry_now_waits_for_nothing() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.0 try again"]);
    let mail = app.send(json!({})).await;
    let retry = format!("/v1/messages/{}/retry", mail.id);
    assert_eq!(app.post(&retry, &json!({})).await.problem(), (409, "nothing_to_retry"));

    app.run_until_idle().await;
    assert_eq!(app.status(&mail.id).await, "deferred");
    assert_eq!(app.post(&retry, &json!({})).await.status, 200);
    app.run_until_idle().await;
    assert_eq!(app.status(&mail.id).await, "relayed");
    assert_eq!(app.post(&retry, &json!({})).await.problem(), (409, "nothing_to_retry"));
}
