//! Accepted messages: they are stored, sent and shown like those of requests.

use serde_json::json;

use super::{ANN, FROM, MESSAGE, count, signed_in, start, submit};
use crate::support::inbound_client::Client;

#[tokio::test]
async fn submitted_message_is_delivered_and_has_its_key() {
    let app = start().await;
    let created = app.post("/v1/keys", &json!({"name": "shop", "scopes": ["send", "read"]})).await.body;
    let api = app.with_key(created["secret"].as_str().unwrap());
    let mut client = signed_in(&app, &api).await;
    let mime = MESSAGE.replace("Subject", "Bcc: di@example.test\r\nReturn-Path: <x@y.test>\r\nSubject");
    let id = submit(&mut client, &[ANN, "bo@example.test", ANN], &mime).await;
    app.run_until_idle().await;

    let message = app.message(&id).await;
    assert_eq!((&message["status"], &message["key_id"]), (&json!("relayed"), &created["id"]), "{message}");
    assert_eq!((&message["subject"], &message["from"]["email"]), (&json!("Hi"), &json!(FROM)));
    let kinds: Vec<_> =
        message["recipients"].as_array().unwrap().iter().map(|one| (&one["address"], &one["kind"])).collect();
    assert_eq!(kinds, [(&json!(ANN), &json!("to")), (&json!("bo@example.test"), &json!("bcc"))]);
    assert_eq!(app.events(&id).await, ["accepted", "relayed", "relayed"]);
    let sent = &app.smtp.messages()[0];
    let raw = String::from_utf8(sent.raw.clone()).unwrap();
    let expected = "Received: by postrider.test (Postrider) with ESMTPA;\r\n Mon, 23 Nov 2026 12:00:00 +0000\r\n\
                    From: billing@acme.test\r\nTo: ann@example.test\r\nSubject: Hi\r\nDate: ";
    assert!(
        raw.starts_with(expected) && raw.contains("\r\nMessage-ID: <") && raw.ends_with("\r\n\r\nHello.\r\n"),
        "{raw}"
    );
    assert!(!raw.contains("127.0.0.1") && !raw.contains("app.test") && !raw.contains("di@"), "{raw}");
    assert_eq!(sent.to, [ANN, "bo@example.test"]);
}

#[tokio::test]
async fn several_messages_in_one_session_are_pipelined() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    let envelope = format!("MAIL FROM:<{FROM}> SIZE=100 BODY=8BITMIME\r\nRCPT TO:<{ANN}>\r\nDATA\r\n");
    client.send(&envelope).await;
    assert_eq!(client.codes(3).await, [250, 250, 354]);
    client.send(&format!("{MESSAGE}.\r\n{envelope}")).await;
    assert_eq!(client.codes(4).await, [250, 250, 250, 354]);
    client.send(&format!("{MESSAGE}.\r\nQUIT\r\n")).await;
    assert_eq!(client.codes(2).await, [250, 221]);
    assert_eq!(count(&app).await, 2);
}

#[tokio::test]
async fn test_keys_send_to_the_simulator() {
    let app = start().await;
    let test = app.with_test_key().await;
    let mut client = signed_in(&app, &test).await;
    let id = submit(&mut client, &[ANN], MESSAGE).await;
    app.run_until_idle().await;
    assert_eq!(test.status(&id).await, "delivered");
    assert_eq!((count(&app).await, app.smtp.messages().len()), (0, 0), "nothing leaves the machine");
}

#[tokio::test]
async fn suppressed_recipient_is_accepted_and_not_sent_to() {
    let app = start().await;
    assert_eq!(app.post("/v1/suppressions", &json!({"address": ANN})).await.status, 200);
    let mut client = signed_in(&app, &app).await;
    let id = submit(&mut client, &[ANN, "bo@example.test"], MESSAGE).await;
    assert_eq!(app.states(&id).await, ["suppressed", "queued"]);
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages()[0].to, ["bo@example.test"]);
}

#[tokio::test]
async fn dsn_parameters_and_smtputf8_are_accepted() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    let to = "j\u{fc}rgen@example.test";
    client.send("MAIL FROM:<billing@acme.test> RET=HDRS ENVID=order+2B42 SMTPUTF8\r\n").await;
    client.send(&format!("RCPT TO:<{to}> NOTIFY=FAILURE,DELAY ORCPT=rfc822;a@b.test\r\nDATA\r\n")).await;
    assert_eq!(client.codes(3).await, [250, 250, 354]);
    let mime = MESSAGE.replace(ANN, to);
    let id = super::id(&client.say(&format!("{mime}.\r\n")).await);
    assert_eq!(app.recipient(&id).await["address"], to);
    let raw = app.get(&format!("/v1/messages/{id}/raw")).await.bytes;
    assert!(raw.starts_with(b"Received: by postrider.test (Postrider) with UTF8SMTPA;"));
    for command in ["MAIL FROM:<billing@acme.test> RET=ALL", "MAIL FROM:<billing@acme.test> SIZE=1 SIZE=1"] {
        assert_eq!(client.code(&format!("{command}\r\n")).await, 501, "{command}");
    }
}

#[tokio::test]
async fn header_in_utf8_is_sent_as_it_is_with_smtputf8() {
    let app = start().await;
    app.smtp.offers(["8BITMIME", "SMTPUTF8"]);
    let mut client = signed_in(&app, &app).await;
    let to = "j\u{fc}rgen@example.test";
    let header =
        "From: Acme B\u{fc}ro <billing@acme.test>\r\nTo: undisclosed-recipients:;\r\nSubject: Gr\u{fc}\u{df}e\r\n";
    client.send(&format!("MAIL FROM:<{FROM}> BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<{to}>\r\nDATA\r\n")).await;
    assert_eq!(client.codes(3).await, [250, 250, 354]);
    let id = super::id(&client.say(&format!("{header}\r\nHello.\r\n.\r\n")).await);
    let message = app.message(&id).await;
    assert_eq!(message["from"], json!({"email": FROM, "name": "Acme B\u{fc}ro"}));
    assert_eq!(message["subject"], "Gr\u{fc}\u{df}e");
    app.run_until_idle().await;
    assert_eq!(app.status(&id).await, "relayed");
    let sent = &app.smtp.messages()[0];
    assert!(
        String::from_utf8_lossy(&sent.raw).contains(header) && sent.mail_command.ends_with(" SMTPUTF8"),
        "{sent:?}"
    );
    // Not every server takes such a header, so others get none.
    let reply = client.submit(FROM, &[ANN], &format!("{header}\r\nHello.\r\n")).await;
    assert!(reply.starts_with("550 5.6.0 invalid_request (invalid_header): "), "{reply}");
}

#[tokio::test]
async fn stop_lets_a_message_finish() {
    let app = start().await;
    let (other, _) = app.another_api().await;
    let address = other.submission_address().unwrap();
    let mut busy = Client::connect(address).await;
    assert!(busy.sign_in(&app.key).await.starts_with("235"));
    let mut idle = Client::connect(address).await;
    assert_eq!(idle.code("EHLO idle\r\n").await, 250);
    busy.send(&format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{ANN}>\r\nDATA\r\n")).await;
    assert_eq!(busy.codes(3).await, [250, 250, 354]);
    let stopped = tokio::spawn(other.stop());
    assert_eq!(idle.codes(1).await, [421]);
    let id = super::id(&busy.say(&format!("{MESSAGE}.\r\n")).await);
    assert_eq!(busy.codes(1).await, [421]);
    stopped.await.unwrap();
    assert_eq!(app.message(&id).await["subject"], "Hi");
}
