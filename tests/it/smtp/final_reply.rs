//! The reply to the final dot: its code decides, in any format. Each reply that is missed leads to a duplicate.

use std::time::Duration;

use postrider::domain::outcome::Outcome;
use postrider::domain::outcome::Verdict::{Accepted, Permanent, Temporary, Uncertain};
use postrider::smtp::{Settings, Timeouts};

use crate::support::sending::{envelope, mail_of, relay, send_one, sender, through_relay};
use crate::support::smtp::{Action, SmtpServer};

/// Settings with a short wait for a missed reply.
fn impatient(smtp: &SmtpServer) -> Settings {
    Settings { timeouts: Timeouts { quit: Duration::from_millis(300), ..Timeouts::default() }, ..relay(smtp) }
}

/// The outcomes of a message whose final dot gets this reply, and of the next message.
async fn answered(action: Action) -> Outcome {
    let smtp = SmtpServer::start().await;
    smtp.dot().does([action]);
    let sender = sender(impatient(&smtp));
    let outcome = send_one(&sender).await;
    assert_eq!(send_one(&sender).await.verdict, Accepted, "nothing is left over for the next mail");
    outcome
}

fn bytes(text: &str) -> Action {
    Action::Octets(text.as_bytes().to_vec())
}

#[tokio::test]
async fn a_legible_yes_is_a_yes_however_it_is_written() {
    let long = format!("250 {}\r\n", "x".repeat(2_100));
    let very_long = format!("250 {}\r\n", "x".repeat(100_000));
    let many = "250-and another thing\r\n".repeat(2_000) + "250 ok\r\n";
    for yes in [
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
        "queued by hand\r\n250 ok\r\n",
        "354 go ahead\r\n250 ok\r\n",
    ] {
        assert_eq!(answered(bytes(yes)).await.verdict, Accepted, "{:?}", &yes[..yes.len().min(40)]);
    }
}

#[tokio::test]
async fn a_legible_no_is_a_no_however_it_is_written() {
    let long = format!("554 {}\r\n", "x".repeat(20_000));
    for (no, verdict) in [
        (long.as_str(), Permanent),
        ("554no\r\n", Permanent),
        ("451-a\r\n452 b\r\n", Temporary),
        ("garbage\r\n451 later\r\n", Temporary),
    ] {
        assert_eq!(answered(bytes(no)).await.verdict, verdict, "{:?}", &no[..no.len().min(40)]);
    }
}

#[tokio::test]
async fn a_reply_that_is_cut_off_has_its_code() {
    for (reply, verdict) in [
        ("250 2.0.0 queu", Accepted),
        ("250-first line\r\n", Accepted),
        ("250-first line\r\n25", Accepted),
        ("550 no", Permanent),
        ("25", Uncertain),
        ("", Uncertain),
    ] {
        let outcome = answered(Action::OctetsThenDrop(reply.as_bytes().to_vec())).await;
        assert_eq!(outcome.verdict, verdict, "{reply:?}: {}", outcome.reply.text);
    }
    assert_eq!(answered(Action::Endless(b"250-and another thing\r\n")).await.verdict, Accepted);
}

#[tokio::test]
async fn what_says_nothing_is_uncertain() {
    for nothing in ["ok, thanks\r\n", "100 go on\r\n", "2500 ok\r\n", "354 go ahead\r\n", "\r\n"] {
        let outcome = answered(bytes(nothing)).await;
        assert_eq!(outcome.verdict, Uncertain, "{nothing:?}: {}", outcome.reply.text);
    }
}

#[tokio::test]
async fn a_reply_in_pieces_is_read_whole() {
    let smtp = SmtpServer::start().await;
    smtp.dot().does([Action::Pieces(&["2", "50-on", "e\r", "\n250", " tw", "o\r\n"])]);
    let outcome = send_one(&sender(impatient(&smtp))).await;
    assert_eq!((outcome.verdict, outcome.reply.text.as_str()), (Accepted, "one\ntwo"));
}

#[tokio::test]
async fn a_long_reply_is_kept_from_its_beginning() {
    let outcome = answered(bytes(&format!("250 2.0.0 {}\r\n", "x".repeat(5_000)))).await;
    assert!(outcome.reply.text.starts_with("xxx") && outcome.reply.text.len() <= 2_000);
    assert_eq!(outcome.reply.enhanced.unwrap().to_string(), "2.0.0");
}

#[tokio::test]
async fn a_refusal_before_the_end_of_the_text_is_heard() {
    let smtp = SmtpServer::start().await;
    smtp.data().does([Action::DropAfterReading(10_000, "552 5.3.4 too large\r\n")]);
    // The last chunk, with the final dot, may be the one whose write fails.
    for size in [70_000, 200_000, 20_000_000] {
        let mail = mail_of(size);
        let outcomes = sender(impatient(&smtp)).send(&through_relay(), &envelope(["ann@example.test"]), &mail).await;
        assert!(matches!(outcomes[0].verdict, Permanent | Accepted), "{size}: {:?}", outcomes[0]);
    }
}
