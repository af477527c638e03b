//! SMTP conversations: what is accepted, stored and refused.

use serde_json::json;

use super::{deliver, mime, received, route, start};
use crate::support::inbound_client::Client;

#[tokio::test]
async fn message_for_a_route_is_stored_as_it_was_received() {
    for action in ["webhook", "store"] {
        let app = start().await;
        let route = route(&app, "support@reply.acme.test", action).await;
        let mime = mime("Message-ID: <r1@example.test>\r\n");
        let replies = deliver(&app, "ann@example.test", &["Support@Reply.Acme.Test"], &mime).await;
        assert_eq!(replies, ["250 2.1.5 Recipient OK\r\n", "250 2.0.0 Accepted\r\n"]);
        let listed = received(&app).await;
        assert_eq!(listed.len(), 1);
        let one = &listed[0];
        assert_eq!((&one["route_id"], &one["subject"]), (&route["id"], &json!("Hello")));
        assert_eq!(one["from"], json!({"email": "ann@example.test", "name": "Ann"}));
        assert_eq!(one["to"], json!(["Support@Reply.Acme.Test"]));
        assert_eq!((&one["message_id"], &one["answers"]), (&json!("<r1@example.test>"), &json!(null)));
        assert_eq!(
            one["envelope"],
            json!({"from": "ann@example.test", "helo": "mx.example.test", "remote_address": "127.0.0.1"})
        );
        let id = one["id"].as_str().unwrap();
        let whole = app.get(&format!("/v1/received/{id}")).await.body;
        assert_eq!((&whole["text"], &whole["html"]), (&json!("How are you?\n"), &json!(null)));
        assert_eq!(whole["headers"][0], json!({"name": "From", "value": "Ann <ann@example.test>"}));
        let raw = app.get(&format!("/v1/received/{id}/raw")).await;
        assert_eq!((raw.status, raw.bytes.as_slice()), (200, mime.as_bytes()));
        assert_eq!(raw.headers["content-type"], "message/rfc822");
        assert_eq!(app.delete(&format!("/v1/received/{id}")).await.status, 204);
        assert_eq!(app.get(&format!("/v1/received/{id}")).await.status, 404);
        assert_eq!(received(&app).await.len(), 0);
    }
}

#[tokio::test]
async fn unknown_recipient_is_refused_before_the_message() {
    let app = start().await;
    route(&app, "support@reply.acme.test", "store").await;
    for to in ["sales@reply.acme.test", "support@acme.test", "support@other.test", "support+1@reply.acme.test"] {
        let replies = deliver(&app, "ann@example.test", &[to], &mime("")).await;
        assert_eq!(replies, ["550 5.1.1 No such mailbox\r\n"], "{to}");
    }
    assert_eq!(received(&app).await.len(), 0);
}

#[tokio::test]
async fn accepted_recipients_of_a_message_are_kept_together() {
    let app = start().await;
    route(&app, "*@reply.acme.test", "store").await;
    route(&app, "sales@reply.acme.test", "store").await;
    let to = ["a@reply.acme.test", "nobody@acme.test", "sales@reply.acme.test", "b@reply.acme.test"];
    let codes: Vec<String> =
        deliver(&app, "ann@example.test", &to, &mime("")).await.iter().map(|reply| reply[..3].to_owned()).collect();
    assert_eq!(codes, ["250", "550", "250", "250", "250"]);
    let mut recipients: Vec<_> = received(&app).await.into_iter().map(|one| one["to"].clone()).collect();
    recipients.sort_by_key(ToString::to_string);
    assert_eq!(recipients, [json!(["a@reply.acme.test", "b@reply.acme.test"]), json!(["sales@reply.acme.test"])]);
}

#[tokio::test]
async fn message_that_has_passed_many_servers_is_refused() {
    let app = start().await;
    route(&app, "*@reply.acme.test", "store").await;
    for (hops, reply) in [(50, "250 2.0.0"), (51, "554 5.4.6")] {
        let fields = "Received: from a.test by b.test; Mon, 30 Nov 2026 09:00:00 +0000\r\n".repeat(hops);
        let replies = deliver(&app, "ann@example.test", &["x@reply.acme.test"], &mime(&fields)).await;
        assert!(replies[1].starts_with(reply), "{hops}: {replies:?}");
    }
    assert_eq!(received(&app).await.len(), 1);
}

#[tokio::test]
async fn message_above_the_size_limit_is_refused() {
    let app = crate::support::app::TestApp::builder()
        .with_inbound()
        .config(|config| (config.inbound.max_message_mib, config.inbound.max_received_mib) = (4, 2))
        .start()
        .await;
    route(&app, "*@reply.acme.test", "store").await;
    let line = format!("{}\r\n", "x".repeat(998));
    for (lines, code) in [(2_000, "250"), (2_200, "552"), (4_300, "552")] {
        let mime = mime("") + &line.repeat(lines);
        let replies = deliver(&app, "ann@example.test", &["x@reply.acme.test"], &mime).await;
        assert!(replies[1].starts_with(code), "{lines}: {replies:?}");
    }
    let listed = received(&app).await;
    assert_eq!(listed.len(), 1);
    assert!(listed[0]["size"].as_i64().unwrap() > 2_000_000, "{listed:?}");
}

#[tokio::test]
async fn declared_size_is_refused_before_the_transfer() {
    let app = crate::support::app::TestApp::builder()
        .with_inbound()
        .config(|config| (config.inbound.max_message_mib, config.inbound.max_received_mib) = (4, 2))
        .start()
        .await;
    route(&app, "*@reply.acme.test", "store").await;
    let mut client = Client::connect(app.inbound()).await;
    let ehlo = client.say("EHLO mx.example.test\r\n").await;
    assert!(ehlo.contains("SIZE 4194304"), "bounces may be larger than messages for routes: {ehlo}");
    assert_eq!(client.code("MAIL FROM:<ann@example.test> SIZE=2097153\r\n").await, 250);
    let reply = client.say("RCPT TO:<x@reply.acme.test>\r\n").await;
    assert_eq!(reply, "552 5.3.4 The message is too big: at most 2097152 bytes to this recipient\r\n");
    assert_eq!(client.code("RCPT TO:<postmaster>\r\n").await, 250, "a limit of routes only");
    assert_eq!(client.code("RSET\r\n").await, 250);
    client.send("MAIL FROM:<ann@example.test> SIZE=2097152\r\nRCPT TO:<x@reply.acme.test>\r\n").await;
    assert_eq!(client.codes(2).await, [250, 250]);
}

#[tokio::test]
async fn bounces_take_precedence_over_routes() {
    let app = start().await;
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    let path = app.smtp.messages().last().unwrap().from.clone();
    route(&app, "*@return.acme.test", "store").await;
    let bounce = crate::support::reports::dsn(None, None, &[crate::support::reports::failed("ann@example.test")]);
    assert_eq!(app.deliver_bounce(&path, &bounce).await, "250 2.0.0 Accepted as dsn, 1 recipients changed\r\n");
    assert_eq!(app.events(&sent.id).await, ["accepted", "relayed", "bounced"]);
    let invented = format!("b+{}@return.acme.test", "a".repeat(48));
    assert!(app.deliver_bounce(&invented, &bounce).await.starts_with("550 5.1.1"), "a forged return path has no route");
    let replies = deliver(&app, "ann@example.test", &["postmaster@return.acme.test"], &mime("")).await;
    assert_eq!(replies[1], "250 2.0.0 Accepted for postmaster\r\n");
    assert_eq!(received(&app).await.len(), 0);
    let replies = deliver(&app, "ann@example.test", &["hi@return.acme.test"], &mime("")).await;
    assert_eq!(replies[1], "250 2.0.0 Accepted\r\n");
}

#[tokio::test]
async fn one_message_may_be_a_bounce_and_for_a_route() {
    let app = start().await;
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    let path = app.smtp.messages().last().unwrap().from.clone();
    route(&app, "*@reply.acme.test", "store").await;
    let bounce = crate::support::reports::dsn(None, None, &[crate::support::reports::failed("ann@example.test")]);
    let replies = deliver(&app, "", &[path.as_str(), "x@reply.acme.test"], &bounce).await;
    assert_eq!(replies[2], "250 2.0.0 Accepted\r\n");
    assert_eq!(app.status(&sent.id).await, "bounced");
    assert_eq!(received(&app).await.len(), 1);
}

#[tokio::test]
async fn several_messages_are_received_in_one_session() {
    let app = start().await;
    route(&app, "*@reply.acme.test", "store").await;
    let mut client = Client::connect(app.inbound()).await;
    assert_eq!(client.code("EHLO mx.example.test\r\n").await, 250);
    for n in 0..3 {
        client.send(&format!("MAIL FROM:<ann@example.test>\r\nRCPT TO:<x+{n}@reply.acme.test>\r\nDATA\r\n")).await;
        assert_eq!(client.codes(3).await, [250, 250, 354]);
        assert_eq!(client.code(&format!("{}.\r\n", mime(""))).await, 250);
    }
    assert_eq!(received(&app).await.len(), 3);
}
