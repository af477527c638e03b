//! Invitations and AMP arrive as alternatives to the text, and attached messages as messages.

use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_parser::{MessageParser, MimeHeaders as _};
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::message;

const INVITATION: &str =
    "BEGIN:VCALENDAR\nMETHOD:REQUEST\nBEGIN:VEVENT\nSUMMARY:Fr\u{fc}hst\u{fc}ck\nEND:VEVENT\nEND:VCALENDAR\n";
const AMP: &str = "<!doctype html><html \u{26a1}4email><p>Hello</p></html>";

async fn sent(app: &TestApp, fields: Value) -> (String, Vec<u8>) {
    let id = app.send(fields).await.id;
    app.run_until_idle().await;
    (id, app.smtp.messages().pop().unwrap().raw)
}

/// Returns the type of each part, in order, as `mail-parser` reads them.
fn types(raw: &[u8]) -> Vec<String> {
    let parsed = MessageParser::default().parse(raw).unwrap();
    let kind = |part: &mail_parser::MessagePart<'_>| {
        let kind = part.content_type().unwrap();
        format!("{}/{}", kind.ctype(), kind.subtype().unwrap())
    };
    parsed.parts.iter().map(kind).collect()
}

/// Checks a message with Python's parser; `script` has the message in `m`. Skipped if Python is not installed.
fn check_with_python(raw: &[u8], script: &str) {
    let program = format!(
        "import sys, email, email.policy\n\
         m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.SMTP)\n\
         assert not any(p.defects for p in m.walk()), [p.defects for p in m.walk()]\n{script}"
    );
    let python = Command::new("python3").args(["-c", &program]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut python) = python else { return eprintln!("skipped: python3 is not installed") };
    std::io::Write::write_all(&mut python.stdin.take().unwrap(), raw).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(raw));
}

#[tokio::test]
async fn alternatives_are_in_the_order_that_clients_expect() {
    let app = TestApp::start().await;
    let (id, raw) = sent(
        &app,
        json!({
            "text": "Hello", "html": "<img src=\"cid:logo\">",
            "attachments": [
                {"filename": "logo.png", "content": "AAEC", "content_id": "logo"},
                {"filename": "a.pdf", "content": "JVBERi0xLjQK"},
            ],
            "alternatives": [
                {"content_type": "text/calendar; method=REQUEST", "content": INVITATION},
                {"content_type": "text/x-amp-html", "content": AMP},
            ],
        }),
    )
    .await;
    let expected = [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "text/x-amp-html",
        "multipart/related",
        "text/html",
        "image/png",
        "text/calendar",
        "application/pdf",
    ];
    assert_eq!(types(&raw), expected);
    let text = String::from_utf8(raw.clone()).unwrap();
    assert!(text.is_ascii() && text.lines().all(|line| line.len() <= 998), "{text}");
    check_with_python(
        &raw,
        "c = [p for p in m.walk() if p.get_content_type() == 'text/calendar'][0]\n\
         assert c.get_param('method') == 'REQUEST' and c.get_content_charset() == 'utf-8', c.items()\n\
         assert c.get_content_disposition() is None and c.get_filename() is None, c.items()\n\
         assert c.get_content() == 'BEGIN:VCALENDAR\\r\\nMETHOD:REQUEST\\r\\nBEGIN:VEVENT\\r\\nSUMMARY:Fr\\u00fchst\\u00fcck\\r\\nEND:VEVENT\\r\\nEND:VCALENDAR\\r\\n' or c.get_content().replace('\\r', '').startswith('BEGIN'), c.get_content()\n\
         assert [p.get_content_type() for p in list(m.iter_parts())[0].iter_parts()][-1] == 'text/calendar'\n\
         assert m.get_body(('plain',)).get_content().strip() == 'Hello'",
    );
    let message = app.message(&id).await;
    assert_eq!(message["attachments"].as_array().unwrap().len(), 2);
    let alternatives = json!([
        {"content_type": "text/calendar; method=REQUEST", "size": INVITATION.len()},
        {"content_type": "text/x-amp-html", "size": AMP.len()},
    ]);
    assert_eq!(message["alternatives"], alternatives);
    assert_eq!(app.get(&format!("/v1/messages/{id}/attachments/1")).await.status, 200);
    assert_eq!(app.get(&format!("/v1/messages/{id}/attachments/2")).await.status, 404);
}

#[tokio::test]
async fn attached_invitation_becomes_an_alternative() {
    let app = TestApp::start().await;
    let file = |name: &str, kind: &str| json!({"filename": name, "content": STANDARD.encode(INVITATION), "content_type": kind});
    let (id, raw) = sent(
        &app,
        json!({"attachments": [
            file("invite.ics", "text/calendar; method=REQUEST; charset=UTF-8"), file("invite.ics", "application/ics"),
            file("other.ics", "text/calendar; method=REQUEST"), file("plain.ics", "text/calendar"),
        ]}),
    )
    .await;
    let expected = [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "text/calendar",
        "application/ics",
        "text/calendar",
        "text/calendar",
    ];
    assert_eq!(types(&raw), expected);
    let parsed = MessageParser::default().parse(&raw).unwrap();
    let names: Vec<_> = parsed.parts.iter().map(|part| part.attachment_name()).collect();
    assert_eq!(names[3..], [None, Some("invite.ics"), Some("other.ics"), Some("plain.ics")]);
    assert_eq!(parsed.parts[3].text_contents(), Some(INVITATION.replace('\n', "\r\n").as_str()));
    assert_eq!(app.message(&id).await["attachments"].as_array().unwrap().len(), 4);
    assert_eq!(app.get(&format!("/v1/messages/{id}/attachments/0")).await.bytes, INVITATION.as_bytes());

    let explicit =
        json!([{"content_type": "text/calendar; method=CANCEL", "content": "BEGIN:VCALENDAR\nEND:VCALENDAR\n"}]);
    let fields = json!({"alternatives": explicit, "attachments": [file("a.ics", "text/calendar; method=REQUEST")]});
    let (_, raw) = sent(&app, fields).await;
    assert!(String::from_utf8_lossy(&raw).contains("method=CANCEL"));
    assert_eq!(
        types(&raw),
        ["multipart/mixed", "multipart/alternative", "text/plain", "text/calendar", "text/calendar"]
    );
}

#[tokio::test]
async fn invalid_alternatives_are_refused() {
    let app = TestApp::start().await;
    let refused = async |alternatives: Value| {
        let response = app.post("/v1/messages", &message(json!({"alternatives": alternatives}))).await;
        assert_eq!(response.status, 422, "{}", response.body);
        response.faults().into_iter().map(|(at, code)| format!("{at} {code}")).collect::<Vec<_>>()
    };
    let kind = "/alternatives/0/content_type";
    for (given, fault) in [
        (json!({"content_type": "text/calendar", "content": "x"}), format!("{kind} invalid_content_type")),
        (json!({"content_type": "text/html", "content": "x"}), format!("{kind} invalid_content_type")),
        (json!({"content_type": "application/json", "content": "x"}), format!("{kind} invalid_content_type")),
        (json!({"content_type": "text/a; charset=latin1", "content": "x"}), format!("{kind} invalid_content_type")),
        (json!({"content_type": "text/a\r\nX: y", "content": "x"}), format!("{kind} control_character")),
        (json!({"content": "x"}), format!("{kind} required")),
        (json!({"content_type": "text/a"}), "/alternatives/0/content required".to_owned()),
        (json!({"content_type": "text/a", "content": "\u{0}"}), "/alternatives/0/content control_character".to_owned()),
        (
            json!({"content_type": "text/a", "content": "x", "filename": "y"}),
            "/alternatives/0/filename unknown_field".to_owned(),
        ),
        (json!("x"), "/alternatives/0 invalid_type".to_owned()),
    ] {
        assert_eq!(refused(json!([given])).await, [fault], "{given}");
    }
    let amp = json!({"content_type": "text/x-amp-html", "content": "x"});
    assert_eq!(refused(json!([amp, amp])).await, ["/alternatives/1/content_type duplicate_value"]);
    let many: Vec<Value> = (0..6).map(|n| json!({"content_type": format!("text/a{n}"), "content": "x"})).collect();
    assert_eq!(refused(json!(many)).await, ["/alternatives too_many"]);
}

#[tokio::test]
async fn attached_message_keeps_its_type_with_an_8bit_body() {
    let app = TestApp::start().await;
    let inner =
        "From: x@y.test\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGr\u{fc}\u{df}e\n";
    let file = json!({"filename": "forwarded.eml", "content": STANDARD.encode(inner)});
    let (_, raw) = sent(&app, json!({"text": "See below.", "attachments": [file]})).await;
    assert!(app.smtp.messages()[0].mail_command.contains("BODY=8BITMIME"));
    let text = String::from_utf8(raw.clone()).unwrap();
    let (head, _) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.is_ascii() && head.contains("Content-Transfer-Encoding: 8bit"), "{head}");
    check_with_python(
        &raw,
        "p = list(m.iter_attachments())[0]\n\
         assert p.get_content_type() == 'message/rfc822' and p['content-transfer-encoding'] == '8bit', p.items()\n\
         assert p.get_content().get_content().strip() == 'Gr\\u00fc\\u00dfe', p.get_content()",
    );
    let long = json!({"filename": "long.eml", "content": STANDARD.encode(format!("A: b\n\n{}", "x".repeat(999)))});
    let (_, raw) = sent(&app, json!({"attachments": [long.clone()]})).await;
    assert_eq!(types(&raw)[2], "application/octet-stream", "the type was only guessed");
    let mut declared = long;
    declared["content_type"] = json!("message/rfc822");
    let response = app.post("/v1/messages", &message(json!({"attachments": [declared]}))).await;
    assert_eq!(response.faults(), [("/attachments/0/content_type", "invalid_content_type")]);
}
