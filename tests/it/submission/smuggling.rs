//! Nothing in a message can end it, or become a command or a header field of another one.

use super::{ANN, FROM, MESSAGE, count, signed_in, start, submit};

#[tokio::test]
async fn smuggled_message_is_refused_and_not_executed() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    for end in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n"] {
        client.send(&format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{ANN}>\r\nDATA\r\n")).await;
        assert_eq!(client.codes(3).await, [250, 250, 354]);
        let smuggled = format!("{MESSAGE}{end}MAIL FROM:<evil@x.test>\r\nRCPT TO:<y@z.test>\r\nDATA\r\n{MESSAGE}.\r\n");
        let reply = client.say(&smuggled).await;
        assert!(reply.starts_with("550 5.5.2 "), "{end:?}: {reply}");
        assert_eq!(client.code("NOOP\r\n").await, 250, "the session continues after {end:?}");
        // Refused commands are counted until a message is accepted.
        submit(&mut client, &[ANN], MESSAGE).await;
    }
    assert_eq!(count(&app).await, 6);
}

#[tokio::test]
async fn bare_line_feed_ends_no_command() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    client.send(&format!("MAIL FROM:<{FROM}>\nRCPT TO:<{ANN}>\r\nDATA\r\n")).await;
    assert_eq!(client.codes(3).await, [500, 503, 503]);
    for command in [
        format!("MAIL FROM:<{FROM}>\rRSET\r\n"),
        "RCPT TO:<\"a\rb\"@example.test>\r\n".to_owned(),
        "MAIL FROM:<a@acme.test>\0\r\n".to_owned(),
    ] {
        assert_eq!(client.code(&command).await, 500, "{command:?}");
    }
    assert_eq!(count(&app).await, 0);
}

#[tokio::test]
async fn message_that_ends_with_the_connection_is_not_stored() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    client.send(&format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{ANN}>\r\nDATA\r\n")).await;
    assert_eq!(client.codes(3).await, [250, 250, 354]);
    client.send(&format!("{MESSAGE}.")).await;
    drop(client);
    submit(&mut signed_in(&app, &app).await, &[ANN], MESSAGE).await;
    assert_eq!(count(&app).await, 1);
}
