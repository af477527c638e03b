//! Faulty servers: the outcome is temporary before the final dot and uncertain after it, and every attempt ends.

use std::time::Duration;

use postrider::domain::outcome::Verdict::{Accepted, Permanent, Temporary, Uncertain};
use postrider::smtp::{Settings, Timeouts};

use crate::support::sending::{envelope, message_of_size, relay, send, send_one, sender, through_relay, verdicts};
use crate::support::smtp::{Action, SmtpServer};

#[tokio::test]
async fn a_421_at_any_stage_defers_and_ends_the_session() {
    for stage in ["greeting", "ehlo", "mail", "rcpt", "data", "dot"] {
        let smtp = SmtpServer::start().await;
        smtp.stage(stage, "b@x.test").does([Action::ReplyThenDrop("421 4.3.2 closing".into())]);
        let sender = sender(relay(&smtp));
        let outcomes = send(&sender, ["a@x.test", "b@x.test"]).await;
        assert_eq!(verdicts(&outcomes), [Temporary, Temporary], "{stage}");
        assert_eq!(outcomes[0].reply.code, Some(421), "{stage}");
        smtp.all_connections_closed().await;
        assert_eq!(send_one(&sender).await.verdict, Accepted, "{stage}");
        assert_eq!(smtp.connections(), 2, "{stage}");
    }
}

#[tokio::test]
async fn a_421_keeps_earlier_refusals() {
    let smtp = SmtpServer::start().await;
    smtp.rcpt("a@x.test").replies(["550 5.1.1 unknown"]);
    smtp.rcpt("c@x.test").does([Action::ReplyThenDrop("421 4.3.2 closing".into())]);
    let outcomes = send(&sender(relay(&smtp)), ["a@x.test", "b@x.test", "c@x.test"]).await;
    assert_eq!(verdicts(&outcomes), [Permanent, Temporary, Temporary]);
}

#[tokio::test]
async fn a_drop_before_the_dot_is_temporary() {
    for stage in ["greeting", "ehlo", "mail", "rcpt", "data"] {
        let smtp = SmtpServer::start().await;
        smtp.stage(stage, "ann@example.test").does([Action::Drop]);
        let outcome = send_one(&sender(relay(&smtp))).await;
        assert_eq!((outcome.verdict, outcome.reply.code), (Temporary, None), "{stage}");
    }
}

#[tokio::test]
async fn a_drop_during_a_large_message_is_temporary() {
    let smtp = SmtpServer::start().await;
    smtp.data().does([Action::DropAfterReading(10_000, "")]);
    // The message is larger than all buffers on the connection.
    let message = message_of_size(20_000_000);
    let outcomes = sender(relay(&smtp)).send(&through_relay(), &envelope(["ann@example.test"]), &message).await;
    assert_eq!(verdicts(&outcomes), [Temporary]);
}

#[tokio::test]
async fn a_drop_after_the_dot_is_uncertain() {
    let smtp = SmtpServer::start().await;
    smtp.rcpt("b@x.test").replies(["550 5.1.1 unknown"]);
    smtp.dot().does([Action::Drop]);
    let outcomes = send(&sender(relay(&smtp)), ["a@x.test", "b@x.test"]).await;
    assert_eq!(verdicts(&outcomes), [Uncertain, Permanent]);
    assert_eq!(smtp.connections(), 1, "no second attempt is made");
}

#[tokio::test]
async fn a_missing_reply_is_temporary_and_uncertain_after_the_dot() {
    let (usual, short) = (Timeouts::default(), Duration::from_millis(100));
    for (stage, timeouts, expected) in [
        ("mail", Timeouts { mail: short, ..usual.clone() }, Temporary),
        ("rcpt", Timeouts { rcpt: short, ..usual.clone() }, Temporary),
        ("data", Timeouts { data: short, ..usual.clone() }, Temporary),
        ("dot", Timeouts { final_dot: short, ..usual.clone() }, Uncertain),
    ] {
        let smtp = SmtpServer::start().await;
        let _gate = smtp.stage(stage, "ann@example.test").stalls();
        let outcome = send_one(&sender(Settings { timeouts, ..relay(&smtp) })).await;
        assert_eq!(outcome.verdict, expected, "{stage}");
        assert!(outcome.reply.text.contains("took too long"), "{}", outcome.reply.text);
    }
}

#[tokio::test]
async fn a_server_that_stops_reading_the_message_is_temporary() {
    let smtp = SmtpServer::start().await;
    smtp.data().does([Action::StopReading]);
    let timeouts =
        Timeouts { block: Duration::from_millis(100), quit: Duration::from_millis(100), ..Timeouts::default() };
    let sender = sender(Settings { timeouts, ..relay(&smtp) });
    let outcomes = sender.send(&through_relay(), &envelope(["ann@example.test"]), &message_of_size(20_000_000)).await;
    assert_eq!(verdicts(&outcomes), [Temporary]);
}

#[tokio::test]
async fn a_slow_reply_to_the_dot_makes_one_copy() {
    let smtp = SmtpServer::start().await;
    let gate = smtp.dot().stalls();
    let sender = sender(relay(&smtp));
    let (outcome, ()) = tokio::join!(send_one(&sender), async {
        gate.reached().await;
        gate.open();
    });
    assert_eq!((outcome.verdict, smtp.messages().len()), (Accepted, 1));
}

#[tokio::test]
async fn an_invalid_reply_before_the_dot_is_temporary() {
    let invalid = [
        Action::Endless(b"250-and another thing\r\n"),
        Action::Endless(b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
        Action::Bytes(vec![b'2'; 1 << 20]),
        Action::Bytes(b"\x00\xff\xfe\r\n\r\n".to_vec()),
        Action::Bytes(b"250-one\r\n550 other\r\n".to_vec()),
        Action::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        Action::Bytes(b"999 ?\r\n".to_vec()),
        Action::Bytes(b"354 go ahead\r\n".to_vec()),
    ];
    for action in invalid {
        for stage in ["greeting", "ehlo", "mail", "rcpt", "data"] {
            if stage == "data" && matches!(&action, Action::Bytes(bytes) if bytes.starts_with(b"354")) {
                continue;
            }
            let smtp = SmtpServer::start().await;
            smtp.stage(stage, "ann@example.test").does([action.clone()]);
            let outcome = send_one(&sender(relay(&smtp))).await;
            assert_eq!(outcome.verdict, Temporary, "{stage}");
            smtp.all_connections_closed().await;
        }
    }
}

#[tokio::test]
async fn an_invalid_reply_to_the_dot_is_uncertain() {
    let timeouts = Timeouts { quit: Duration::from_millis(100), ..Timeouts::default() };
    for invalid in [
        Action::Bytes(b"ok, thanks\r\n".to_vec()),
        Action::Bytes(vec![b'2'; 1 << 20]),
        Action::Endless(b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    ] {
        let smtp = SmtpServer::start().await;
        smtp.dot().does([invalid]);
        let sender = sender(Settings { timeouts: timeouts.clone(), ..relay(&smtp) });
        assert_eq!(send_one(&sender).await.verdict, Uncertain);
    }
}

#[tokio::test]
async fn an_extra_reply_is_not_read_as_the_reply_to_the_dot() {
    let smtp = SmtpServer::start().await;
    smtp.data().does([Action::Bytes(b"354 go ahead\r\n250 2.0.0 queued\r\n".to_vec())]);
    assert_eq!(send_one(&sender(relay(&smtp))).await.verdict, Temporary);
}

#[tokio::test]
async fn an_extra_reply_bounces_no_recipient() {
    let to = ["a@x.test", "b@x.test", "c@x.test"];
    for refused in to {
        for offered in ["PIPELINING", "8BITMIME"] {
            let smtp = SmtpServer::start().await;
            smtp.offers([offered]);
            // After an extra reply, each later reply would be read as the reply for the next recipient.
            smtp.mail().does([Action::Bytes(b"250 2.0.0 queued\r\n250 2.1.0 ok\r\n".to_vec())]);
            smtp.rcpt(refused).replies(["550 5.1.1 unknown"]);
            let outcomes = send(&sender(relay(&smtp)), to).await;
            assert_eq!(verdicts(&outcomes), [Temporary; 3], "{refused} {offered}");
            assert!(smtp.messages().is_empty());
        }
    }
}

#[tokio::test]
async fn a_421_after_a_refusal_keeps_the_refusal() {
    let smtp = SmtpServer::start().await;
    smtp.rcpt("ann@example.test").replies(["550 5.1.1 unknown"]);
    smtp.data().does([Action::BytesThenDrop(b"554 5.5.1 no valid recipients\r\n421 4.4.2 closing\r\n".to_vec())]);
    let sender = sender(relay(&smtp));
    assert_eq!(send_one(&sender).await.verdict, Permanent);
    assert_eq!(send_one(&sender).await.verdict, Accepted);
}

#[tokio::test]
async fn a_second_reply_to_the_dot_does_not_reach_the_next_message() {
    let smtp = SmtpServer::start().await;
    smtp.dot().does([Action::Bytes(b"250\r\n250 Ok 1234\r\n".to_vec())]);
    let sender = sender(relay(&smtp));
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert_eq!((smtp.messages().len(), smtp.connections()), (2, 2));
}

#[tokio::test]
async fn a_greeting_with_two_codes_is_reported_in_full() {
    let smtp = SmtpServer::start().await;
    smtp.greeting().does([Action::Bytes(b"220-mx.test ESMTP\r\n521 5.7.1 blocked by a list\r\n".to_vec())]);
    let outcome = send_one(&sender(relay(&smtp))).await;
    assert_eq!(outcome.verdict, Temporary);
    assert!(outcome.reply.text.contains("220 and 521") && outcome.reply.text.contains("blocked by a list"));
}

#[tokio::test]
async fn a_refusal_sent_before_a_drop_is_read() {
    for (reply, expected) in [("552 5.3.4 too large\r\n", Permanent), ("451 4.3.0 later\r\n", Temporary)] {
        let smtp = SmtpServer::start().await;
        smtp.data().does([Action::DropAfterReading(10_000, reply)]);
        let message = message_of_size(20_000_000);
        let outcomes = sender(relay(&smtp)).send(&through_relay(), &envelope(["ann@example.test"]), &message).await;
        assert_eq!((outcomes[0].verdict, outcomes[0].reply.code.is_some()), (expected, true));
    }
}

#[tokio::test]
async fn an_unreachable_relay_is_temporary() {
    let address = SmtpServer::start().await.address();
    let settings = crate::support::sending::relay_at(address, "tls=none");
    let outcome = send_one(&sender(settings)).await;
    assert_eq!(outcome.verdict, Temporary);
    assert!(outcome.reply.text.contains("could not connect"), "{}", outcome.reply.text);
    assert_eq!(outcome.reply.enhanced.unwrap().to_string(), "4.4.1");
}

#[tokio::test]
async fn a_refusing_greeting_refuses_no_recipient() {
    let smtp = SmtpServer::start().await;
    smtp.greeting().replies(["554 5.7.1 not you"]);
    let outcome = send_one(&sender(relay(&smtp))).await;
    assert_eq!((outcome.verdict, outcome.reply.code), (Temporary, Some(554)));
}

#[tokio::test]
async fn a_dropped_call_closes_its_connection() {
    let smtp = SmtpServer::start().await;
    let gate = smtp.dot().stalls();
    let sender = sender(relay(&smtp));
    tokio::select! {
        _ = send_one(&sender) => panic!("the server has not replied"),
        () = gate.reached() => {}
    }
    gate.open();
    smtp.all_connections_closed().await;
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert_eq!(smtp.connections(), 2);
}
