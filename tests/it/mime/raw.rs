//! A finished MIME message is sent unchanged, and is otherwise handled like any other message.

use postrider::config::SecretKey;
use postrider::domain::key::Scope;
use serde_json::json;

use super::{field, post_mime, send_mime};
use crate::support::app::TestApp;
use crate::support::clock::hours;
use crate::support::dns::DnsServer;
use crate::support::domains::{checked, publish, registered, signatures, with_secret};
use crate::support::reports::{dsn, failed};

const COMPLETE: &str = "Date: Mon, 23 Nov 2026 11:00:00 +0000\r\nMessage-ID: <own.1@acme.test>\r\n\
    From: =?utf-8?q?Acme_B=C3=BCro?= <billing@acme.test>\r\nTo: Ann Lee <ann@example.test>\r\nCc: cy@example.test\r\n\
    Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Transfer-Encoding: 8bit\r\n\r\nGr\u{fc}\u{df}e\r\n.\r\n..\r\n \r\n";

#[tokio::test]
async fn complete_message_is_sent_unchanged_at_every_attempt() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.7.1 later"]);
    let given = COMPLETE.replacen("From:", "Bcc: bo@example.test\r\nX-Postrider-Stream: bulk\r\nFrom:", 1);
    let id = send_mime(&app, "?tag=kind:invoice&metadata=order:42", given).await;
    app.run_until_idle().await;
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    let sent = app.smtp.messages();
    let to: Vec<&[String]> = sent.iter().map(|message| &message.to[..]).collect();
    assert_eq!(
        to,
        [&["cy@example.test".to_owned(), "bo@example.test".to_owned()][..], &["ann@example.test".to_owned()]]
    );
    assert!(sent.iter().all(|message| message.raw == COMPLETE.as_bytes()), "{sent:?}");
    assert!(sent.iter().all(|message| message.mail_command.contains("BODY=8BITMIME")), "{sent:?}");
    assert_eq!(app.get(&format!("/v1/messages/{id}/raw")).await.bytes, COMPLETE.as_bytes());

    let message = app.message(&id).await;
    assert_eq!(message["from"], json!({"email": "billing@acme.test", "name": "Acme B\u{fc}ro"}));
    assert_eq!((&message["subject"], &message["message_id"]), (&json!("Gr\u{fc}\u{df}e"), &json!("<own.1@acme.test>")));
    assert_eq!((&message["tags"][0]["value"], &message["metadata"]["order"]), (&json!("invoice"), &json!("42")));
    assert_eq!((&message["attachments"], &message["size"]), (&json!([]), &json!(COMPLETE.len())));
    let kinds: Vec<_> =
        message["recipients"].as_array().unwrap().iter().map(|one| (&one["kind"], &one["name"])).collect();
    assert_eq!(kinds, [(&json!("to"), &json!("Ann Lee")), (&json!("cc"), &json!(null)), (&json!("bcc"), &json!(null))]);
    assert_eq!(app.get(&format!("/v1/messages/{id}/attachments/0")).await.status, 404);
    for filter in
        ["subject=gr%C3%BC%C3%9F", "from=billing@acme.test", "to=bo@example.test", "message_id=own.1@acme.test"]
    {
        assert_eq!(app.get(&format!("/v1/messages?{filter}")).await.body["data"][0]["id"], id, "{filter}");
    }
    let events = app.event_list(&id).await;
    assert!(events.iter().all(|event| event["data"]["internet_message_id"] == "<own.1@acme.test>"), "{events:?}");
}

#[tokio::test]
async fn missing_fields_are_added_and_line_ends_become_crlf() {
    let app = TestApp::start().await;
    let text = "From: billing@acme.test\nTo: ann@example.test\n\nHello.\n.\nBye";
    let id =
        send_mime(&app, &format!("?scheduled_at={}", app.clock.text_in(hours(30)).replace('+', "%2B")), text).await;
    assert_eq!(app.status(&id).await, "scheduled");
    let before = app.get(&format!("/v1/messages/{id}/raw")).await.bytes;
    app.clock.advance(hours(30));
    app.run_until_idle().await;
    let sent = app.smtp.messages().remove(0);
    let expected = format!(
        "From: billing@acme.test\r\nTo: ann@example.test\r\nDate: Tue, 24 Nov 2026 18:00:00 +0000\r\n\
         Message-ID: <{}@acme.test>\r\n\r\nHello.\r\n.\r\nBye\r\n",
        id.strip_prefix("msg_").unwrap()
    );
    assert_eq!(String::from_utf8(sent.raw).unwrap(), expected);
    assert_eq!(String::from_utf8(before).unwrap(), expected);
    assert!(!sent.mail_command.contains("BODY="), "{}", sent.mail_command);
}

#[tokio::test]
async fn large_message_arrives_unchanged() {
    let app = TestApp::start().await;
    let lines = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5eg==\n".repeat(50_000);
    let text =
        format!("Date: x\nMessage-ID: <a@b>\nFrom: a@acme.test\nTo: ann@example.test\nBcc: bo@example.test\n\n{lines}");
    let id = send_mime(&app, "", text.clone()).await;
    app.run_until_idle().await;
    let expected = text.replace("Bcc: bo@example.test\n", "").replace('\n', "\r\n");
    assert!(app.smtp.messages().remove(0).raw == expected.as_bytes());
    assert!(app.get(&format!("/v1/messages/{id}/raw")).await.bytes == expected.as_bytes());
}

#[tokio::test]
async fn message_in_memory_is_sent_like_a_loaded_one() {
    let app = TestApp::builder().with_all_roles().start().await;
    // The first message is claimed; later ones may be sent by direct handoff.
    for n in 0..5 {
        send_mime(&app, "", COMPLETE).await;
        let sent = app.smtp.received(n + 1).await;
        assert_eq!(sent[n].raw, COMPLETE.as_bytes());
    }
    app.run_until_idle().await;
}

#[tokio::test]
async fn message_is_signed_like_a_generated_one() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    publish(&dns, &registered(&app, "acme.test").await);
    assert_eq!(checked(&app, "acme.test").await["status"], "verified");
    send_mime(&app, "", COMPLETE).await;
    app.run_until_idle().await;
    let raw = app.smtp.messages().remove(0).raw;
    assert!(raw.ends_with(COMPLETE.as_bytes()));
    let found = signatures(&dns, &raw).await;
    assert!(
        found.len() == 2 && found.iter().all(|(domain, _, verifies)| domain == "acme.test" && *verifies),
        "{found:?}"
    );
}

#[tokio::test]
async fn envelope_sender_is_the_return_path_or_the_given_one() {
    let app = TestApp::start().await;
    for (query, expected) in [("", "billing@acme.test"), ("?from=bounces@mail.acme.test", "bounces@mail.acme.test")] {
        send_mime(&app, query, COMPLETE).await;
        app.run_until_idle().await;
        let sent = app.smtp.messages().pop().unwrap();
        assert_eq!((sent.from.as_str(), sent.raw.as_slice()), (expected, COMPLETE.as_bytes()));
    }
    let app = TestApp::builder().with_inbound().start().await;
    let id = send_mime(&app, "?from=bounces@acme.test&to=ann@example.test", COMPLETE).await;
    app.run_until_idle().await;
    let path = app.smtp.messages().remove(0).from;
    assert!(path.starts_with("b+") && path.ends_with("@return.acme.test"), "{path}");
    app.deliver_bounce(&path, &dsn(None, None, &[failed("ann@example.test")])).await;
    assert_eq!(app.status(&id).await, "bounced");
}

#[tokio::test]
async fn report_with_its_own_message_id_finds_the_message() {
    let app = TestApp::builder().with_inbound().start().await;
    let id = send_mime(&app, "?to=ann@example.test", COMPLETE).await;
    app.run_until_idle().await;
    let report = dsn(None, None, &[failed("ann@example.test")]);
    let report = report.replace("From: billing@acme.test", "Message-ID: <own.1@acme.test>\r\nFrom: billing@acme.test");
    let request = app.request(reqwest::Method::POST, "/v1/inbound").header("content-type", "message/rfc822");
    let response = crate::support::client::ApiResponse::to(request.body(report)).await.body;
    assert_eq!((&response["found_by"], &response["message_id"]), (&json!("message_id"), &json!(id)), "{response}");
    assert_eq!(app.status(&id).await, "bounced");
}

#[tokio::test]
async fn suppressed_recipient_gets_nothing() {
    let app = TestApp::start().await;
    app.post("/v1/suppressions", &json!([{"address": "ann@example.test"}])).await;
    let id = send_mime(&app, "", COMPLETE).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&id).await, ["suppressed", "relayed"]);
    assert_eq!(app.smtp.messages().remove(0).to, ["cy@example.test"]);
    let sender = app.with_scopes(&[Scope::Send]).await;
    let forbidden = post_mime(&sender, "?ignore_suppression=true", COMPLETE).await;
    assert_eq!(
        (forbidden.problem(), forbidden.faults()),
        ((403, "forbidden"), vec![("/ignore_suppression", "forbidden")])
    );
    let id = send_mime(&app, "?ignore_suppression=true", COMPLETE).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&id).await, ["relayed"; 2]);
}

#[tokio::test]
async fn stream_adds_its_unsubscribe_link() {
    let configured = |config: &mut postrider::config::Config| {
        config.public_url = Some("https://mail.acme.test".parse().unwrap());
        config.secret_key = Some(SecretKey::from("0123456789abcdef0123456789abcdef".to_owned()));
    };
    let app = TestApp::builder().config(configured).start().await;
    app.post("/v1/streams", &json!({"name": "news", "unsubscribe": true})).await;
    let id = send_mime(&app, "?stream=news&to=ann@example.test", COMPLETE).await;
    app.run_until_idle().await;
    let raw = app.smtp.messages().remove(0).raw;
    assert!(field(&raw, "List-Unsubscribe").unwrap().starts_with("<https://mail.acme.test/u/"));
    assert_eq!(field(&raw, "List-Unsubscribe-Post").as_deref(), Some("List-Unsubscribe=One-Click"));
    assert_eq!(app.get(&format!("/v1/messages/{id}/raw")).await.bytes, raw);
    let two = post_mime(&app, "?stream=news", COMPLETE).await;
    assert_eq!(two.body["warnings"][0]["code"], "unsubscribe_needs_one_recipient");
    let own = COMPLETE.replacen("From:", "List-Unsubscribe: <mailto:u@acme.test>\r\nFrom:", 1);
    send_mime(&app, "?stream=news&to=ann@example.test", own.clone()).await;
    app.run_until_idle().await;
    assert!(app.smtp.messages().iter().any(|message| message.raw == own.as_bytes()));
}
