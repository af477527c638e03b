//! BDAT (RFC 3030): messages in chunks of declared sizes.

use postrider::config::Config;

use super::{ANN, FROM, MESSAGE, count, id, signed_in, start};
use crate::support::app::TestApp;

/// Opens a transaction with one recipient.
const ENVELOPE: &str = "MAIL FROM:<billing@acme.test>\r\nRCPT TO:<ann@example.test>\r\n";

#[tokio::test]
async fn message_in_chunks_is_accepted_whole() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    let mime = format!("{MESSAGE}.\r\n..\r\nQUIT\r\n");
    let (one, two) = mime.split_at(30);
    client.send(&format!("{ENVELOPE}BDAT {}\r\n{one}BDAT {} LAST\r\n{two}", one.len(), two.len())).await;
    assert_eq!(client.codes(3).await, [250, 250, 250]);
    let first = id(&client.reply().await);
    let raw = String::from_utf8(app.get(&format!("/v1/messages/{first}/raw")).await.bytes).unwrap();
    assert!(raw.ends_with("\r\n\r\nHello.\r\n.\r\n..\r\nQUIT\r\n"), "dots are not unstuffed: {raw}");

    // An empty last chunk, chunks that split CRLF, and no line end at the end.
    client.send(ENVELOPE).await;
    assert_eq!(client.codes(2).await, [250, 250]);
    for chunk in ["From: billing@acme.test\r", "\nSubject: Hi\r\n\r\nHello"] {
        let reply = client.say(&format!("BDAT {}\r\n{chunk}", chunk.len())).await;
        assert_eq!(reply, format!("250 2.0.0 {} bytes received\r\n", chunk.len()));
    }
    let second = id(&client.say("BDAT 0 LAST\r\n").await);
    let raw = app.get(&format!("/v1/messages/{second}/raw")).await.bytes;
    assert!(raw.ends_with(b"\r\n\r\nHello\r\n"));
    assert_eq!(count(&app).await, 2);
}

#[tokio::test]
async fn chunks_of_refused_commands_are_never_executed() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    let commands = format!("{ENVELOPE}DATA\r\n");
    let chunk = format!("BDAT {} LAST\r\n{commands}", commands.len());
    assert_eq!(client.code(&chunk).await, 503, "no transaction");
    assert_eq!(client.code(&format!("MAIL FROM:<{FROM}>\r\n")).await, 250);
    assert_eq!(client.code(&chunk).await, 554, "no recipient");
    assert_eq!(client.code(&format!("RCPT TO:<{ANN}>\r\n")).await, 250);
    assert_eq!(client.code("BDAT 3\r\nabc").await, 250);
    assert_eq!(client.code("DATA\r\n").await, 503, "DATA and BDAT do not mix");
    assert_eq!(client.code("RCPT TO:<bo@example.test>\r\n").await, 503);
    assert_eq!(client.code("RSET\r\n").await, 250);
    assert_eq!(client.code("NOOP\r\n").await, 250, "every chunk was read to its end");
    assert_eq!(client.code("BDAT LAST\r\n").await, 501);
    assert_eq!(client.read_once().await, "", "without a size, the session cannot continue");
    let mut client = signed_in(&app, &app).await;
    client.send(&format!("BDAT {}\tLAST\r\n{commands}", commands.len())).await;
    assert_eq!(client.codes(1).await, [501], "nor with a control character");
    assert_eq!(client.read_once().await, "");
    assert_eq!(count(&app).await, 0);
}

#[tokio::test]
async fn faulty_line_of_a_chunk_ends_the_session() {
    let app = start().await;
    let commands = format!("{ENVELOPE}DATA\r\n");
    for line in
        [format!("BDAT {} LAST\n", commands.len()), format!("bdat {}{} LAST\r\n", "0".repeat(3_000), commands.len())]
    {
        let mut client = signed_in(&app, &app).await;
        client.send(&format!("{ENVELOPE}{line}{commands}")).await;
        assert_eq!(client.codes(3).await, [250, 250, 501], "{line:?}");
        assert_eq!(client.read_once().await, "", "the chunk is not executed");
    }
    assert_eq!(count(&app).await, 0);
}

#[tokio::test]
async fn bare_line_breaks_in_chunks_are_refused() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    for bad in ["a\nb\r\n", "a\rb\r\n", "\n.\nMAIL FROM:<evil@x.test>\r\n", "a\r"] {
        let mime = format!("{MESSAGE}{bad}");
        client.send(&format!("{ENVELOPE}BDAT {} LAST\r\n{mime}", mime.len())).await;
        assert_eq!(client.codes(3).await, [250, 250, 550], "{bad:?}");
    }
    // A refusal before the last chunk ends the transaction, and the chunks that follow are discarded.
    client.send(&format!("{ENVELOPE}BDAT 3\r\na\nbBDAT 6 LAST\r\nRSET\r\nNOOP\r\n")).await;
    assert_eq!(client.codes(5).await, [250, 250, 550, 503, 250]);
    assert_eq!(count(&app).await, 0);
}

#[tokio::test]
async fn chunks_above_the_limit_are_refused() {
    let app = TestApp::builder()
        .with_submission(None)
        .config(|config: &mut Config| config.accept.max_body_mib = 1)
        .start()
        .await;
    let mut client = signed_in(&app, &app).await;
    let chunk = format!("{}\r\n", "x".repeat(98)).repeat(6_000);
    client.send(ENVELOPE).await;
    assert_eq!(client.codes(2).await, [250, 250]);
    assert_eq!(client.code(&format!("BDAT {}\r\n{chunk}", chunk.len())).await, 250);
    assert_eq!(client.code(&format!("BDAT {}\r\n{chunk}", chunk.len())).await, 552);
    assert_eq!(client.code("NOOP\r\n").await, 250);
    assert_eq!(client.code("BDAT 99999999999 LAST\r\n").await, 552);
    assert_eq!(client.read_once().await, "", "such a chunk is not read");
}
