//! A message arrives at the next mail server with exactly the content of the request.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_parser::{MessageParser, MimeHeaders as _};
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::clock::hours;

/// Returns bytes of all values, including line starts with dots.
fn noise(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect()
}

fn with_files(pdf: &[u8], png: &[u8]) -> Value {
    json!({
        "to": ["ann@example.test", {"email": "bo@example.test", "name": "Bo Å"}], "cc": "cy@example.test",
        "bcc": "secret@example.test", "reply_to": "Hilfe <help@acme.test>", "subject": "Ihre Rechnung für März ✔",
        "text": "Guten Tag,\n.\n..\nbis bald\r\n", "html": "<p>Guten Tag <img src=\"cid:logo@acme\"></p>",
        "headers": {"X-Entity-Ref": "42"},
        "attachments": [
            {"filename": "Rechnung März ✔.pdf", "content": STANDARD.encode(pdf), "content_type": "application/pdf"},
            {"filename": "logo.png", "content": STANDARD.encode(png), "content_type": "image/png", "content_id": "logo@acme"},
        ],
    })
}

#[tokio::test]
async fn message_with_pdf_and_inline_image_arrives_unchanged() {
    let app = TestApp::start().await;
    let (pdf, png) = (noise(700_000), noise(5_000));
    let sent = app.send(with_files(&pdf, &png)).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["relayed"; 4]);

    let [received] = app.smtp.messages().try_into().expect("one message");
    assert_eq!(received.from, "billing@acme.test");
    let to: BTreeSet<&str> = received.to.iter().map(String::as_str).collect();
    assert_eq!(to, BTreeSet::from(["ann@example.test", "bo@example.test", "cy@example.test", "secret@example.test"]));
    let raw = app.get(&format!("/v1/messages/{}/raw", sent.id)).await;
    assert_eq!(raw.headers["content-type"], "message/rfc822");
    assert!(raw.bytes == received.raw, "raw must be the message as sent");
    let text = String::from_utf8(received.raw).expect("ASCII");
    assert!(text.is_ascii() && !text.contains("secret@") && text.lines().all(|line| line.len() <= 998));

    let parsed = MessageParser::default().parse(text.as_bytes()).expect("a message");
    assert_eq!(parsed.subject(), Some("Ihre Rechnung für März ✔"));
    assert_eq!(parsed.to().unwrap().as_list().unwrap()[1].name(), Some("Bo Å"));
    assert!(parsed.bcc().is_none());
    assert_eq!(parsed.header_raw("X-Entity-Ref").map(str::trim), Some("42"));
    assert_eq!(parsed.body_text(0).unwrap().replace("\r\n", "\n"), "Guten Tag,\n.\n..\nbis bald\n");
    assert!(parsed.body_html(0).unwrap().contains("cid:logo@acme"));
    let part = |name: &str| parsed.parts.iter().find(|part| part.attachment_name() == Some(name)).expect(name);
    assert!(part("Rechnung März ✔.pdf").contents() == pdf);
    assert!(part("logo.png").contents() == png);
    assert_eq!(part("logo.png").content_id(), Some("logo@acme"));
}

#[tokio::test]
async fn attachments_can_be_downloaded_and_are_never_rendered() {
    let app = TestApp::start().await;
    let (pdf, page) = (noise(70_000), b"<script>alert(1)</script>");
    let sent = app
        .send(json!({"attachments": [
            {"filename": "Rechnung März.pdf", "content": STANDARD.encode(&pdf)},
            {"filename": "a\".html", "content": STANDARD.encode(page), "content_type": "text/html"},
            {"filename": "leer", "content": ""},
        ]}))
        .await;
    let file = async |n: usize| app.get(&format!("/v1/messages/{}/attachments/{n}", sent.id)).await;
    assert!(file(0).await.bytes == pdf);
    assert_eq!(file(0).await.headers["content-disposition"], "attachment; filename*=UTF-8''Rechnung%20M%C3%A4rz.pdf");
    let html = file(1).await;
    assert_eq!(
        (html.bytes.as_slice(), &html.headers["x-content-type-options"]),
        (&page[..], &"nosniff".parse().unwrap())
    );
    assert_eq!(html.headers["content-type"], "application/octet-stream");
    assert_eq!(file(2).await.bytes, b"");
    assert_eq!(file(3).await.status, 404);
}

#[tokio::test]
async fn identical_attachments_are_stored_once() {
    let app = TestApp::start().await;
    let files = json!([{"filename": "a.pdf", "content": STANDARD.encode(noise(9_000))}]);
    for _ in 0..3 {
        app.send(json!({"attachments": files})).await;
    }
    let stored: i64 =
        sqlx::query_scalar("SELECT count(*) FROM blobs").fetch_one(&mut app.database.connect().await).await.unwrap();
    assert_eq!(stored, 1);
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 3);
}

#[tokio::test]
async fn ids_and_urls_in_headers_are_sent_unchanged() {
    let app = TestApp::start().await;
    let url = format!("<https://acme.test/u/{}>", "u".repeat(940));
    let thread = "<0123456789@mail.acme.test>  <=?utf-8?q?x?=@acme.test>";
    app.send(json!({"headers": {
        "List-Unsubscribe": url, "References": thread, "In-Reply-To": " <a@b.test>", "List-Id": "Bücher <b.acme.test>",
        "Feedback-ID": "1:2:3:=?utf-8?q?acme?=",
    }}))
    .await;
    app.run_until_idle().await;
    let text = String::from_utf8(app.smtp.messages().remove(0).raw).unwrap();
    let head = text.split_once("\r\n\r\n").unwrap().0.replace("\r\n ", " ");
    for line in [
        format!("List-Unsubscribe: {url}"),
        "References: <0123456789@mail.acme.test> <=?utf-8?q?x?=@acme.test>".to_owned(),
        "In-Reply-To: <a@b.test>".to_owned(),
        "List-Id: =?utf-8?q?B=C3=BCcher?= <b.acme.test>".to_owned(),
        "Feedback-ID: 1:2:3:=?utf-8?q?acme?=".to_owned(),
    ] {
        assert!(head.lines().any(|found| found == line), "{line}: {head}");
    }
}

#[tokio::test]
async fn text_files_and_attached_messages_are_sent_unchanged() {
    let app = TestApp::start().await;
    let (csv, mail) = ("a,b\n".repeat(3), "From: x@y.test\r\n\r\nHi\r\n");
    app.send(json!({"html": "", "attachments": [
        {"filename": "a.csv", "content": STANDARD.encode("name,amount\r\n1,2\r\n"), "content_type": "text/csv"},
        {"filename": "b.csv", "content": STANDARD.encode(&csv), "content_type": "text/csv"},
        {"filename": "Früher.eml", "content": STANDARD.encode(mail), "content_type": "message/rfc822"},
    ]}))
    .await;
    app.run_until_idle().await;
    let raw = app.smtp.messages().remove(0).raw;
    let text = String::from_utf8(raw.clone()).unwrap();
    assert!(text.contains("\r\n\r\nname,amount\r\n1,2\r\n\r\n--") && !text.contains("text/html"), "{text}");
    assert!(text.contains("charset=us-ascii"), "{text}");
    let parsed = MessageParser::default().parse(&raw).unwrap();
    let part = |name: &str| parsed.parts.iter().find(|part| part.attachment_name() == Some(name)).expect(name);
    assert_eq!(part("b.csv").contents(), csv.as_bytes());
    let attached = part("Früher.eml").message().expect("a message in the message");
    assert_eq!(attached.body_text(0).as_deref(), Some("Hi\r\n"));
}

#[tokio::test]
async fn date_of_a_scheduled_message_is_its_scheduled_at() {
    let app = TestApp::start().await;
    app.send(json!({"scheduled_at": app.clock.text_in(hours(30))})).await;
    app.clock.advance(hours(30));
    app.run_until_idle().await;
    let text = String::from_utf8(app.smtp.messages().remove(0).raw).unwrap();
    assert!(text.contains("Date: Tue, 24 Nov 2026 18:00:00 +0000\r\n"), "{text}");
}

#[tokio::test]
async fn duplicate_recipient_gets_one_copy() {
    let app = TestApp::start().await;
    app.send(json!({"to": ["ann@example.test", "ann@EXAMPLE.test"], "cc": "ann@example.test"})).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().remove(0).to, ["ann@example.test"]);
}
