//! Sessions are reused for the next message, within their limits.

use std::time::Duration;

use futures_util::future::join_all;
use postrider::domain::outcome::Verdict::{Accepted, Temporary};
use postrider::smtp::Settings;

use crate::support::sending::{relay, send_one, sender};
use crate::support::smtp::{Action, SmtpServer};

#[tokio::test]
async fn mails_follow_each_other_over_one_session() {
    let smtp = SmtpServer::start().await;
    let sender = sender(relay(&smtp));
    for _ in 0..5 {
        assert_eq!(send_one(&sender).await.verdict, Accepted);
    }
    assert_eq!((smtp.connections(), smtp.mails().len(), smtp.count("EHLO")), (1, 5, 1));
}

#[tokio::test]
async fn a_session_carries_so_many_mails_and_says_goodbye() {
    let smtp = SmtpServer::start().await;
    let sender = sender(Settings { mails_per_connection: 2, ..relay(&smtp) });
    for _ in 0..5 {
        assert_eq!(send_one(&sender).await.verdict, Accepted);
    }
    assert_eq!((smtp.connections(), smtp.count("QUIT")), (3, 2));
    let quits: Vec<usize> =
        smtp.lines().into_iter().filter(|line| line.text == "QUIT").map(|line| line.connection).collect();
    assert_eq!(quits, [1, 2]);
}

#[tokio::test]
async fn no_more_connections_than_allowed_are_open() {
    let smtp = SmtpServer::start().await;
    let sender = sender(Settings { connections: 3, ..relay(&smtp) });
    let outcomes = join_all((0..20).map(|_| send_one(&sender))).await;
    assert!(outcomes.iter().all(|outcome| outcome.verdict == Accepted));
    assert!(smtp.connections() <= 3);
}

#[tokio::test]
async fn an_idle_session_is_ended_with_quit() {
    let smtp = SmtpServer::start().await;
    let sender = sender(Settings { relay_idle: Duration::from_millis(1), ..relay(&smtp) });
    send_one(&sender).await;
    smtp.read("QUIT", 1).await;
    smtp.left_alone().await;
}

#[tokio::test]
async fn closing_the_sender_ends_its_sessions_with_quit() {
    let smtp = SmtpServer::start().await;
    let sender = sender(relay(&smtp));
    send_one(&sender).await;
    sender.close().await;
    assert_eq!(smtp.count("QUIT"), 1);
    assert_eq!(send_one(&sender).await.verdict, Temporary);
}

#[tokio::test]
async fn a_session_that_died_while_idle_is_no_attempt() {
    // The idle session looks open, but the reply to MAIL says that it is closed.
    for end in [Action::ReplyThenDrop("421 4.4.2 idle for too long".into()), Action::Drop] {
        for offered in [["PIPELINING"], ["8BITMIME"]] {
            let smtp = SmtpServer::start().await;
            smtp.offers(offered);
            let sender = sender(relay(&smtp));
            send_one(&sender).await;
            smtp.mail().does([end.clone()]);
            assert_eq!(send_one(&sender).await.verdict, Accepted);
            assert_eq!((smtp.connections(), smtp.mails().len()), (2, 2));
        }
    }
}

#[tokio::test]
async fn a_session_that_the_server_has_closed_is_not_used() {
    let smtp = SmtpServer::start().await;
    let sender = sender(relay(&smtp));
    smtp.dot().does([Action::ReplyThenDrop("250 ok".into())]);
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    smtp.left_alone().await;
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert_eq!((smtp.connections(), smtp.count("MAIL")), (2, 2));
}

#[tokio::test]
async fn where_one_idle_session_died_the_others_are_not_trusted() {
    let smtp = SmtpServer::start().await;
    let sender = sender(relay(&smtp));
    let gate = smtp.dot().stalls();
    let (_, ()) = tokio::join!(join_all((0..2).map(|_| send_one(&sender))), async {
        gate.reached().await;
        smtp.received(1).await;
        gate.open();
    });
    smtp.mail().does([Action::Drop]);
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert_eq!(smtp.mails()[2].connection, 3);
}

#[tokio::test]
async fn a_new_session_that_dies_is_an_attempt() {
    let smtp = SmtpServer::start().await;
    smtp.mail().does([Action::Drop]);
    assert_eq!(send_one(&sender(relay(&smtp))).await.verdict, Temporary);
    assert_eq!(smtp.connections(), 1);
}

#[tokio::test]
async fn a_session_on_which_the_server_has_spoken_unasked_is_not_used() {
    let smtp = SmtpServer::start().await;
    let sender = sender(relay(&smtp));
    smtp.dot().does([Action::Octets(b"250 ok\r\n421 4.3.2 closing\r\n".to_vec())]);
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert_eq!((smtp.connections(), smtp.count("MAIL")), (2, 2));
}
