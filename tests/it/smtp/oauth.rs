//! XOAUTH2: an access token in place of a password, read again at every login.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrider::domain::outcome::Verdict::{Accepted, Temporary};
use postrider::smtp::{Sender, Settings};
use tempfile::NamedTempFile;

use crate::support::sending::{send_one, sender};
use crate::support::smtp::SmtpServer;

/// Creates a sender with the user `ann` and the token in the file.
fn with_token_in(file: &NamedTempFile, smtp: &SmtpServer) -> Sender {
    let url = format!("smtp://ann@{}?tls=none&token_file={}", smtp.address(), file.path().display());
    sender(Settings { relay: Some(url.parse().unwrap()), ..Settings::default() })
}

fn token(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn auth_command(token: &str) -> String {
    format!("AUTH XOAUTH2 {}", STANDARD.encode(format!("user=ann\x01auth=Bearer {token}\x01\x01")))
}

#[tokio::test]
async fn the_token_is_read_again_at_every_login() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH LOGIN PLAIN XOAUTH2"]);
    smtp.mail().replies(["421 4.3.2 restarting"]);
    let file = token("first\n");
    let sender = with_token_in(&file, &smtp);
    assert_eq!(send_one(&sender).await.verdict, Temporary);
    std::fs::write(file.path(), "second\n").unwrap();
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert_eq!((smtp.count(&auth_command("first")), smtp.count(&auth_command("second"))), (1, 1));
}

#[tokio::test]
async fn the_refusal_of_an_expired_token_is_decoded() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH XOAUTH2"]);
    let challenge = format!("334 {}", STANDARD.encode(r#"{"status":"401","schemes":"bearer"}"#));
    smtp.auth().replies([challenge.as_str()]);
    smtp.after_auth().replies(["535 5.7.8 not accepted"]);
    let file = token("expired");
    let outcome = send_one(&with_token_in(&file, &smtp)).await;
    assert_eq!((outcome.verdict, outcome.reply.code), (Temporary, Some(535)));
    assert_eq!(outcome.reply.text, r#"not accepted ({"status":"401","schemes":"bearer"})"#);
    assert!(smtp.lines().iter().any(|line| line.text.is_empty()), "the response to the challenge is an empty line");
    assert_eq!(smtp.count("MAIL"), 0);
}

#[tokio::test]
async fn a_very_long_refusal_is_truncated() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH XOAUTH2"]);
    let challenge =
        format!("334 {}", STANDARD.encode(format!("{{\"status\":\"401\",\"why\":\"{}\"}}", "x".repeat(9_000))));
    smtp.auth().replies([challenge.as_str()]);
    smtp.after_auth().replies(["535 5.7.8 not accepted"]);
    let file = token("expired");
    let outcome = send_one(&with_token_in(&file, &smtp)).await;
    assert_eq!((outcome.verdict, outcome.reply.code), (Temporary, Some(535)));
    assert!(outcome.reply.text.starts_with(r#"not accepted ({"status":"401","#), "{}", outcome.reply.text);
}

#[tokio::test]
async fn a_long_token_is_sent_in_a_separate_line() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH XOAUTH2"]);
    smtp.auth().replies(["334 "]);
    let file = token(&"t".repeat(1_500));
    assert_eq!(send_one(&with_token_in(&file, &smtp)).await.verdict, Accepted);
    let lines: Vec<String> = smtp.lines().into_iter().map(|line| line.text).collect();
    assert_eq!((lines[1].as_str(), lines[2].len()), ("AUTH XOAUTH2", 2_032));
}

#[tokio::test]
async fn auth_is_not_sent_without_a_token() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH XOAUTH2"]);
    for content in ["", "two words", "bad\u{1}"] {
        let file = token(content);
        let outcome = send_one(&with_token_in(&file, &smtp)).await;
        assert!(outcome.reply.text.contains("no token for AUTH"), "{content:?}: {}", outcome.reply.text);
    }
    assert_eq!(smtp.count("AUTH"), 0);
}

#[tokio::test]
async fn only_the_configured_mechanism_is_used() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN LOGIN"]);
    let url = |auth: &str| format!("smtp://ann:secret@{}?tls=none&auth={auth}", smtp.address());
    let outcome = |auth: &str| {
        let sender = sender(Settings { relay: Some(url(auth).parse().unwrap()), ..Settings::default() });
        async move { send_one(&sender).await }
    };
    assert_eq!(outcome("login").await.verdict, Accepted);
    assert_eq!((smtp.count("AUTH LOGIN"), smtp.count("AUTH PLAIN")), (1, 0));
    assert!(outcome("xoauth2").await.reply.text.contains("does not offer AUTH XOAUTH2"));
}
