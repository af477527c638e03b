//! Extensions are used only if the server offers them.

use postrider::domain::outcome::Verdict::{Accepted, Permanent};
use postrider::smtp::Envelope;

use crate::support::sending::{
    MAIL, envelope, message_of_size, relay, send, send_one, sender, through_relay, verdicts,
};
use crate::support::smtp::SmtpServer;

#[tokio::test]
async fn a_message_larger_than_the_servers_limit_is_not_sent() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["PIPELINING", "SIZE 1000"]);
    let sender = sender(relay(&smtp));
    let outcomes = sender.send(&through_relay(), &envelope(["ann@example.test"]), &message_of_size(1_001)).await;

    assert_eq!((outcomes[0].verdict, outcomes[0].reply.enhanced.unwrap().to_string()), (Permanent, "5.3.4".into()));
    assert_eq!(smtp.count("MAIL"), 0);
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert_eq!(smtp.connections(), 1);
}

#[tokio::test]
async fn only_a_non_ascii_address_needs_smtputf8() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["PIPELINING"]);
    let outcomes = send(&sender(relay(&smtp)), ["ann@example.test", "jörg@example.test"]).await;

    assert_eq!(verdicts(&outcomes), [Accepted, Permanent]);
    assert_eq!(outcomes[1].reply.enhanced.unwrap().to_string(), "5.6.7");
    assert_eq!(smtp.messages()[0].to, ["ann@example.test"]);
}

#[tokio::test]
async fn smtputf8_is_requested_if_offered_and_needed() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["SMTPUTF8"]);
    let sender = sender(relay(&smtp));
    assert_eq!(verdicts(&send(&sender, ["jörg@example.test"]).await), [Accepted]);
    send_one(&sender).await;

    let messages = smtp.messages();
    assert_eq!(messages[0].mail_command, "MAIL FROM:<bounce@acme.test> SMTPUTF8");
    assert_eq!(messages[0].to, ["jörg@example.test"]);
    assert_eq!(messages[1].mail_command, "MAIL FROM:<bounce@acme.test>");
}

#[tokio::test]
async fn a_non_ascii_return_path_affects_all_recipients() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["PIPELINING"]);
    let envelope = Envelope { from: Some("jörg@acme.test".parse().unwrap()), ..envelope(["ann@example.test"]) };
    let outcomes = sender(relay(&smtp)).send(&through_relay(), &envelope, MAIL).await;
    assert_eq!(verdicts(&outcomes), [Permanent]);
}

#[tokio::test]
async fn eight_bit_mime_is_announced_if_offered_and_used() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["8BITMIME"]);
    let sender = sender(relay(&smtp));
    sender.send(&through_relay(), &envelope(["ann@example.test"]), "Subject: e\r\n\r\né\r\n".as_bytes()).await;
    send_one(&sender).await;

    assert_eq!(smtp.messages()[0].mail_command, "MAIL FROM:<bounce@acme.test> BODY=8BITMIME");
    assert_eq!(smtp.messages()[1].mail_command, "MAIL FROM:<bounce@acme.test>");
}

#[tokio::test]
async fn eight_bit_text_is_not_sent_without_8bitmime() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["PIPELINING"]);
    let sender = sender(relay(&smtp));
    let message = "From: jorg@acme.test\r\n\r\nJörg\r\n".as_bytes();
    let outcomes = sender.send(&through_relay(), &envelope(["ann@example.test"]), message).await;
    assert_eq!((outcomes[0].verdict, outcomes[0].reply.enhanced.unwrap().to_string()), (Permanent, "5.6.3".into()));
    assert_eq!(smtp.count("MAIL"), 0);
    assert_eq!(send_one(&sender).await.verdict, Accepted);
}

#[tokio::test]
async fn a_non_ascii_header_is_never_sent_without_smtputf8() {
    for offered in [&["PIPELINING", "8BITMIME"][..], &["PIPELINING"]] {
        let smtp = SmtpServer::start().await;
        smtp.offers([offered[0], offered.last().unwrap()]);
        let sender = sender(relay(&smtp));
        for header in ["From: jörg@acme.test", "To: ann@example.test, jörg@example.test", "Reply-To: <jörg@acme.test>"]
        {
            let message = format!("Subject: hello\r\n{header}\r\n\r\nHello.\r\n");
            let to = envelope(["ann@example.test", "bo@example.test"]);
            let outcomes = sender.send(&through_relay(), &to, message.as_bytes()).await;
            assert_eq!(verdicts(&outcomes), [Permanent, Permanent], "{header}");
            assert_eq!(outcomes[0].reply.enhanced.unwrap().to_string(), "5.6.7", "{header}");
        }
        assert_eq!((smtp.count("MAIL"), smtp.messages().len()), (0, 0));
        assert_eq!(send_one(&sender).await.verdict, Accepted, "the connection can be used for other messages");
    }
}

#[tokio::test]
async fn a_non_ascii_header_requests_smtputf8() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["8BITMIME", "SMTPUTF8"]);
    let message = "To: jörg@example.test, ann@example.test\r\n\r\nHello.\r\n";
    let outcomes =
        sender(relay(&smtp)).send(&through_relay(), &envelope(["ann@example.test"]), message.as_bytes()).await;
    assert_eq!(verdicts(&outcomes), [Accepted]);
    assert_eq!(smtp.messages()[0].mail_command, "MAIL FROM:<bounce@acme.test> BODY=8BITMIME SMTPUTF8");
}

#[tokio::test]
async fn a_server_without_ehlo_gets_helo() {
    let smtp = SmtpServer::start().await;
    smtp.ehlo().replies(["502 5.5.1 unknown command"]);
    assert_eq!(send_one(&sender(relay(&smtp))).await.verdict, Accepted);
    assert_eq!(smtp.count("HELO client.test"), 1);
    assert_eq!(smtp.messages()[0].mail_command, "MAIL FROM:<bounce@acme.test>");
}
