//! Sessions are reused for the next message, within their limits.

use std::time::Duration;

use futures_util::future::join_all;
use postrider::domain::outcome::Verdict::{Accepted, Temporary};
use postrider::smtp::Settings;

use crate::support::sending::{relay, send_one, sender};
use crate::support::smtp::{Action, SmtpServer};

#[tokio::test]
async fn messages_reuse_one_session() {
    let smtp = SmtpServer::start().await;
    let sender = sender(relay(&smtp));
    for _ in 0..5 {
        assert_eq!(send_one(&sender).await.verdict, Accepted);
    }
    assert_eq!((smtp.connections(), smtp.messages().len(), smtp.count("EHLO")), (1, 5, 1));
}

#[tokio::test]
async fn a_session_ends_with_quit_after_its_maximum_of_messages() {
    let smtp = SmtpServer::start().await;
    let sender = sender(Settings { messages_per_connection: 2, ..relay(&smtp) });
    for _ in 0..5 {
        assert_eq!(send_one(&sender).await.verdict, Accepted);
    }
    assert_eq!((smtp.connections(), smtp.count("QUIT")), (3, 2));
    let quits: Vec<usize> =
        smtp.lines().into_iter().filter(|line| line.text == "QUIT").map(|line| line.connection).collect();
    assert_eq!(quits, [1, 2]);
}

#[tokio::test]
async fn open_connections_stay_within_the_limit() {
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
    smtp.wait_for_lines("QUIT", 1).await;
    smtp.all_connections_closed().await;
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
async fn a_session_closed_while_idle_is_no_attempt() {
    // The idle session looks open. MAIL shows that it is closed: by the reply 421, or by the end of the connection.
    for end in [Action::ReplyThenDrop("421 4.4.2 idle for too long".into()), Action::Drop] {
        for offered in [["PIPELINING"], ["8BITMIME"]] {
            let smtp = SmtpServer::start().await;
            smtp.offers(offered);
            let sender = sender(relay(&smtp));
            send_one(&sender).await;
            smtp.mail().does([end.clone()]);
            assert_eq!(send_one(&sender).await.verdict, Accepted);
            assert_eq!((smtp.connections(), smtp.messages().len()), (2, 2));
        }
    }
}

#[tokio::test]
async fn a_session_that_the_server_has_closed_is_not_used() {
    let smtp = SmtpServer::start().await;
    let sender = sender(relay(&smtp));
    smtp.dot().does([Action::ReplyThenDrop("250 ok".into())]);
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    smtp.all_connections_closed().await;
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert_eq!((smtp.connections(), smtp.count("MAIL")), (2, 2));
}

#[tokio::test]
async fn other_idle_sessions_are_dropped_after_one_was_closed() {
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
    assert_eq!(smtp.messages()[2].connection, 3);
}

#[tokio::test]
async fn a_new_session_that_is_dropped_is_an_attempt() {
    let smtp = SmtpServer::start().await;
    smtp.mail().does([Action::Drop]);
    assert_eq!(send_one(&sender(relay(&smtp))).await.verdict, Temporary);
    assert_eq!(smtp.connections(), 1);
}

#[tokio::test]
async fn a_session_with_an_unsolicited_reply_is_not_used() {
    let smtp = SmtpServer::start().await;
    let sender = sender(relay(&smtp));
    smtp.dot().does([Action::Bytes(b"250 ok\r\n421 4.3.2 closing\r\n".to_vec())]);
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert_eq!((smtp.connections(), smtp.count("MAIL")), (2, 2));
}
