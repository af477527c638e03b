//! A message and its recipients: each recipient gets its own reply.

use postrider::domain::outcome::Verdict::{Accepted, Permanent, Temporary};
use postrider::smtp::Envelope;

use crate::support::sending::{
    MAIL, envelope, message_of_size, relay, send, send_one, sender, through_relay, verdicts,
};
use crate::support::smtp::SmtpServer;

#[tokio::test]
async fn a_message_to_two_recipients_is_pipelined() {
    let smtp = SmtpServer::start().await;
    let outcomes = send(&sender(relay(&smtp)), ["ann@example.test", "bo@example.test"]).await;

    assert_eq!(verdicts(&outcomes), [Accepted, Accepted]);
    let [message] = smtp.messages().try_into().expect("one message");
    assert_eq!(
        (message.from.as_str(), message.to),
        ("bounce@acme.test", vec!["ann@example.test".into(), "bo@example.test".into()])
    );
    assert_eq!((message.raw.as_slice(), message.tls), (MAIL, false));
    let waits: Vec<(String, bool)> = smtp.lines().into_iter().map(|line| (line.text, !line.is_pipelined)).collect();
    let texts: Vec<(&str, bool)> = waits.iter().map(|(text, waits)| (text.as_str(), *waits)).collect();
    assert_eq!(
        texts,
        [
            ("EHLO client.test", true),
            ("MAIL FROM:<bounce@acme.test> SIZE=26", false),
            ("RCPT TO:<ann@example.test>", false),
            ("RCPT TO:<bo@example.test>", false),
            ("DATA", true),
            (".", true),
        ]
    );
}

#[tokio::test]
async fn the_outcome_names_the_server_and_its_reply() {
    let smtp = SmtpServer::start().await;
    smtp.dot().replies(["250 2.6.0 queued as 42"]);
    let outcome = send_one(&sender(relay(&smtp))).await;

    assert_eq!((outcome.reply.code, outcome.reply.text.as_str()), (Some(250), "queued as 42"));
    assert_eq!(outcome.reply.enhanced.unwrap().to_string(), "2.6.0");
    assert_eq!((outcome.peer.mx.as_deref(), outcome.peer.ip), (Some("127.0.0.1"), Some(smtp.address().ip())));
    assert_eq!((outcome.peer.tls, outcome.peer.is_final), (None, false));
    assert!(!outcome.duration.is_zero());
}

#[tokio::test]
async fn a_server_without_pipelining_gets_single_commands() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["8BITMIME"]);
    smtp.rcpt("bo@example.test").replies(["550 5.1.1 unknown"]);
    let outcomes = send(&sender(relay(&smtp)), ["ann@example.test", "bo@example.test"]).await;

    assert_eq!(verdicts(&outcomes), [Accepted, Permanent]);
    assert!(smtp.lines().iter().all(|line| !line.is_pipelined));
    assert_eq!(smtp.count("MAIL FROM:<bounce@acme.test>"), 1);
}

#[tokio::test]
async fn ten_recipients_are_judged_by_their_own_replies() {
    let smtp = SmtpServer::start().await;
    let to = [
        "a@x.test", "b@x.test", "c@x.test", "d@x.test", "e@x.test", "f@x.test", "g@x.test", "h@x.test", "i@x.test",
        "j@x.test",
    ];
    for (index, address) in to.iter().enumerate() {
        match index % 3 {
            1 => smtp.rcpt(address).replies(["451 4.7.1 later"]),
            2 => smtp.rcpt(address).replies(["550 5.1.1 unknown"]),
            _ => {}
        }
    }
    let outcomes = send(&sender(relay(&smtp)), to).await;

    let expected: Vec<_> = (0..10).map(|index| [Accepted, Temporary, Permanent][index % 3]).collect();
    assert_eq!(verdicts(&outcomes), expected);
    assert_eq!(outcomes[1].reply.code, Some(451));
    assert_eq!(outcomes[2].reply.text, "unknown");
    assert_eq!(smtp.messages()[0].to, ["a@x.test", "d@x.test", "g@x.test", "j@x.test"]);
}

#[tokio::test]
async fn a_recipient_over_the_limit_goes_in_another_transaction() {
    let smtp = SmtpServer::start().await;
    smtp.rcpt("c@x.test").replies(["452 4.5.3 too many recipients"]);
    let outcomes = send(&sender(relay(&smtp)), ["a@x.test", "b@x.test", "c@x.test"]).await;
    assert_eq!(verdicts(&outcomes), [Accepted; 3]);
    assert_eq!((smtp.messages().len(), smtp.connections()), (2, 1));
}

#[tokio::test]
async fn a_refusal_of_mail_applies_to_all_recipients() {
    for offered in [["PIPELINING"], ["8BITMIME"]] {
        let smtp = SmtpServer::start().await;
        smtp.offers(offered);
        smtp.mail().replies(["550 5.7.1 blocked", "451 4.3.0 later"]);
        let sender = sender(relay(&smtp));
        assert_eq!(verdicts(&send(&sender, ["a@x.test", "b@x.test"]).await), [Permanent, Permanent]);
        assert_eq!(verdicts(&send(&sender, ["a@x.test", "b@x.test"]).await), [Temporary, Temporary]);
        assert_eq!(verdicts(&send(&sender, ["a@x.test"]).await), [Accepted]);
        assert_eq!(smtp.connections(), 1, "the session is reused");
    }
}

#[tokio::test]
async fn a_refusal_after_rcpt_applies_to_accepted_recipients() {
    let smtp = SmtpServer::start().await;
    let sender = sender(relay(&smtp));
    smtp.rcpt("b@x.test").replies(["451 4.7.1 later", "451 4.7.1 later"]);
    smtp.data().replies(["554 5.7.1 no"]);
    assert_eq!(verdicts(&send(&sender, ["a@x.test", "b@x.test"]).await), [Permanent, Temporary]);
    smtp.dot().replies(["554 5.7.1 spam"]);
    assert_eq!(verdicts(&send(&sender, ["a@x.test", "b@x.test"]).await), [Permanent, Temporary]);
    assert_eq!(verdicts(&send(&sender, ["a@x.test", "b@x.test"]).await), [Accepted, Accepted]);
    assert_eq!((smtp.messages().len(), smtp.connections()), (1, 1));
}

#[tokio::test]
async fn empty_message_ends_data_when_all_recipients_are_refused() {
    let smtp = SmtpServer::start().await;
    smtp.rcpt("a@x.test").replies(["550 5.1.1 unknown"]);
    smtp.data().replies(["354 go ahead"]);
    smtp.dot().replies(["554 5.5.1 no valid recipients"]);
    let sender = sender(relay(&smtp));
    let outcomes = send(&sender, ["a@x.test"]).await;

    assert_eq!((verdicts(&outcomes), outcomes[0].reply.code), (vec![Permanent], Some(550)));
    assert_eq!(verdicts(&send(&sender, ["a@x.test"]).await), [Accepted]);
    assert_eq!((smtp.messages().len(), smtp.connections()), (1, 1));
}

#[tokio::test]
async fn an_open_transaction_is_reset_before_the_next() {
    for offered in [["PIPELINING"], ["8BITMIME"]] {
        let smtp = SmtpServer::start().await;
        smtp.offers(offered);
        smtp.rcpt("a@x.test").replies(["550 5.1.1 unknown"]);
        let sender = sender(relay(&smtp));
        assert_eq!(verdicts(&send(&sender, ["a@x.test"]).await), [Permanent]);
        assert_eq!(verdicts(&send(&sender, ["b@x.test"]).await), [Accepted]);
        assert_eq!((smtp.connections(), smtp.count("RSET")), (1, 1));
    }
}

#[tokio::test]
async fn a_request_for_credentials_is_a_temporary_failure() {
    let smtp = SmtpServer::start().await;
    smtp.mail().replies(["530 5.7.0 Authentication required"]);
    assert_eq!(send_one(&sender(relay(&smtp))).await.verdict, Temporary);
}

#[tokio::test]
async fn an_empty_return_path_is_sent_as_the_null_sender() {
    let smtp = SmtpServer::start().await;
    let envelope = Envelope { from: None, ..envelope(["ann@example.test"]) };
    sender(relay(&smtp)).send(&through_relay(), &envelope, MAIL).await;
    assert_eq!(smtp.messages()[0].from, "");
}

#[tokio::test]
async fn a_large_message_arrives_byte_for_byte() {
    let smtp = SmtpServer::start().await;
    let message = message_of_size(3_000_000);
    let outcomes = sender(relay(&smtp)).send(&through_relay(), &envelope(["ann@example.test"]), &message).await;
    assert_eq!(verdicts(&outcomes), [Accepted]);
    assert!(smtp.messages()[0].raw == message);
}

#[tokio::test]
async fn a_message_without_recipients_opens_no_connection() {
    let smtp = SmtpServer::start().await;
    assert_eq!(send(&sender(relay(&smtp)), []).await, []);
    assert_eq!(smtp.connections(), 0);
}
