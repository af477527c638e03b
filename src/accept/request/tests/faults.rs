//! Tests of invalid input: the pointer and code of each fault, and that all faults are reported at once.

use serde_json::{Value, json};

use super::{faults, parse_bytes, with};
use crate::accept::request::Rejection;

/// Checks that each change to a valid message has exactly one fault, the one expected.
fn table(rows: &[(Value, &str, &str)]) {
    for (change, pointer, code) in rows {
        let found = faults(with(change).to_string().as_bytes());
        assert_eq!(found, [((*pointer).to_owned(), *code)], "{:.200}", change.to_string());
    }
}

fn repeated<T: Clone>(value: T, count: usize) -> Vec<T> {
    vec![value; count]
}

#[test]
fn invalid_addresses_are_reported() {
    let many: Vec<String> = (0..51).map(|n| format!("r{n}@example.test")).collect();
    table(&[
        (json!({"from": null}), "/from", "required"),
        (json!({"from": 5}), "/from", "invalid_type"),
        (json!({"from": ["a@acme.test"]}), "/from", "invalid_type"),
        (json!({"from": ""}), "/from", "invalid_address"),
        (json!({"from": "acme"}), "/from", "invalid_address"),
        (json!({"from": "A\r\nBcc: x@y.test <a@acme.test>"}), "/from", "control_character"),
        (json!({"from": {"name": "A"}}), "/from/email", "required"),
        (json!({"from": {"email": "a@acme.test", "name": 1}}), "/from/name", "invalid_type"),
        (json!({"from": {"email": "a@acme.test", "name": "A\nB"}}), "/from/name", "control_character"),
        (json!({"from": {"email": "a@acme.test", "name": "n".repeat(257)}}), "/from/name", "too_long"),
        (json!({"from": {"email": "A <a@acme.test>"}}), "/from/email", "invalid_address"),
        (json!({"from": {"email": "a@acme.test", "nmae": "A"}}), "/from/nmae", "unknown_field"),
        (json!({"to": null}), "/to", "required"),
        (json!({"to": []}), "/to", "required"),
        (json!({"to": true}), "/to", "invalid_type"),
        (json!({"to": ["ann@example.test", null]}), "/to/1", "invalid_type"),
        (json!({"to": ["ann@example.test", "bo"]}), "/to/1", "invalid_address"),
        (json!({"to": "ann@example.test, bo@example.test"}), "/to", "invalid_address"),
        (json!({"to": ["ann@example.test\u{0}"]}), "/to/0", "control_character"),
        (json!({"to": many}), "/to", "too_many"),
        (json!({"cc": many[..50]}), "/cc", "too_many"),
        (json!({"to": many[..50], "bcc": "x@example.test"}), "/bcc", "too_many"),
        (json!({"cc": [["ann@example.test"]]}), "/cc/0", "invalid_type"),
        (json!({"bcc": [{"email": 1}]}), "/bcc/0/email", "invalid_type"),
        (json!({"reply_to": "x"}), "/reply_to", "invalid_address"),
        (json!({"from": "\"a> <b@other.test\"@acme.test"}), "/from", "invalid_address"),
        (json!({"from": {"email": "\"b@other.test, a\"@acme.test"}}), "/from", "invalid_address"),
        (json!({"reply_to": ["\"x@y.test>\"@acme.test"]}), "/reply_to/0", "invalid_address"),
        (json!({"reply_to": many[..11]}), "/reply_to", "too_many"),
    ]);
}

#[test]
fn invalid_content_and_headers_are_reported() {
    table(&[
        (json!({"subject": null}), "/subject", "required"),
        (json!({"subject": 7}), "/subject", "invalid_type"),
        (json!({"subject": "a\r\nBcc: x@y.test"}), "/subject", "control_character"),
        (json!({"subject": "é".repeat(999)}), "/subject", "too_long"),
        (json!({"text": null}), "/text", "required"),
        (json!({"text": null, "attachments": []}), "/text", "required"),
        (json!({"text": {}}), "/text", "invalid_type"),
        (json!({"text": "a\u{0}b"}), "/text", "control_character"),
        (json!({"html": "\u{0}"}), "/html", "control_character"),
        (json!({"text": null, "html": ""}), "/text", "required"),
        (json!({"headers": []}), "/headers", "invalid_type"),
        (json!({"headers": {"X-A": 1}}), "/headers/X-A", "invalid_type"),
        (json!({"headers": {"X-A": "a\nb"}}), "/headers/X-A", "control_character"),
        (json!({"headers": {"X-A": "v".repeat(999)}}), "/headers/X-A", "too_long"),
        (json!({"headers": {"": "v"}}), "/headers/", "invalid_header"),
        (json!({"headers": {"References": "<\u{e9}@a.test>"}}), "/headers/References", "invalid_header"),
        (json!({"headers": {"List-Id": "a <b\u{fc}cher.test>"}}), "/headers/List-Id", "invalid_header"),
        (json!({"headers": {"List-Unsubscribe": "u".repeat(981)}}), "/headers/List-Unsubscribe", "invalid_header"),
        (json!({"headers": {"References": "r".repeat(8_001)}}), "/headers/References", "too_long"),
        (json!({"headers": {"X A": "v"}}), "/headers/X A", "invalid_header"),
        (json!({"headers": {"X:A": "v"}}), "/headers/X:A", "invalid_header"),
        (json!({"headers": {"X/~": "é", "X-Ä": "v"}}), "/headers/X-Ä", "invalid_header"),
        (json!({"headers": {"X-A\r\nBcc": "v"}}), "/headers/X-A\r\nBcc", "control_character"),
        (json!({"headers": {"x".repeat(77): "v"}}), &format!("/headers/{}", "x".repeat(77)), "too_long"),
        (json!({"headers": {"BCC": "x@y.test"}}), "/headers/BCC", "forbidden_header"),
        (json!({"headers": {"Content-Type": "text/html"}}), "/headers/Content-Type", "forbidden_header"),
        (json!({"headers": {"X-A": "1", "x-a": "2"}}), "/headers/x-a", "duplicate_field"),
    ]);
}

#[test]
fn invalid_attachments_are_reported() {
    let file = |change: &Value| {
        let mut file = json!({"filename": "a.txt", "content": "aGk="});
        file.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        json!({"attachments": [file]})
    };
    table(&[
        (json!({"attachments": {}}), "/attachments", "invalid_type"),
        (json!({"attachments": ["x"]}), "/attachments/0", "invalid_type"),
        (json!({"attachments": repeated(json!({"filename": "a", "content": ""}), 21)}), "/attachments", "too_many"),
        (file(&json!({"filename": null})), "/attachments/0/filename", "required"),
        (file(&json!({"filename": ""})), "/attachments/0/filename", "required"),
        (file(&json!({"filename": "a\"\r\nX: y"})), "/attachments/0/filename", "control_character"),
        (file(&json!({"filename": "f".repeat(256)})), "/attachments/0/filename", "too_long"),
        (file(&json!({"content": null})), "/attachments/0/content", "required"),
        (file(&json!({"content": 5})), "/attachments/0/content", "invalid_type"),
        (file(&json!({"content": "aGk"})), "/attachments/0/content", "invalid_base64"),
        (file(&json!({"content": "aG-_"})), "/attachments/0/content", "invalid_base64"),
        (file(&json!({"content": "data:text/plain;base64,aGk="})), "/attachments/0/content", "invalid_base64"),
        (file(&json!({"content": "aGl="})), "/attachments/0/content", "invalid_base64"),
        (file(&json!({"content": "é"})), "/attachments/0/content", "invalid_base64"),
        (file(&json!({"content_type": "pdf"})), "/attachments/0/content_type", "invalid_content_type"),
        (file(&json!({"content_type": "a/b\r\nX: y"})), "/attachments/0/content_type", "control_character"),
        (file(&json!({"content_type": "Multipart/mixed"})), "/attachments/0/content_type", "invalid_content_type"),
        (
            file(&json!({"content_type": "message/rfc822", "content": "w6k="})),
            "/attachments/0/content_type",
            "invalid_content_type",
        ),
        (file(&json!({"content_id": "a b"})), "/attachments/0/content_id", "invalid_value"),
        (file(&json!({"content_id": "a\nb"})), "/attachments/0/content_id", "control_character"),
        (file(&json!({"contentType": "a/b"})), "/attachments/0/contentType", "unknown_field"),
        (
            json!({"attachments": repeated(json!({"filename": "a", "content": "", "content_id": "x"}), 2)}),
            "/attachments/1/content_id",
            "duplicate_value",
        ),
    ]);
}

#[test]
fn other_invalid_fields_are_reported() {
    let wide: serde_json::Map<_, _> = (0..51).map(|n| (n.to_string(), json!("v"))).collect();
    table(&[
        (json!({"tags": {"kind": "invoice"}}), "/tags", "invalid_type"),
        (json!({"tags": [{"name": "kind"}]}), "/tags/0/value", "required"),
        (json!({"tags": [{"name": "", "value": "v"}]}), "/tags/0/name", "required"),
        (json!({"tags": [{"name": "a b", "value": "v"}]}), "/tags/0/name", "invalid_value"),
        (json!({"tags": [{"name": "a", "value": "v\n"}]}), "/tags/0/value", "control_character"),
        (json!({"tags": [{"name": "a", "value": "v".repeat(257)}]}), "/tags/0/value", "too_long"),
        (json!({"tags": repeated(json!({"name": "a", "value": "v"}), 21)}), "/tags", "too_many"),
        (json!({"metadata": "x"}), "/metadata", "invalid_type"),
        (json!({"metadata": {"order": 42}}), "/metadata/order", "invalid_type"),
        (json!({"metadata": {"": "x"}}), "/metadata/", "required"),
        (json!({"metadata": {"a": "x\u{0}"}}), "/metadata/a", "control_character"),
        (json!({"metadata": {"a": "x".repeat(16 * 1024)}}), "/metadata", "too_large"),
        (json!({"metadata": wide}), "/metadata", "too_many"),
        (json!({"headers": wide}), "/headers", "too_many"),
        (json!({"stream": "bulk"}), "/stream", "unknown_stream"),
        (json!({"stream": 1}), "/stream", "invalid_type"),
        (json!({"scheduled_at": "tomorrow"}), "/scheduled_at", "invalid_timestamp"),
        (json!({"scheduled_at": "2026-12-01T09:00:00"}), "/scheduled_at", "invalid_timestamp"),
        (json!({"scheduled_at": 1_800_000_000}), "/scheduled_at", "invalid_type"),
        (json!({"scheduled_at": "2027-11-23T12:00:01Z"}), "/scheduled_at", "invalid_timestamp"),
        (json!({"expires_at": "2026-11-23T12:00:00Z"}), "/expires_at", "invalid_timestamp"),
        (
            json!({"scheduled_at": "2026-12-01T09:00:00Z", "expires_at": "2026-12-01T09:00:00Z"}),
            "/expires_at",
            "invalid_timestamp",
        ),
        (json!({"on_uncertain": "drop"}), "/on_uncertain", "invalid_value"),
        (json!({"on_uncertain": false}), "/on_uncertain", "invalid_type"),
        (json!({"replyTo": "a@b"}), "/replyTo", "unknown_field"),
        (json!({"a/b~": null}), "/a~1b~0", "unknown_field"),
    ]);
}

#[test]
fn non_objects_and_duplicate_fields_are_reported() {
    for body in ["[]", "\"x\"", "5", "null"] {
        assert_eq!(faults(body.as_bytes()), [(String::new(), "invalid_type")], "{body}");
    }
    let valid = with(&json!({})).to_string();
    let twice = valid.replacen('{', r#"{"subject":"first","#, 1);
    assert_eq!(faults(twice.as_bytes()), [("/subject".to_owned(), "duplicate_field")]);
    let twice = valid.replacen('{', r#"{"metadata":{"a":"1","a":"2"},"headers":{"X":"1","X":"2"},"#, 1);
    assert_eq!(
        faults(twice.as_bytes()),
        [("/headers/X".to_owned(), "duplicate_field"), ("/metadata/a".to_owned(), "duplicate_field")]
    );
}

#[test]
fn every_fault_is_reported_at_once() {
    let body = json!({
        "from": "nobody", "to": ["ann@example.test", "bo", {"mail": "x"}], "cc": 4, "text": "\u{0}",
        "headers": {"To": "x", "X-A": "\n"}, "attachments": [{"content": "?"}], "stream": "x", "expires_at": "x",
        "nonsense": 1,
    });
    let found = faults(body.to_string().as_bytes());
    let expected = [
        ("/nonsense", "unknown_field"),
        ("/from", "invalid_address"),
        ("/to/1", "invalid_address"),
        ("/to/2/mail", "unknown_field"),
        ("/to/2/email", "required"),
        ("/cc", "invalid_type"),
        ("/subject", "required"),
        ("/text", "control_character"),
        ("/headers/To", "forbidden_header"),
        ("/headers/X-A", "control_character"),
        ("/attachments/0/filename", "required"),
        ("/attachments/0/content", "invalid_base64"),
        ("/stream", "unknown_stream"),
        ("/expires_at", "invalid_timestamp"),
    ];
    assert_eq!(found, expected.map(|(pointer, code)| (pointer.to_owned(), code)));
}

#[test]
fn fault_message_explains_the_fix() {
    for (change, expected) in [
        (json!({"to": "a@b.test, c@d.test"}), "array"),
        (json!({"scheduledAt": "x"}), "did you mean `scheduled_at`"),
        (json!({"headers": {"Reply-To": "x"}}), "use the field `reply_to`"),
        (json!({"stream": "x"}), "transactional, newsletter"),
        (json!({"attachments": [{"filename": "a", "content": "data:x;base64,aGk="}]}), "data URL"),
        (json!({"attachments": [{"filename": "a", "content": "aG-_"}]}), "URL-safe"),
        (json!({"scheduled_at": "2026-12-01"}), "2026-12-01T09:00:00Z"),
        (json!({"metadata": {"order": 42}}), "expected a string, found a number"),
    ] {
        let Err(Rejection::Invalid(list)) = parse_bytes(with(&change).to_string().as_bytes()) else {
            panic!("{change}")
        };
        assert!(list[0].message.contains(expected), "{}", list[0].message);
    }
}

#[test]
fn number_and_length_of_faults_are_limited() {
    let unknown: serde_json::Map<_, _> = (0..5_000).map(|n| (format!("f{n}"), json!(1))).collect();
    let found = faults(with(&Value::Object(unknown)).to_string().as_bytes());
    assert_eq!(found.len(), 101);
    assert_eq!(found[100], (String::new(), "too_many_faults"));

    let endless_name = with(&json!({"x".repeat(1_000_000): 1}));
    let Err(Rejection::Invalid(list)) = parse_bytes(endless_name.to_string().as_bytes()) else { panic!("unknown") };
    assert!(list[0].pointer.len() + list[0].message.len() < 1_000);
}

#[test]
fn malformed_json_is_a_different_rejection() {
    for body in [b"{".as_slice(), b"", b"{\"subject\":\"\\ud800\"}", b"\xff", b"{'a':1}"] {
        assert!(matches!(parse_bytes(body), Err(Rejection::Malformed { .. })), "{body:?}");
    }
    let flood = format!("{{\"to\":[{}1]}}", "1,".repeat(30_000));
    assert!(matches!(parse_bytes(flood.as_bytes()), Err(Rejection::Malformed { .. })));
}
