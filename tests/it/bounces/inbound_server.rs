//! The inbound server accepts bounces of messages that Postrider sent, complaints, and messages to postmaster. It confirms
//! a bounce only when its effect is committed.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::inbound_client::Client;
use crate::support::reports::{dsn, failed};
use crate::support::site::Site;

/// Sends a message and returns its id and its return path.
async fn relayed(app: &TestApp) -> (String, String) {
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    (sent.id, app.smtp.messages().last().unwrap().from.clone())
}

fn bounce() -> String {
    dsn(None, None, &[failed("ann@example.test")])
}

#[tokio::test]
async fn forged_altered_and_unknown_addresses_are_refused() {
    let app = TestApp::builder().with_inbound().start().await;
    let (id, path) = relayed(&app).await;
    let mut client = Client::connect(app.inbound()).await;
    client.send("EHLO mx.example.test\r\nMAIL FROM:<>\r\n").await;
    assert_eq!(client.codes(2).await, [250, 250]);
    let other = if path.as_bytes()[10] == b'a' { "b" } else { "a" };
    let altered = format!("{}{other}{}", &path[..10], &path[11..]);
    let elsewhere = path.replace("return.acme.test", "acme.test");
    let invented = format!("b+{}@return.acme.test", "a".repeat(48));
    for to in [&altered, &elsewhere, &invented, "postmaster@acme.test", "abuse@return.acme.test", "b+@return.acme.test"]
    {
        let reply = client.say(&format!("RCPT TO:<{to}>\r\n")).await;
        assert!(reply.starts_with("550 5.1.1 "), "{to}: {reply}");
    }
    assert_eq!(client.code("DATA\r\n").await, 554);
    assert_eq!(client.code(&format!("RCPT TO:<{path}>\r\n")).await, 250, "the valid return path is accepted");
    assert_eq!(app.events(&id).await, ["accepted", "relayed"]);
}

#[tokio::test]
async fn postmaster_messages_and_bounces_are_accepted() {
    let app = TestApp::builder().with_inbound().start().await;
    let (id, path) = relayed(&app).await;
    let mut client = Client::connect(app.inbound()).await;
    assert_eq!(client.code("EHLO mx.example.test\r\n").await, 250);
    for to in ["postmaster", "Postmaster@RETURN.acme.test"] {
        client.send(&format!("MAIL FROM:<ann@example.test>\r\nRCPT TO:<{to}>\r\nDATA\r\n")).await;
        assert_eq!(client.codes(3).await, [250, 250, 354], "{to}");
        assert_eq!(
            client.say("Subject: hello\r\n\r\nHow are you?\r\n.\r\n").await,
            "250 2.0.0 Accepted for postmaster\r\n"
        );
    }
    assert_eq!(app.deliver_bounce(&path, &bounce()).await, "250 2.0.0 Accepted as dsn, 1 recipients changed\r\n");
    assert_eq!(app.events(&id).await, ["accepted", "relayed", "bounced"]);
}

#[tokio::test]
async fn forged_or_expired_token_in_a_bounce_changes_nothing() {
    let app = TestApp::builder().with_inbound().start().await;
    let (id, path) = relayed(&app).await;
    let fbl = "fbl@return.acme.test";
    let forged = dsn(Some(&"a".repeat(48)), Some(&path.replace("b+", "b+a")), &[failed("ann@example.test")]);
    assert_eq!(app.deliver_bounce(fbl, &forged).await, "250 2.0.0 Accepted as dsn, 0 recipients changed\r\n");
    app.clock.advance(TimeDelta::days(61));
    let old = dsn(None, Some(&path), &[failed("ann@example.test")]);
    assert_eq!(app.deliver_bounce(fbl, &old).await, "250 2.0.0 Accepted as dsn, 0 recipients changed\r\n");
    assert_eq!(app.deliver_bounce(&path, &old).await, "550 5.1.1 This return path has expired\r\n");
    assert_eq!(app.events(&id).await, ["accepted", "relayed"]);
}

#[tokio::test]
async fn client_that_guesses_addresses_is_disconnected() {
    let app = TestApp::builder().with_inbound().start().await;
    let mut client = Client::connect(app.inbound()).await;
    client.send("EHLO mx.example.test\r\nMAIL FROM:<>\r\n").await;
    assert_eq!(client.codes(2).await, [250, 250]);
    for _ in 0..10 {
        assert_eq!(client.code("RCPT TO:<guess@return.acme.test>\r\n").await, 550);
    }
    client.send("RCPT TO:<guess@return.acme.test>\r\n").await;
    assert_eq!(client.codes(2).await, [550, 421]);
}

#[tokio::test]
async fn connections_and_messages_per_address_are_limited() {
    let app = TestApp::builder()
        .with_inbound()
        .config(|config| {
            config.inbound.connections_per_peer = 2;
            config.inbound.messages_per_minute = 3;
        })
        .start()
        .await;
    let mut first = Client::connect(app.inbound()).await;
    let _second = Client::connect(app.inbound()).await;
    let mut third = Client::connect_only(app.inbound()).await;
    assert_eq!(third.reply().await, "421 4.7.0 Too many connections from your address, try again later\r\n");
    first.send(&format!("EHLO x\r\n{}", "MAIL FROM:<>\r\nRSET\r\n".repeat(4))).await;
    assert_eq!(first.codes(9).await, [250, 250, 250, 250, 250, 250, 250, 450, 250]);
}

#[tokio::test]
async fn large_messages_and_smuggled_ends_are_refused() {
    let app = TestApp::builder().with_inbound().config(|config| config.inbound.max_message_mib = 1).start().await;
    let (id, path) = relayed(&app).await;
    let mut client = Client::connect(app.inbound()).await;
    assert!(client.say("EHLO x\r\n").await.contains("250-SIZE 1048576\r\n"));
    assert_eq!(client.code("MAIL FROM:<> SIZE=1048577\r\n").await, 552);
    for end in ["\n.\n", "\r\n.\n", "\n.\r\n", "\r.\r\n"] {
        client.send(&format!("MAIL FROM:<>\r\nRCPT TO:<{path}>\r\nDATA\r\n")).await;
        assert_eq!(client.codes(3).await, [250, 250, 354]);
        let smuggled = format!("x{end}MAIL FROM:<>\r\nRCPT TO:<{path}>\r\nDATA\r\n{}\r\n.\r\n", bounce());
        assert_eq!(client.code(&smuggled).await, 550, "{end:?}");
    }
    assert_eq!(app.events(&id).await, ["accepted", "relayed"]);
}

#[tokio::test]
async fn bounce_with_a_large_returned_message_is_processed() {
    let app = TestApp::builder().with_inbound().start().await;
    let (id, path) = relayed(&app).await;
    let whole = format!("Hello.\r\n{}", "A line of the text.\r\n".repeat(550_000));
    let reply = app.deliver_bounce(&path, &bounce().replace("Hello.\r\n", &whole)).await;
    assert_eq!(reply, "250 2.0.0 Accepted as dsn, 1 recipients changed\r\n");
    assert_eq!(app.status(&id).await, "bounced");
}

#[tokio::test]
async fn bounce_text_from_a_person_is_not_a_bounce() {
    let app = TestApp::builder().with_inbound().start().await;
    let (id, path) = relayed(&app).await;
    let forged = "Return-Path: <>\r\nFrom: Eve <eve@example.test>\r\nSubject: Undelivered Mail\r\n\r\n\
                  <ann@example.test>: 550 5.1.1 no such user\r\n.\r\n";
    for (from, kind) in [("eve@example.test", "unknown, 0"), ("", "dsn, 1")] {
        let mut client = Client::connect(app.inbound()).await;
        client.send(&format!("EHLO x\r\nMAIL FROM:<{from}>\r\nRCPT TO:<{path}>\r\nDATA\r\n")).await;
        assert_eq!(client.codes(4).await, [250, 250, 250, 354]);
        assert_eq!(client.say(forged).await, format!("250 2.0.0 Accepted as {kind} recipients changed\r\n"));
    }
    assert_eq!(app.status(&id).await, "bounced");
}

#[tokio::test]
async fn same_bounce_at_two_replicas_changes_state_once() {
    let app = TestApp::builder().with_inbound().start().await;
    let (id, path) = relayed(&app).await;
    let (other, _) = app.another_api().await;
    let mut client = Client::connect(other.inbound_address().unwrap()).await;
    assert_eq!(client.deliver(&path, &bounce()).await, "250 2.0.0 Accepted as dsn, 1 recipients changed\r\n");
    assert_eq!(app.deliver_bounce(&path, &bounce()).await, "250 2.0.0 Accepted as dsn, 0 recipients changed\r\n");
    assert_eq!(app.status(&id).await, "bounced");
    other.stop().await;
}

#[tokio::test]
async fn inbound_server_defers_bounces_during_a_database_outage() {
    let mut site = Site::start().await;
    let sent = site.api.send(json!({})).await;
    let path = site.smtp.received(1).await[0].from.clone();
    wait_until_relayed(&site.api, &sent.id).await;
    site.postgres.kill().await;
    let mut client = Client::connect(site.inbound()).await;
    assert_eq!(client.deliver(&path, &bounce()).await, "451 4.3.0 Try again later: the database is unavailable\r\n");
    site.postgres.start_again().await;
    site.wait_until_working().await;
    let mut client = Client::connect(site.inbound()).await;
    assert_eq!(client.deliver(&path, &bounce()).await, "250 2.0.0 Accepted as dsn, 1 recipients changed\r\n");
    assert_eq!(site.api.status(&sent.id).await, "bounced");
    site.end().await;
}

/// Waits until the outcome is committed, which is a moment after the SMTP server has received the message.
async fn wait_until_relayed(api: &Api, id: &str) {
    let relayed = async { while api.status(id).await != "relayed" {} };
    tokio::time::timeout(Duration::from_secs(20), relayed).await.expect("an outcome");
}
