//! The inbound SMTP server, tested over a real socket.

use postrider::smtp::inbound::{Authentication, Settings};

use crate::support::inbound_client::{Client, RecordedMessages, serve};

const HELLO: &str = "EHLO client.test\r\n";
const ENVELOPE: &str = "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<e@f.test>\r\n";

#[tokio::test]
async fn a_message_arrives_byte_for_byte() {
    let (kept, server) = serve(Settings::default()).await;
    let mut client = Client::connect(server.address).await;
    assert!(client.say(HELLO).await.contains("250-PIPELINING\r\n"));
    client.send(ENVELOPE).await;
    assert_eq!(client.codes(3).await, [250, 250, 250]);
    assert_eq!(client.code("DATA\r\n").await, 354);
    assert_eq!(client.code("..dot\r\n\u{e9}\r\n...\r\n.\r\n").await, 250);
    assert_eq!(client.code("QUIT\r\n").await, 221);
    let messages = kept.messages();
    assert_eq!(messages[0].data, ".dot\r\n\u{e9}\r\n..\r\n".as_bytes());
    assert_eq!((messages[0].helo.as_str(), messages[0].from.as_str()), ("client.test", "a@b.test"));
    assert_eq!(messages[0].to, ["c@d.test", "e@f.test"]);
}

#[tokio::test]
async fn replies_to_pipelined_commands_are_sent_in_one_write() {
    let (_kept, server) = serve(Settings::default()).await;
    let mut client = Client::connect(server.address).await;
    client.code(HELLO).await;
    client.send(&format!("{ENVELOPE}DATA\r\n")).await;
    let replies = client.read_once().await;
    assert_eq!(replies.matches("\r\n").count(), 4, "{replies}");
    // The end of one message and the start of the next in one write.
    client.send(&format!("x\r\n.\r\n{ENVELOPE}DATA\r\n")).await;
    assert_eq!(client.codes(5).await, [250, 250, 250, 250, 354]);
}

#[tokio::test]
async fn a_smuggled_message_is_refused_and_not_executed() {
    let (kept, server) = serve(Settings::default()).await;
    let mut client = Client::connect(server.address).await;
    client.code(HELLO).await;
    for end in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n"] {
        client.send(&format!("{ENVELOPE}DATA\r\n")).await;
        assert_eq!(client.codes(4).await, [250, 250, 250, 354]);
        let smuggled = format!("good{end}MAIL FROM:<evil@x.test>\r\nRCPT TO:<y@z.test>\r\nDATA\r\nbad\r\n.\r\n");
        assert_eq!(client.code(&smuggled).await, 550, "{end:?}");
        assert_eq!(client.code("NOOP\r\n").await, 250, "the session continues after {end:?}");
    }
    assert_eq!(kept.messages().len(), 0);
}

#[tokio::test]
async fn a_bare_line_feed_ends_no_command() {
    let (kept, server) = serve(Settings::default()).await;
    let mut client = Client::connect(server.address).await;
    client.code(HELLO).await;
    client.send("MAIL FROM:<a@b.test>\nRCPT TO:<c@d.test>\r\n").await;
    assert_eq!(client.codes(2).await, [500, 503]);
    assert_eq!(kept.messages().len(), 0);
}

#[tokio::test]
async fn commands_out_of_order_are_refused() {
    let (_kept, server) = serve(Settings::default()).await;
    let mut client = Client::connect(server.address).await;
    for (command, code) in [
        ("MAIL FROM:<a@b.test>\r\n", 503),
        (HELLO, 250),
        ("RCPT TO:<c@d.test>\r\n", 503),
        ("DATA\r\n", 503),
        ("MAIL FROM:<>\r\n", 250),
        ("MAIL FROM:<>\r\n", 503),
        ("DATA\r\n", 554),
        ("RCPT TO:<\u{e9}@d.test>\r\n", 553),
        ("RSET\r\n", 250),
        ("MAIL FROM:<> SMTPUTF8 BODY=8BITMIME\r\n", 250),
        ("RCPT TO:<\u{e9}@d.test>\r\n", 250),
        ("EHLO again\r\n", 250),
        ("DATA\r\n", 503),
        ("VRFY c\r\n", 252),
        ("STARTTLS\r\n", 502),
    ] {
        assert_eq!(client.code(command).await, code, "{command}");
    }
}

#[tokio::test]
async fn a_refusal_is_one_line_and_affects_one_recipient() {
    let (kept, server) = serve(Settings::default()).await;
    let mut client = Client::connect(server.address).await;
    client.code(HELLO).await;
    client.code("MAIL FROM:<a@b.test>\r\n").await;
    assert_eq!(
        client.say(&format!("RCPT TO:<{}>\r\n", RecordedMessages::REFUSED)).await,
        "550 5.1.1 nobody??250 here\r\n"
    );
    assert_eq!(client.code("RCPT TO:<c@d.test>\r\n").await, 250);
    assert_eq!(client.code("DATA\r\n").await, 354);
    assert_eq!(client.code("x\r\n.\r\n").await, 250);
    assert_eq!(kept.messages()[0].to, ["c@d.test"]);
}

#[tokio::test]
async fn a_stop_ends_idle_sessions_and_lets_a_message_finish() {
    let (kept, server) = serve(Settings::default()).await;
    let (mut idle, mut busy) = (Client::connect(server.address).await, Client::connect(server.address).await);
    idle.code(HELLO).await;
    busy.code(HELLO).await;
    busy.send(&format!("{ENVELOPE}DATA\r\n")).await;
    assert_eq!(busy.codes(4).await, [250, 250, 250, 354]);
    server.stop.cancel();
    assert_eq!(idle.codes(1).await, [421]);
    assert_eq!(idle.read_once().await, "", "closed");
    busy.send("x\r\n.\r\n").await;
    assert_eq!(busy.codes(2).await, [250, 421]);
    server.task.await.expect("the server ends");
    assert_eq!(kept.messages().len(), 1);
}

#[tokio::test]
async fn any_login_is_accepted_if_configured() {
    let authentication = Authentication::AcceptsAny;
    let (kept, server) = serve(Settings { authentication, ..Settings::default() }).await;
    let dialogues: [&[(&str, u16)]; 5] = [
        &[("AUTH PLAIN AGFubgBzZWNyZXQ=\r\n", 235), ("AUTH PLAIN AAA=\r\n", 503)],
        &[("auth plain\r\n", 334), ("AGFubgBzZWNyZXQ=\r\n", 235)],
        &[("AUTH LOGIN\r\n", 334), ("YW5u\r\n", 334), ("c2VjcmV0\r\n", 235)],
        &[("AUTH LOGIN YW5u\r\n", 334), ("*\r\n", 501), ("NOOP\r\n", 250)],
        &[("AUTH XOAUTH2 AAA=\r\n", 504), ("AUTH PLAIN AAA=\r\n", 235)],
    ];
    for dialogue in dialogues {
        let mut client = Client::connect(server.address).await;
        assert_eq!(client.code("AUTH PLAIN AAA=\r\n").await, 503, "before EHLO");
        assert!(client.say(HELLO).await.contains("250 AUTH PLAIN LOGIN\r\n"));
        for (line, code) in dialogue {
            assert_eq!(client.code(line).await, *code, "{line}");
        }
        client.send("MAIL FROM:<a@b.test> AUTH=<>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n").await;
        assert_eq!(client.codes(3).await, [250, 250, 354]);
        assert_eq!(client.code(".\r\n").await, 250);
    }
    assert_eq!(kept.messages().len(), dialogues.len());
}

#[tokio::test]
async fn auth_is_refused_if_not_offered() {
    let (_kept, server) = serve(Settings::default()).await;
    let mut client = Client::connect(server.address).await;
    assert!(!client.say(HELLO).await.contains("AUTH"));
    assert_eq!(client.code("AUTH PLAIN AAA=\r\n").await, 502);
}
