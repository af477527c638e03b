//! Tests of valid messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{accepted, now, with};
use crate::accept::request::schema::SendRequest;
use crate::domain::message::RecipientKind::{Bcc, Cc, To};
use crate::domain::outcome::OnUncertain;

#[test]
fn every_field_is_parsed() {
    let message = accepted(&json!({
        "from": "Acme Billing <billing@acme.test>",
        "to": ["ann@example.test", {"email": "bo@example.test", "name": "Bo Å"}],
        "cc": "\"Doe, John\" <j@example.test>", "bcc": [{"email": "x@example.test", "name": null}],
        "reply_to": ["help@acme.test", "Help <help2@acme.test>"],
        "subject": "Your invöice", "text": "a\r\nb\u{7}", "html": "<p>…</p>",
        "headers": {"X-Entity-Ref": "42", "A-First": ""},
        "attachments": [{"filename": "räksmörgås.pdf", "content": "JVBERg==", "content_id": null},
                        {"filename": "logo.png", "content": "aGk=", "content_type": "image/x-icon", "content_id": "<logo@a>"}],
        "tags": [{"name": "kind", "value": "invoice"}], "metadata": {"order": "42", "note": "a\nb"},
        "template": null, "stream": "newsletter",
        "scheduled_at": "2026-12-01T10:00:00+01:00", "expires_at": "2026-12-01T10:00:00Z", "on_uncertain": "hold",
    }));
    assert_eq!(message.created_at, now());
    assert_eq!(message.from.to_string(), "Acme Billing <billing@acme.test>");
    let recipients: Vec<_> = message.recipients.iter().map(|r| (r.kind, r.mailbox.to_string())).collect();
    assert_eq!(
        recipients,
        [
            (To, "ann@example.test".to_owned()),
            (To, "Bo Å <bo@example.test>".to_owned()),
            (Cc, "\"Doe, John\" <j@example.test>".to_owned()),
            (Bcc, "x@example.test".to_owned()),
        ]
    );
    assert_eq!(message.reply_to.len(), 2);
    assert_eq!(message.subject, "Your invöice");
    assert_eq!(message.content.text.as_deref(), Some("a\r\nb\u{7}"));
    assert_eq!(message.content.html.as_deref(), Some("<p>…</p>"));
    assert_eq!(message.content.headers.len(), 2);
    let [pdf, logo] = message.attachments.as_slice() else { panic!("two attachments") };
    assert_eq!((pdf.data.as_slice(), pdf.description.size), (b"%PDF".as_slice(), 4));
    assert_eq!((pdf.description.content_type.as_str(), &pdf.description.content_id), ("application/pdf", &None));
    assert_eq!(pdf.description.filename, "räksmörgås.pdf");
    assert_eq!(logo.description.content_type, "image/x-icon");
    assert_eq!(logo.description.content_id.as_deref(), Some("logo@a"));
    assert_eq!(logo.description.sha256, "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4");
    assert_eq!((message.tags[0].name.as_str(), message.tags[0].value.as_str()), ("kind", "invoice"));
    assert_eq!(message.metadata["note"], "a\nb");
    assert_eq!(message.stream, "newsletter");
    assert_eq!(message.scheduled_at.map(|t| t.to_rfc3339()).as_deref(), Some("2026-12-01T09:00:00+00:00"));
    assert_eq!(message.expires_at.map(|t| t.to_rfc3339()).as_deref(), Some("2026-12-01T10:00:00+00:00"));
    assert_eq!(message.on_uncertain, OnUncertain::Hold);
}

#[test]
fn omitted_fields_have_their_defaults() {
    let body = serde_json::to_value(SendRequest::plain("a@acme.test", "ann@example.test", "", "")).expect("JSON");
    let message = accepted(&body);
    assert_eq!((message.stream.as_str(), message.on_uncertain), ("transactional", OnUncertain::Retry));
    assert_eq!((message.scheduled_at, message.expires_at), (None, None));
    assert_eq!((message.content.text.as_deref(), message.content.html), (Some(""), None));
}

#[test]
fn blank_body_is_dropped_if_there_is_another() {
    let bodies = |text: &str, html: &str| {
        let content = accepted(&with(&json!({"text": text, "html": html}))).content;
        (content.text, content.html)
    };
    assert_eq!(bodies("Hello", ""), (Some("Hello".to_owned()), None));
    assert_eq!(bodies("Hello", " \r\n"), (Some("Hello".to_owned()), None));
    assert_eq!(bodies("", "<p>"), (None, Some("<p>".to_owned())));
    assert_eq!(bodies("", ""), (Some(String::new()), None));
}

#[test]
fn long_headers_and_attached_messages_are_valid() {
    let thread = "<0123456789012345678901234567890123456789@a.test> ".repeat(100);
    let attached = STANDARD.encode("From: a@b.test\n\nHi\n");
    let message = accepted(&with(&json!({
        "headers": {"References": thread, "List-Unsubscribe": format!("<https://a.test/{}>", "u".repeat(960))},
        "attachments": [{"filename": "a.eml", "content": attached, "content_type": "message/rfc822"},
                        {"filename": "b.eml", "content": attached}, {"filename": "c.eml", "content": "AA=="}],
    })));
    assert_eq!(message.content.headers[1].value, thread);
    let types: Vec<&str> = message.attachments.iter().map(|file| &*file.description.content_type).collect();
    assert_eq!(types, ["message/rfc822", "message/rfc822", "application/octet-stream"]);
}

#[test]
fn duplicate_address_stays_at_its_first_position() {
    let message = accepted(&with(&json!({
        "to": ["Ann <ann@example.test>", "ann@EXAMPLE.test"], "cc": "ann@example.test", "bcc": ["Ann@example.test"],
    })));
    let recipients: Vec<_> = message.recipients.iter().map(|r| (r.kind, r.mailbox.to_string())).collect();
    assert_eq!(recipients, [(To, "Ann <ann@example.test>".to_owned()), (Bcc, "Ann@example.test".to_owned())]);
}

#[test]
fn bcc_recipient_alone_is_enough() {
    assert_eq!(accepted(&with(&json!({"to": null, "bcc": "x@example.test"}))).recipients[0].kind, Bcc);
}

#[test]
fn attachment_may_replace_the_body() {
    let message = accepted(&with(&json!({"text": null, "attachments": [{"filename": "a", "content": ""}]})));
    assert_eq!((message.attachments.len(), message.attachments[0].description.size), (1, 0));
}

#[test]
fn a_scheduled_time_that_has_passed_means_now() {
    for past in ["2026-11-23T12:00:00Z", "1969-01-01T00:00:00Z", "0000-01-01T00:00:00Z"] {
        assert_eq!(accepted(&with(&json!({"scheduled_at": past}))).scheduled_at, None, "{past}");
    }
}

#[test]
fn base64_may_be_wrapped_and_escaped() {
    let data: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let plain = STANDARD.encode(&data);
    let lines: Vec<&str> = plain.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    for content in [plain.clone(), lines.join("\r\n"), format!(" {} \n", lines.join("\t"))] {
        let body = with(&json!({"attachments": [{"filename": "a", "content": content}]})).to_string();
        // PHP writes every slash as `\/`.
        for body in [body.clone(), body.replace('/', "\\/")] {
            let message = super::parse_bytes(body.as_bytes()).expect("a valid message");
            assert!(message.attachments[0].data == data);
        }
    }
}

#[test]
fn message_at_every_limit_is_valid() {
    let all: Vec<String> = (0..50).map(|n| format!("r{n}@example.test")).collect();
    let message = accepted(&with(&json!({
        "to": all[..20], "cc": all[20..40], "bcc": all[40..], "subject": "é".repeat(998),
        "scheduled_at": "2027-11-23T12:00:00Z", "metadata": {"a": "x".repeat(16 * 1024 - 1)},
        "headers": {"x".repeat(76): "é".repeat(998)},
    })));
    assert_eq!(message.recipients.len(), 50);
    assert_eq!(message.metadata.len(), 1);
    let ids: std::collections::HashSet<_> = message.recipients.iter().map(|r| r.id).collect();
    assert_eq!(ids.len(), 50);
}
