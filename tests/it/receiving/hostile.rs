//! Hostile messages: each is stored or refused, and the service goes on.

use super::{deliver, mime, received, route};
use crate::support::app::TestApp;

/// Returns messages that a parser could fail on.
fn hostile() -> Vec<(&'static str, String)> {
    let nested = |inner: &str, count: usize| format!("Content-Type: {inner}\r\n\r\n--x\r\n").repeat(count);
    vec![
        ("empty", String::new()),
        ("only an empty line", "\r\n".into()),
        ("no header", "just text\r\n".into()),
        ("nested multiparts", nested("multipart/mixed; boundary=x", 5_000)),
        ("nested messages", "Content-Type: message/rfc822\r\n\r\n".repeat(20_000)),
        ("nested messages in multiparts", nested("message/rfc822; boundary=x", 5_000)),
        (
            "many parts",
            format!("Content-Type: multipart/mixed; boundary=x\r\n\r\n{}", "--x\r\n\r\na\r\n".repeat(50_000)),
        ),
        ("many headers", format!("{}\r\nHi\r\n", "X-A: b\r\n".repeat(100_000))),
        ("long header", format!("Subject: {}\r\n\r\nHi\r\n", "x".repeat(900_000))),
        ("long encoded word", format!("Subject: =?utf-8?b?{}?=\r\n\r\nHi\r\n", "QUFB".repeat(50_000))),
        ("encoded NUL", "Subject: =?utf-8?q?a=00b?=\r\nFrom: =?utf-8?b?AAAA?= <a@b.test>\r\n\r\nHi\r\n".into()),
        ("NUL in everything", "Sub\0ject: a\0\r\nFrom: a\0@b.test\r\nX\0: y\r\n\r\nHi\0\r\n".into()),
        ("NUL in a file name", "Content-Type: application/x\0; name=\"a\0b\"\r\nContent-ID: <\0>\r\n\r\nHi\r\n".into()),
        ("NUL as a character reference", "Content-Type: text/html\r\n\r\n<p>&#0;Hi</p>\r\n".into()),
        ("broken base64", "Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n====AAA@@@\r\n".into()),
        ("broken quoted-printable", "Content-Transfer-Encoding: quoted-printable\r\n\r\n=ZZ=\r\n=\r\n".into()),
        ("unknown charset", "Content-Type: text/plain; charset=\"x-\u{e9}\"\r\n\r\n\u{e9}\r\n".into()),
        ("UTF-7", "Content-Type: text/plain; charset=utf-7\r\n\r\n+AAAAAA-+//\r\n".into()),
        ("invalid addresses", "From: <<<>>>,;:@@,\"\\\r\nTo: (((((\r\nCc: a:b:c;;;\r\n\r\nHi\r\n".into()),
        ("deep comments", format!("From: {}a@b.test\r\n\r\nHi\r\n", "(".repeat(50_000))),
        ("deep groups", format!("From: {}\r\n\r\nHi\r\n", "a:".repeat(50_000))),
        ("many references", format!("References: {}\r\n\r\nHi\r\n", "<a@b.test> ".repeat(50_000))),
        ("references without an end", format!("References: {}\r\n\r\nHi\r\n", "<".repeat(50_000))),
        ("invalid date", "Date: 99 Foo 99999 99:99:99 +9999\r\n\r\nHi\r\n".into()),
        ("deep HTML", format!("Content-Type: text/html\r\n\r\n{}\r\n", "<div>".repeat(100_000))),
        ("quotes", format!("\r\n{}\r\n", "> ".repeat(100_000))),
        ("attributions", format!("\r\n{}\r\n", "On a, \r\n".repeat(50_000))),
        (
            "boundary without an end",
            format!("Content-Type: multipart/mixed; boundary=\"{}\"\r\n\r\n--x\r\n", "x".repeat(50_000)),
        ),
        (
            "delivery report",
            "Content-Type: multipart/report; report-type=delivery-status; boundary=x\r\n\r\n--x\r\n\
             Content-Type: message/delivery-status\r\n\r\nFinal-Recipient: rfc822;x\r\nAction: failed\r\n--x--\r\n"
                .into(),
        ),
    ]
}

#[tokio::test]
async fn hostile_messages_are_stored_or_refused() {
    let app =
        TestApp::builder().with_inbound().config(|config| config.inbound.messages_per_minute = 10_000).start().await;
    route(&app, "*@reply.acme.test", "webhook").await;
    let mut stored = 0;
    for (what, mime) in hostile() {
        let replies = deliver(&app, "ann@example.test", &["x@reply.acme.test"], &mime).await;
        let reply = replies.last().unwrap();
        assert!(reply.starts_with("250") || reply.starts_with("55"), "{what}: {reply}");
        stored += usize::from(reply.starts_with("250"));
    }
    let listed = received(&app).await;
    assert_eq!(listed.len(), stored);
    assert!(stored > 20, "{stored}");
    for one in &listed {
        let id = one["id"].as_str().unwrap();
        for rest in ["", "/raw"] {
            assert_eq!(app.get(&format!("/v1/received/{id}{rest}")).await.status, 200, "{one}");
        }
        for n in 0..one["attachments"].as_array().unwrap().len().min(3) {
            assert_eq!(app.get(&format!("/v1/received/{id}/attachments/{n}")).await.status, 200, "{one}");
        }
    }
    assert_eq!(app.get("/v1/events?type=message.received&limit=1000").await.status, 200);
    let replies = deliver(&app, "ann@example.test", &["x@reply.acme.test"], &mime("")).await;
    assert_eq!(replies[1], "250 2.0.0 Accepted\r\n");
}
