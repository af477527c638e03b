//! Extensions are used only if the server offers them.

use postrider::domain::outcome::Verdict::{Accepted, Permanent};
use postrider::smtp::Envelope;

use crate::support::sending::{MAIL, envelope, mail_of, relay, send, send_one, sender, through_relay, verdicts};
use crate::support::smtp::SmtpServer;

#[tokio::test]
async fn a_mail_larger_than_the_server_takes_is_not_sent() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["PIPELINING", "SIZE 1000"]);
    let sender = sender(relay(&smtp));
    let outcomes = sender.send(&through_relay(), &envelope(["ann@example.test"]), &mail_of(1_001)).await;

    assert_eq!((outcomes[0].verdict, outcomes[0].reply.enhanced.unwrap().to_string()), (Permanent, "5.3.4".into()));
    assert_eq!(smtp.count("MAIL"), 0);
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert_eq!(smtp.connections(), 1);
}

#[tokio::test]
async fn an_address_beyond_ascii_needs_smtputf8_and_the_others_do_not() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["PIPELINING"]);
    let outcomes = send(&sender(relay(&smtp)), ["ann@example.test", "jörg@example.test"]).await;

    assert_eq!(verdicts(&outcomes), [Accepted, Permanent]);
    assert_eq!(outcomes[1].reply.enhanced.unwrap().to_string(), "5.6.7");
    assert_eq!(smtp.mails()[0].to, ["ann@example.test"]);
}

#[tokio::test]
async fn smtputf8_is_asked_for_where_it_is_offered_and_needed() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["SMTPUTF8"]);
    let sender = sender(relay(&smtp));
    assert_eq!(verdicts(&send(&sender, ["jörg@example.test"]).await), [Accepted]);
    send_one(&sender).await;

    let mails = smtp.mails();
    assert_eq!(mails[0].mail_command, "MAIL FROM:<bounce@acme.test> SMTPUTF8");
    assert_eq!(mails[0].to, ["jörg@example.test"]);
    assert_eq!(mails[1].mail_command, "MAIL FROM:<bounce@acme.test>");
}

#[tokio::test]
async fn a_return_path_beyond_ascii_concerns_everyone() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["PIPELINING"]);
    let envelope = Envelope { from: Some("jörg@acme.test".parse().unwrap()), ..envelope(["ann@example.test"]) };
    let outcomes = sender(relay(&smtp)).send(&through_relay(), &envelope, MAIL).await;
    assert_eq!(verdicts(&outcomes), [Permanent]);
}

#[tokio::test]
async fn eight_bit_is_announced_where_it_is_offered_and_used() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["8BITMIME"]);
    let sender = sender(relay(&smtp));
    sender.send(&through_relay(), &envelope(["ann@example.test"]), "Subject: e\r\n\r\né\r\n".as_bytes()).await;
    send_one(&sender).await;

    assert_eq!(smtp.mails()[0].mail_command, "MAIL FROM:<bounce@acme.test> BODY=8BITMIME");
    assert_eq!(smtp.mails()[1].mail_command, "MAIL FROM:<bounce@acme.test>");
}

#[tokio::test]
async fn eight_bits_are_not_sent_to_a_server_that_takes_seven() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["PIPELINING"]);
    let sender = sender(relay(&smtp));
    let mail = "From: jorg@acme.test\r\n\r\nJörg\r\n".as_bytes();
    let outcomes = sender.send(&through_relay(), &envelope(["ann@example.test"]), mail).await;
    assert_eq!((outcomes[0].verdict, outcomes[0].reply.enhanced.unwrap().to_string()), (Permanent, "5.6.3".into()));
    assert_eq!(smtp.count("MAIL"), 0);
    assert_eq!(send_one(&sender).await.verdict, Accepted);
}

#[tokio::test]
async fn a_header_beyond_ascii_never_goes_without_smtputf8() {
    for offered in [&["PIPELINING", "8BITMIME"][..], &["PIPELINING"]] {
        let smtp = SmtpServer::start().await;
        smtp.offers([offered[0], offered.last().unwrap()]);
        let sender = sender(relay(&smtp));
        for header in ["From: jörg@acme.test", "To: ann@example.test, jörg@example.test", "Reply-To: <jörg@acme.test>"]
        {
            let mail = format!("Subject: hello\r\n{header}\r\n\r\nHello.\r\n");
            let to = envelope(["ann@example.test", "bo@example.test"]);
            let outcomes = sender.send(&through_relay(), &to, mail.as_bytes()).await;
            assert_eq!(verdicts(&outcomes), [Permanent, Permanent], "{header}");
            assert_eq!(outcomes[0].reply.enhanced.unwrap().to_string(), "5.6.7", "{header}");
        }
        assert_eq!((smtp.count("MAIL"), smtp.mails().len()), (0, 0));
        assert_eq!(send_one(&sender).await.verdict, Accepted, "the connection is fit for others");
    }
}

#[tokio::test]
async fn smtputf8_is_asked_for_by_a_header_alone() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["8BITMIME", "SMTPUTF8"]);
    let mail = "To: jörg@example.test, ann@example.test\r\n\r\nHello.\r\n";
    let outcomes = sender(relay(&smtp)).send(&through_relay(), &envelope(["ann@example.test"]), mail.as_bytes()).await;
    assert_eq!(verdicts(&outcomes), [Accepted]);
    assert_eq!(smtp.mails()[0].mail_command, "MAIL FROM:<bounce@acme.test> BODY=8BITMIME SMTPUTF8");
}

#[tokio::test]
async fn a_server_that_knows_no_ehlo_is_greeted_with_helo() {
    let smtp = SmtpServer::start().await;
    smtp.ehlo().replies(["502 5.5.1 unknown command"]);
    assert_eq!(send_one(&sender(relay(&smtp))).await.verdict, Accepted);
    assert_eq!(smtp.count("HELO client.test"), 1);
    assert_eq!(smtp.mails()[0].mail_command, "MAIL FROM:<bounce@acme.test>");
}
