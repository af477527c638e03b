//! Temporary failures such as greylisting defer a message; it is retried later.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::minutes;
use crate::support::dns::DnsServer;

#[tokio::test]
async fn greylisted_message_is_retried_after_five_minutes() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.7.1 Greylisted, come back later"]);
    let sent = app.send(json!({})).await;
    assert_eq!(sent.body["status"], "queued");

    app.run_until_idle().await;
    let ann = app.recipient(&sent.id).await;
    assert_eq!((&ann["status"], &ann["attempts"]), (&json!("deferred"), &json!(1)));
    assert_eq!(ann["response"], json!({"code": 451, "enhanced": "4.7.1", "text": "Greylisted, come back later"}));

    app.clock.advance(minutes(3));
    app.run_until_idle().await;
    assert_eq!(app.recipient(&sent.id).await["attempts"], 1, "the greylisting wait is 5 minutes");

    app.clock.advance(minutes(3));
    app.run_until_idle().await;
    let ann = app.recipient(&sent.id).await;
    assert_eq!(
        (&ann["status"], &ann["attempts"], &ann["response"]["code"]),
        (&json!("relayed"), &json!(2), &json!(250))
    );
    assert_eq!((&ann["next_attempt_at"], &ann["mx"]), (&json!(null), &json!("127.0.0.1")));
    assert_eq!(app.events(&sent.id).await, ["accepted", "deferred", "relayed"]);
    assert_eq!(app.smtp.messages().len(), 1);
}

#[tokio::test]
async fn message_accepted_by_the_mx_is_delivered() {
    let dns = DnsServer::start().await;
    dns.mx("example.test", 10, "mx.example.test");
    dns.add_address("mx.example.test", "127.0.0.1");
    let app = TestApp::builder().direct(&dns).start().await;
    app.smtp.mail().replies(["421 4.3.2 shutting down"]);
    let sent = app.send(json!({})).await;

    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "deferred");
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    let ann = app.recipient(&sent.id).await;
    assert_eq!((&ann["status"], &ann["mx"]), (&json!("delivered"), &json!("mx.example.test")));
    assert_eq!(app.events(&sent.id).await, ["accepted", "deferred", "delivered"]);
}

#[tokio::test]
async fn null_mx_bounces_and_does_not_delay_other_recipients() {
    let dns = DnsServer::start().await;
    dns.null_mx("nomail.test");
    dns.servfail("broken.test");
    dns.add_address("example.test", "127.0.0.1");
    let app = TestApp::builder().direct(&dns).start().await;
    let sent = app.send(json!({"to": ["ann@nomail.test", "bo@broken.test", "cy@example.test"]})).await;

    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["bounced", "deferred", "delivered"]);
    assert_eq!(app.message(&sent.id).await["recipients"][0]["response"]["enhanced"], "5.1.10");
}

#[tokio::test]
async fn retry_now_makes_a_deferred_message_due() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.0 try again"]);
    let sent = app.send(json!({})).await;
    let retry = format!("/v1/messages/{}/retry", sent.id);
    assert_eq!(app.post(&retry, &json!({})).await.problem(), (409, "nothing_to_retry"));

    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "deferred");
    assert_eq!(app.post(&retry, &json!({})).await.status, 200);
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "relayed");
    assert_eq!(app.post(&retry, &json!({})).await.problem(), (409, "nothing_to_retry"));
}
