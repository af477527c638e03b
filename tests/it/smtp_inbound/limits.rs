//! Limits of the inbound SMTP server.

use std::time::Duration;

use postrider::smtp::inbound::Settings;

use crate::support::inbound_client::{Client, RecordedMessages, Running, serve};

#[tokio::test]
async fn an_oversized_message_is_refused() {
    let (kept, server) = serve(Settings { max_message: 1_000, ..Settings::default() }).await;
    let mut client = Client::connect(server.address).await;
    assert!(client.say("EHLO x\r\n").await.contains("250-SIZE 1000\r\n"));
    assert_eq!(client.code("MAIL FROM:<> SIZE=1001\r\n").await, 552);
    assert_eq!(client.code("MAIL FROM:<> SIZE=10\r\n").await, 250);
    assert_eq!(client.code("RCPT TO:<c@d.test>\r\n").await, 250);
    assert_eq!(client.code("DATA\r\n").await, 354);
    assert_eq!(client.code(&format!("{}.\r\n", "x\r\n".repeat(50_000))).await, 552);
    assert_eq!(client.code("NOOP\r\n").await, 250);
    assert_eq!(kept.messages().len(), 0);
}

#[tokio::test]
async fn recipients_over_the_limit_are_refused() {
    let (kept, server) = serve(Settings { max_recipients: 2, ..Settings::default() }).await;
    let mut client = Client::connect(server.address).await;
    client.send("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<1@d.test>\r\nRCPT TO:<2@d.test>\r\nRCPT TO:<3@d.test>\r\n").await;
    assert_eq!(client.codes(5).await, [250, 250, 250, 250, 452]);
    client.send("DATA\r\n.\r\n").await;
    assert_eq!(client.codes(2).await, [354, 250]);
    assert_eq!(kept.messages()[0].to, ["1@d.test", "2@d.test"]);
}

#[tokio::test]
async fn a_line_over_the_limit_is_refused() {
    let (_kept, server) = serve(Settings::default()).await;
    let mut client = Client::connect(server.address).await;
    client.send(&format!("NOOP {}\r\nNOOP\r\n", "x".repeat(100_000))).await;
    assert_eq!(client.codes(2).await, [500, 250]);
}

#[tokio::test]
async fn an_endless_line_or_message_ends_the_session() {
    let (kept, server) = serve(Settings { max_message: 1_000, ..Settings::default() }).await;
    for beginning in ["", "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n"] {
        let mut client = Client::connect(server.address).await;
        client.send(beginning).await;
        let closed = tokio::time::timeout(Duration::from_secs(20), client.flood());
        closed.await.expect("closed before any time limit");
    }
    assert_eq!(kept.messages().len(), 0);
}

#[tokio::test]
async fn too_many_errors_end_the_session() {
    let (_kept, server) = serve(Settings { max_errors: 2, ..Settings::default() }).await;
    let mut client = Client::connect(server.address).await;
    client.send("A\r\nB\r\nC\r\nNOOP\r\n").await;
    assert_eq!(client.codes(4).await, [500, 500, 500, 421]);
    assert_eq!(client.read_once().await, "", "closed");
}

#[tokio::test]
async fn a_client_over_the_connection_limit_is_refused() {
    let (_kept, server) = serve(Settings { max_connections: 1, ..Settings::default() }).await;
    let _first = Client::connect(server.address).await;
    let mut second = Client::connect_only(server.address).await;
    assert_eq!(second.codes(1).await, [421]);
}

/// Asserts that another client is refused during a transaction, and that the transaction ends as usual.
async fn assert_transaction_continues(kept: &RecordedMessages, server: &Running, mut busy: Client) {
    busy.send("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.test>\r\n").await;
    assert_eq!(busy.codes(3).await, [250; 3]);
    assert_eq!(Client::connect_only(server.address).await.codes(1).await, [421], "the transaction is not evicted");
    busy.send("DATA\r\nx\r\n.\r\n").await;
    assert_eq!(busy.codes(2).await, [354, 250]);
    assert_eq!(kept.messages().len(), 1);
}

#[tokio::test]
async fn an_idle_session_is_evicted_when_the_server_is_full() {
    let settings = Settings { max_connections: 1, idle_grace: Duration::ZERO, ..Settings::default() };
    let (kept, server) = serve(settings).await;
    let mut idle = Client::connect(server.address).await;
    idle.send("EHLO x\r\nMAIL FROM:<>\r\n").await;
    assert_eq!(idle.codes(2).await, [250, 250]);
    let busy = Client::connect(server.address).await;
    assert_eq!(idle.codes(1).await, [421], "a session without a recipient is idle");
    assert_transaction_continues(&kept, &server, busy).await;
}

#[tokio::test]
async fn an_idle_session_is_evicted_for_one_of_its_address() {
    let settings = Settings { max_per_peer: 1, idle_grace: Duration::ZERO, ..Settings::default() };
    let (kept, server) = serve(settings).await;
    let mut idle = Client::connect(server.address).await;
    let busy = Client::connect(server.address).await;
    assert_eq!(idle.codes(1).await, [421]);
    assert_transaction_continues(&kept, &server, busy).await;
}

#[tokio::test]
async fn a_pipelined_transaction_is_not_evicted() {
    let settings = Settings { max_connections: 1, idle_grace: Duration::ZERO, ..Settings::default() };
    let (kept, server) = serve(settings).await;
    let mut busy = Client::connect(server.address).await;
    busy.send("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n").await;
    assert_eq!(busy.codes(4).await, [250, 250, 250, 354]);
    assert_eq!(Client::connect_only(server.address).await.codes(1).await, [421]);
    busy.send("x\r\n.\r\nQUIT\r\n").await;
    assert_eq!(busy.codes(2).await, [250, 221]);
    assert_eq!(kept.messages().len(), 1);
}

#[tokio::test]
async fn a_silent_client_times_out() {
    let timeout = Duration::from_millis(50);
    let (kept, server) =
        serve(Settings { command_timeout: timeout, data_timeout: timeout, ..Settings::default() }).await;
    let mut silent = Client::connect(server.address).await;
    silent.send("EHLO half a command").await;
    assert_eq!(silent.codes(1).await, [421]);
    let mut stuck = Client::connect(server.address).await;
    stuck.send("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nhalf a message\r\n.").await;
    assert_eq!(stuck.codes(5).await, [250, 250, 250, 354, 421]);
    assert_eq!(kept.messages().len(), 0);
}

#[tokio::test]
async fn a_session_without_a_message_ends() {
    let (_kept, server) = serve(Settings { max_commands: 5, ..Settings::default() }).await;
    let mut client = Client::connect(server.address).await;
    client.send("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<1@d.test>\r\n").await;
    assert_eq!(client.codes(3).await, [250; 3]);
    client.send(&"NOOP\r\n".repeat(6)).await;
    assert_eq!(client.codes(6).await, [250, 250, 250, 250, 250, 421], "commands count from the last recipient");

    let idle_timeout = Duration::from_millis(100);
    let (_kept, server) = serve(Settings { max_commands: u32::MAX, idle_timeout, ..Settings::default() }).await;
    let mut client = Client::connect(server.address).await;
    let mut replies = 0;
    while client.code("NOOP\r\n").await == 250 {
        replies += 1;
    }
    assert!(replies > 0);
    assert_eq!(client.read_once().await, "", "the connection is closed");
}
