//! The reply to the final dot: its code decides, in any format. A missed reply leads to a duplicate.

use std::time::Duration;

use postrider::domain::outcome::Outcome;
use postrider::domain::outcome::Verdict::{Accepted, Permanent, Temporary, Uncertain};
use postrider::smtp::{Settings, Timeouts};

use crate::support::sending::{envelope, message_of_size, relay, send_one, sender, through_relay};
use crate::support::smtp::{Action, SmtpServer};

/// Settings with a short wait for further replies.
fn short_timeouts(smtp: &SmtpServer) -> Settings {
    Settings { timeouts: Timeouts { quit: Duration::from_millis(300), ..Timeouts::default() }, ..relay(smtp) }
}

/// Returns the outcome of a message whose final dot gets this reply. Asserts that the next message is accepted.
async fn outcome_after(action: Action) -> Outcome {
    let smtp = SmtpServer::start().await;
    smtp.dot().does([action]);
    let sender = sender(short_timeouts(&smtp));
    let outcome = send_one(&sender).await;
    assert_eq!(send_one(&sender).await.verdict, Accepted, "no bytes are left over for the next message");
    outcome
}

fn bytes(text: &str) -> Action {
    Action::Bytes(text.as_bytes().to_vec())
}

#[tokio::test]
async fn a_2yz_code_in_any_format_accepts_the_message() {
    let long = format!("250 {}\r\n", "x".repeat(2_100));
    let very_long = format!("250 {}\r\n", "x".repeat(100_000));
    let many = "250-and another thing\r\n".repeat(2_000) + "250 ok\r\n";
    for reply in [
        long.as_str(),
        &very_long,
        &many,
        "250ok queued\r\n",
        "250-a\r\n251 b\r\n",
        "250\r\n",
        "250 \r\n",
        "250\tok\r\n",
        "250 ok\n",
        "250 2.0.0 caf\u{e9}\r\n",
        "299 odd\r\n",
        "550-not so\r\n250 ok\r\n",
        "\r\n250 ok\r\n",
        "not a reply line\r\n250 ok\r\n",
        "354 go ahead\r\n250 ok\r\n",
    ] {
        assert_eq!(outcome_after(bytes(reply)).await.verdict, Accepted, "{:?}", &reply[..reply.len().min(40)]);
    }
}

#[tokio::test]
async fn an_error_code_in_any_format_refuses_the_message() {
    let long = format!("554 {}\r\n", "x".repeat(20_000));
    for (reply, verdict) in [
        (long.as_str(), Permanent),
        ("554no\r\n", Permanent),
        ("451-a\r\n452 b\r\n", Temporary),
        ("garbage\r\n451 later\r\n", Temporary),
    ] {
        assert_eq!(outcome_after(bytes(reply)).await.verdict, verdict, "{:?}", &reply[..reply.len().min(40)]);
    }
}

#[tokio::test]
async fn a_truncated_reply_counts_by_its_code() {
    for (reply, verdict) in [
        ("250 2.0.0 queu", Accepted),
        ("250-first line\r\n", Accepted),
        ("250-first line\r\n25", Accepted),
        ("550 no", Permanent),
        ("25", Uncertain),
        ("", Uncertain),
    ] {
        let outcome = outcome_after(Action::BytesThenDrop(reply.as_bytes().to_vec())).await;
        assert_eq!(outcome.verdict, verdict, "{reply:?}: {}", outcome.reply.text);
    }
    assert_eq!(outcome_after(Action::Endless(b"250-and another thing\r\n")).await.verdict, Accepted);
}

#[tokio::test]
async fn a_reply_without_a_usable_code_is_uncertain() {
    for text in ["ok, thanks\r\n", "100 go on\r\n", "2500 ok\r\n", "354 go ahead\r\n", "\r\n"] {
        let outcome = outcome_after(bytes(text)).await;
        assert_eq!(outcome.verdict, Uncertain, "{text:?}: {}", outcome.reply.text);
    }
}

#[tokio::test]
async fn a_reply_in_pieces_is_read_whole() {
    let smtp = SmtpServer::start().await;
    smtp.dot().does([Action::Pieces(&["2", "50-on", "e\r", "\n250", " tw", "o\r\n"])]);
    let outcome = send_one(&sender(short_timeouts(&smtp))).await;
    assert_eq!((outcome.verdict, outcome.reply.text.as_str()), (Accepted, "one\ntwo"));
}

#[tokio::test]
async fn a_long_reply_is_truncated() {
    let outcome = outcome_after(bytes(&format!("250 2.0.0 {}\r\n", "x".repeat(5_000)))).await;
    assert!(outcome.reply.text.starts_with("xxx") && outcome.reply.text.len() <= 2_000);
    assert_eq!(outcome.reply.enhanced.unwrap().to_string(), "2.0.0");
}

#[tokio::test]
async fn a_refusal_during_the_text_is_read() {
    let smtp = SmtpServer::start().await;
    // The last chunk, with the final dot, may be the one whose write fails.
    for size in [70_000, 200_000, 20_000_000] {
        smtp.data().does([Action::DropAfterReading(10_000, "552 5.3.4 too large\r\n")]);
        let message = message_of_size(size);
        let outcomes =
            sender(short_timeouts(&smtp)).send(&through_relay(), &envelope(["ann@example.test"]), &message).await;
        assert_eq!(outcomes[0].verdict, Permanent, "{size}: {:?}", outcomes[0]);
    }
}
