//! Newsletters fill the connections to a slow destination; urgent messages still find a connection.

use std::sync::Arc;
use std::time::Duration;

use postrider::domain::outcome::Outcome;
use postrider::domain::outcome::Verdict::Accepted;
use postrider::smtp::{Limits, NotAttempted, SendOptions, Sender, Settings, Timeouts};

use crate::support::sending::{MAIL, envelope, relay, sender, through_relay};
use crate::support::smtp::SmtpServer;

async fn send(sender: &Sender, urgent: bool) -> Result<Vec<Outcome>, NotAttempted> {
    let options = SendOptions { urgent, limits: Limits::default(), guard: &|| true };
    sender.send_if(&through_relay(), &envelope(["ann@example.test"]), MAIL, &options).await
}

#[tokio::test]
async fn urgent_message_is_sent_while_all_connections_are_stalled() {
    let smtp = SmtpServer::start().await;
    let timeouts = Timeouts { slot: Duration::from_millis(50), ..Timeouts::default() };
    let sender = Arc::new(sender(Settings { connections: 8, timeouts, ..relay(&smtp) }));
    let gates: Vec<_> = (0..7).map(|_| smtp.mail().stalls()).collect();
    let stalled: Vec<_> = (0..7)
        .map(|_| {
            let sender = sender.clone();
            tokio::spawn(async move { send(&sender, false).await })
        })
        .collect();
    smtp.wait_for_lines("MAIL", 7).await;

    let NotAttempted(why) = send(&sender, false).await.expect_err("no connection is free for an eighth message");
    assert!(why.text.contains("stayed in use"), "{why:?}");
    assert_eq!(smtp.connections(), 7);
    assert_eq!(send(&sender, true).await.unwrap()[0].verdict, Accepted);
    assert_eq!((smtp.connections(), smtp.messages().len()), (8, 1));

    for gate in &gates {
        gate.open();
    }
    for outcome in stalled {
        assert_eq!(outcome.await.unwrap().unwrap()[0].verdict, Accepted);
    }
}
