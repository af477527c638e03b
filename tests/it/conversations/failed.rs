//! The conversation of a failed attempt is kept, without the message and without credentials.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrider::config::Config;
use serde_json::{Value, json};

use super::{assert_order, attempts, lines};
use crate::support::app::TestApp;
use crate::support::certificate::Certificate;
use crate::support::clock::{hours, minutes};
use crate::support::smtp::Action;

/// Returns the configuration with this URL of the relay.
fn with_relay(app: &TestApp, login: &str, options: &str) -> Config {
    let url = format!("smtp://{login}{}?{options}", app.smtp.address());
    Config { relay_url: Some(url.into()), ..app.config.clone() }
}

/// Sends a message through a worker with this configuration, and returns the attempts.
async fn attempts_with(app: &TestApp, config: &Config) -> Vec<Value> {
    let sent = app.send(json!({})).await;
    app.worker_with(config).await.drain().await.unwrap();
    attempts(app, &sent.id).await
}

#[tokio::test]
async fn refusal_of_a_recipient_is_kept_with_the_greeting() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["450 4.2.1 mailbox busy"]);
    let sent = app.send(json!({"subject": "Secret subject", "text": "Secret text"})).await;
    app.run_until_idle().await;
    app.clock.advance(minutes(10));
    app.run_until_idle().await;

    let attempts = attempts(&app, &sent.id).await;
    assert_eq!(attempts.len(), 2);
    let (first, second) = (&attempts[0], &attempts[1]);
    assert_eq!(
        (&first["event"], &first["attempt"], &first["recipient"]),
        (&json!("message.deferred"), &json!(1), &json!("ann@example.test"))
    );
    assert_eq!(first["response"]["text"], "mailbox busy");
    assert_order(
        &lines(first),
        &[
            "* connecting to 127.0.0.1 at 127.0.0.1:",
            "< 220 mx.test ESMTP",
            "> EHLO postrider.test",
            "< 250-",
            "< 250 ",
            "> MAIL FROM:<",
            "> RCPT TO:<ann@example.test>",
            "> DATA",
            "< 250 ",
            "< 450 4.2.1 mailbox busy",
        ],
    );
    assert_eq!((&first["conversation"]["omitted"], &first["conversation"]["omitted_after"]), (&json!(0), &json!(0)));
    assert_eq!((&second["event"], &second["conversation"]), (&json!("message.relayed"), &Value::Null));
}

#[tokio::test]
async fn commands_without_pipelining_alternate_with_replies() {
    let app = TestApp::start().await;
    app.smtp.offers(["8BITMIME"]);
    app.smtp.data().replies(["451 4.3.0 not now"]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_order(
        &lines(&attempts(&app, &sent.id).await[0]),
        &["> MAIL FROM:<", "< 250 ", "> RCPT TO:<ann@example.test>", "< 250 ", "> DATA", "< 451 4.3.0 not now"],
    );
}

#[tokio::test]
async fn drop_after_the_final_dot_is_kept_without_the_message() {
    let app = TestApp::start().await;
    app.smtp.dot().does([Action::Drop]);
    let sent = app.send(json!({"subject": "Secret subject", "text": "Secret text"})).await;
    app.run_until_idle().await;
    let attempts = attempts(&app, &sent.id).await;
    assert_eq!(attempts[0]["event"], "message.uncertain");
    let lines = lines(&attempts[0]);
    assert_order(
        &lines,
        &["> DATA", "< 354", "> (message of ", "> .", "* at the final dot: the server closed the connection"],
    );
    assert!(!lines.iter().any(|line| line.contains("Secret")), "{lines:#?}");
}

#[tokio::test]
async fn second_message_of_a_connection_names_it() {
    let app = TestApp::start().await;
    app.smtp.rcpt("bo@example.test").replies(["550 5.1.1 unknown"]);
    app.send(json!({})).await;
    app.run_until_idle().await;
    let second = app.send(json!({"to": "bo@example.test"})).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.connections(), 1);
    let lines = lines(&attempts(&app, &second.id).await[0]);
    assert_eq!(lines[0], "* message 2 over the open connection to 127.0.0.1 at 127.0.0.1, without TLS");
    assert!(lines[1].starts_with("> MAIL FROM:<") && lines.last().unwrap().starts_with("< "), "{lines:#?}");
    assert_order(&lines, &["> RCPT TO:<bo@example.test>", "< 550 5.1.1 unknown"]);
}

#[tokio::test]
async fn failed_tls_handshake_is_a_note() {
    let app = TestApp::start().await;
    app.smtp.starttls_with(&Certificate::expired_for("127.0.0.1"));
    let found = attempts_with(&app, &with_relay(&app, "", "tls=required")).await;
    assert_order(&lines(&found[0]), &["> EHLO", "> STARTTLS", "< 220", "* TLS handshake failed: "]);
}

#[tokio::test]
async fn refused_connection_is_a_note() {
    let app = TestApp::start().await;
    let unreachable = Config { relay_url: Some("smtp://127.0.0.9:1?tls=none".to_owned().into()), ..app.config.clone() };
    let found = attempts_with(&app, &unreachable).await;
    let expected = ["* connecting to 127.0.0.9 at 127.0.0.9:1", "* could not connect to 127.0.0.9:1: "];
    assert_order(&lines(&found[0]), &expected);
}

#[tokio::test]
async fn credentials_are_not_in_the_conversation() {
    let app = TestApp::start().await;
    app.smtp.offers(["AUTH PLAIN"]);
    // Some servers quote the command that they refuse: the base64 of "\0ann\0a-long-secret".
    app.smtp.auth().replies(["535 5.7.8 refused AUTH PLAIN AGFubgBhLWxvbmctc2VjcmV0"]);
    let found = attempts_with(&app, &with_relay(&app, "ann:a-long-secret@", "tls=none")).await;
    assert_eq!(app.smtp.count("AUTH PLAIN AGFubgBhLWxvbmctc2VjcmV0"), 1);
    assert_order(&lines(&found[0]), &["> AUTH PLAIN [removed]", "< 535 5.7.8 refused AUTH PLAIN [removed]"]);
    let text = found[0].to_string();
    assert!(!text.contains("a-long-secret") && !text.contains("AGFubgBh"), "{text}");
}

#[tokio::test]
async fn credentials_in_several_lines_are_not_in_the_conversation() {
    let app = TestApp::start().await;
    app.smtp.offers(["AUTH LOGIN"]);
    app.smtp.auth().replies(["535 5.7.8 no YS1sb25nLXNlY3JldA=="]);
    let found = attempts_with(&app, &with_relay(&app, "ann:a-long-secret@", "tls=none")).await;
    let conversation = lines(&found[0]);
    assert_order(
        &conversation,
        &["> AUTH LOGIN", "< 334 [removed]", "> [removed]", "< 334 [removed]", "> [removed]", "< 535 "],
    );
    let text = found[0].to_string();
    assert!(!text.contains("a-long-secret") && !text.contains("YS1sb25n"), "{text}");
}

/// Returns the attempts at a message through a relay that logs in with this access token.
async fn attempts_with_token(app: &TestApp, token: &str) -> Vec<Value> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), token).unwrap();
    app.smtp.offers(["AUTH XOAUTH2"]);
    attempts_with(app, &with_relay(app, "ann@", &format!("tls=none&token_file={}", file.path().display()))).await
}

#[tokio::test]
async fn refused_access_token_is_not_in_the_conversation() {
    let app = TestApp::start().await;
    // The challenge quotes the token.
    let challenge = STANDARD.encode(r#"{"status":"401","token":"a-long-secret"}"#);
    app.smtp.auth().replies([format!("334 {challenge}").as_str()]);
    app.smtp.after_auth().replies(["535 5.7.8 not accepted"]);
    let found = attempts_with_token(&app, "a-long-secret").await;
    let expected = ["> AUTH XOAUTH2 [removed]", "< 334 [removed]", "< 535 5.7.8 not accepted"];
    assert_order(&lines(&found[0]), &expected);
    let text = found[0].to_string();
    assert!(!text.contains("a-long-secret") && !text.contains(&challenge[..20]), "{text}");
}

#[tokio::test]
async fn long_access_token_is_not_in_the_conversation() {
    let app = TestApp::start().await;
    app.smtp.auth().replies(["334 go on"]);
    app.smtp.after_auth().replies(["535 5.7.8 not accepted"]);
    let found = attempts_with_token(&app, &"t".repeat(1_500)).await;
    let expected = ["> AUTH XOAUTH2", "< 334 [removed]", "> [removed]", "< 535 5.7.8 not accepted"];
    assert_order(&lines(&found[0]), &expected);
    let text = found[0].to_string();
    // The second is base64 of the first.
    assert!(!text.contains("tttttttt") && !text.contains("dHR0dHR0"), "{text}");
}

#[tokio::test]
async fn token_of_the_return_path_is_not_in_the_conversation() {
    let app = TestApp::builder().with_inbound().start().await;
    app.smtp.offers(["DSN"]);
    app.smtp.rcpt("ann@example.test").replies(["550 5.1.1 unknown"]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    let commands: Vec<String> = app.smtp.lines().into_iter().map(|line| line.text).collect();
    let mail = commands.iter().find(|line| line.starts_with("MAIL")).unwrap();
    let token = mail.split("<b+").nth(1).unwrap().split('@').next().unwrap();
    assert!(token.len() > 40 && mail.contains(&format!("ENVID={token}")), "{mail}");

    let attempt = &attempts(&app, &sent.id).await[0];
    assert_order(&lines(attempt), &["> MAIL FROM:<b+[removed]@return.acme.test>", "< 550 5.1.1 unknown"]);
    let text = attempt.to_string();
    assert!(text.contains("ENVID=[removed]") && !text.contains(token), "{text}");
}

#[tokio::test]
async fn long_conversation_keeps_both_ends() {
    let app = TestApp::start().await;
    let to: Vec<String> = (0..50).map(|n| format!("user{n}@example.test")).collect();
    for address in &to {
        app.smtp.rcpt(address).replies(["450 4.2.1 mailbox busy"]);
    }
    let sent = app.send(json!({"to": to})).await;
    app.run_until_idle().await;
    let attempts = attempts(&app, &sent.id).await;
    assert_eq!(attempts.len(), 50);
    for attempt in attempts {
        let (conversation, lines) = (&attempt["conversation"], lines(&attempt));
        assert!(lines.len() <= 100 && conversation["omitted"].as_u64().unwrap() > 0, "{conversation}");
        assert!(lines[0].starts_with("* connecting to "));
        assert_order(&lines[50..], &["< 450 4.2.1 mailbox busy"]);
    }
}

#[tokio::test]
async fn conversations_are_deleted_after_their_time() {
    let app =
        TestApp::builder().config(|config| config.retention.conversations = Duration::from_hours(30)).start().await;
    app.smtp.rcpt("ann@example.test").replies(["550 5.1.1 unknown"]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    for (passed, kept) in [(29, true), (2, false)] {
        app.clock.advance(hours(passed));
        app.worker.clean_up().await.unwrap();
        assert_eq!(attempts(&app, &sent.id).await[0]["conversation"].is_object(), kept);
    }
}

#[tokio::test]
async fn attempts_have_pages_and_belong_to_their_message() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.0 later", "451 4.3.0 later"]);
    let sent = app.send(json!({})).await;
    for _ in 0..3 {
        app.run_until_idle().await;
        app.clock.advance(hours(1));
    }
    let path = format!("/v1/messages/{}/attempts", sent.id);
    let first = app.get(&format!("{path}?limit=2")).await.body;
    assert_eq!((first["data"].as_array().unwrap().len(), &first["has_more"]), (2, &json!(true)));
    let next = first["next"].as_str().unwrap();
    let second = app.get(&format!("{path}?limit=2&after={next}")).await.body;
    assert_eq!((&second["data"][0]["attempt"], &second["has_more"]), (&json!(3), &json!(false)));
    assert_eq!(app.get("/v1/messages/msg_00000000000070008000000000000000/attempts").await.status, 404);
    assert_eq!(app.get(&format!("{path}?after=x")).await.faults()[0].0, "after");
}
