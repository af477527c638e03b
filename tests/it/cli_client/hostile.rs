//! Text from the server never reaches the terminal as control characters.

use serde_json::{Value, json};

use super::errors::{response, server};
use super::{command, stdout_of};
use crate::support::process::{run, stderr_of};

/// Clears the screen, sets the window's title, starts a line, and reverses the text.
const EVIL: &str = "\x1b[2J\x1b]0;owned\x07\r\u{9b}31m\n\u{202e}evil";

/// Returns JSON with some of the characters unescaped, as JSON allows.
fn raw(value: &Value) -> String {
    value.to_string().replace("\\u007f", "\u{7f}").replace("\\u009b", "\u{9b}")
}

fn assert_harmless(text: &str) {
    let wrong = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(text.contains("evil") && !text.contains(wrong), "{text:?}");
}

#[tokio::test]
async fn escape_sequences_in_data_are_neutralised() {
    let count = json!({"number": 1, "is_more": false});
    let limits = json!({"connections": {"effective": 1}, "rate": {"effective": null}});
    let lane = json!({"id": EVIL, "stream": EVIL, "route": EVIL, "domain": EVIL, "state": EVIL, "reason": EVIL,
                      "limits": limits, "waiting": count, "due": count, "held": count});
    let reply = json!({"code": 451, "enhanced": EVIL, "text": EVIL});
    let event = json!({"seq": 1, "type": EVIL, "timestamp": EVIL,
                       "data": {"message_id": EVIL, "recipient": EVIL, "response": reply}});
    let recipient = json!({"address": EVIL, "kind": EVIL, "status": EVIL, "attempts": 1, "summary": EVIL,
                           "blocker": {"kind": EVIL, "reply": reply}, "unblock": [{"action": EVIL, "call": EVIL}]});
    let explanation = json!({"id": EVIL, "status": EVIL, "stream": EVIL, "recipients": [recipient]});
    let entry = json!({"address": EVIL, "reason": EVIL, "created_at": EVIL, "note": EVIL});
    let page = |entry: &Value| json!({"data": [entry], "has_more": false, "next": "1"});
    for (arguments, body) in [
        (&["lanes"][..], page(&lane)),
        (&["events"], page(&event)),
        (&["suppressions"], page(&entry)),
        (&["explain", "msg_1"], explanation),
    ] {
        let api = server(response("200 OK", &raw(&body))).await;
        let human = run(command(&api, arguments)).await;
        assert!(human.status.success(), "{}", stderr_of(&human));
        assert_harmless(&stdout_of(&human));
        let output = run(command(&api, &[arguments, &["--json"]].concat())).await;
        let json = stdout_of(&output);
        assert_harmless(&json);
        let value: Value = serde_json::from_str(&json).unwrap();
        assert!(value == body || value == body["data"][0] && json.lines().count() == 1, "{json}");
    }
}

#[tokio::test]
async fn escape_sequences_in_errors_are_neutralised() {
    let fault = json!({"pointer": EVIL, "message": EVIL});
    let problem = json!({"detail": EVIL, "code": "invalid_request", "errors": [fault, fault]});
    let api = server(response("422 Unprocessable Content", &problem.to_string())).await;
    let output = run(command(&api, &["lanes"])).await;
    let errors = stderr_of(&output);
    assert_harmless(&errors);
    assert_eq!((output.status.code(), errors.lines().count()), (Some(6), 3), "{errors}");
}
