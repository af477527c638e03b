//! AUTH: how credentials are sent, and how a refusal is judged.

use postrider::domain::outcome::Verdict::{Accepted, Permanent, Temporary};
use postrider::smtp::Settings;

use crate::support::certificate::Certificate;
use crate::support::sending::{relay, send_one, sender};
use crate::support::smtp::SmtpServer;

/// Settings with the user `ann` and the password `secret`, which may be sent in plain text to a loopback address.
fn with_login(smtp: &SmtpServer, options: &str) -> Settings {
    let url = format!("smtp://ann:secret@{}?{options}", smtp.address());
    Settings { relay: Some(url.parse().unwrap()), ..Settings::default() }
}

#[tokio::test]
async fn plain_is_preferred() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH LOGIN PLAIN"]);
    assert_eq!(send_one(&sender(with_login(&smtp, "tls=none"))).await.verdict, Accepted);
    assert_eq!(smtp.count("AUTH PLAIN AGFubgBzZWNyZXQ="), 1);
}

#[tokio::test]
async fn login_is_used_if_plain_is_not_offered() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH LOGIN"]);
    assert_eq!(send_one(&sender(with_login(&smtp, "tls=none"))).await.verdict, Accepted);
    let lines: Vec<String> = smtp.lines().into_iter().map(|line| line.text).collect();
    assert_eq!(lines[1..4], ["AUTH LOGIN", "YW5u", "c2VjcmV0"]);
}

#[tokio::test]
async fn credentials_follow_the_handshake() {
    let certificate = Certificate::valid_for("127.0.0.1");
    let (ca_file, _dir) = certificate.as_ca_file();
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN"]);
    smtp.starttls_with(&certificate);
    let settings = with_login(&smtp, &format!("ca_file={}", ca_file.display()));
    assert_eq!(send_one(&sender(settings)).await.verdict, Accepted);
    let lines: Vec<String> = smtp.lines().into_iter().map(|line| line.text).collect();
    assert_eq!(lines[1], "STARTTLS");
    assert!(lines[3].starts_with("AUTH PLAIN"));
}

#[tokio::test]
async fn credentials_are_not_sent_over_unverified_tls() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN"]);
    smtp.starttls_with(&Certificate::valid_for("127.0.0.1"));
    assert_eq!(send_one(&sender(with_login(&smtp, "tls=required"))).await.verdict, Temporary);
    assert_eq!(smtp.count("AUTH"), 0);
}

#[tokio::test]
async fn refused_credentials_are_a_temporary_failure() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN"]);
    smtp.auth().replies(["535 5.7.8 bad credentials"]);
    let outcome = send_one(&sender(with_login(&smtp, "tls=none"))).await;
    assert_eq!((outcome.verdict, outcome.reply.code), (Temporary, Some(535)));
    assert_eq!(smtp.count("MAIL"), 0);
}

#[tokio::test]
async fn auth_offered_with_an_equals_sign_is_used() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH=LOGIN PLAIN"]);
    assert_eq!(send_one(&sender(with_login(&smtp, "tls=none"))).await.verdict, Accepted);
    assert_eq!(smtp.count("AUTH PLAIN"), 1);
}

#[tokio::test]
async fn the_error_lists_the_offered_mechanisms() {
    let smtp = SmtpServer::start().await;
    for (offered, expected) in
        [("AUTH GSSAPI CRAM-MD5", "it offers AUTH GSSAPI CRAM-MD5"), ("8BITMIME", "no AUTH at all")]
    {
        smtp.offers([offered]);
        let text = send_one(&sender(with_login(&smtp, "tls=none"))).await.reply.text;
        assert!(text.contains("does not offer AUTH PLAIN or LOGIN") && text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn a_password_in_a_reply_is_removed() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN"]);
    for reply in [
        "535 5.7.8 AUTH PLAIN AGFubgBzZWNyZXQ= failed",
        "535 5.7.8 ann/secret is wrong",
        "AUTH PLAIN AGFubgBzZWNyZXQ= is no command",
    ] {
        smtp.auth().replies([reply]);
        let text = send_one(&sender(with_login(&smtp, "tls=none"))).await.reply.text;
        assert!(text.contains("[removed]"), "{text}");
        assert!(!text.contains("AGFubgBzZWNyZXQ") && !text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn a_long_challenge_is_skipped() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN"]);
    let challenge = format!("334 {}", "QUFB".repeat(3_000));
    smtp.auth().replies([challenge.as_str()]);
    smtp.after_auth().replies(["535 5.7.8 no"]);
    let outcome = send_one(&sender(with_login(&smtp, "tls=none"))).await;
    assert_eq!((outcome.verdict, outcome.reply.code), (Temporary, Some(535)), "{}", outcome.reply.text);
}

#[tokio::test]
async fn plain_response_is_repeated_after_an_empty_challenge() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN"]);
    smtp.auth().replies(["334 "]);
    assert_eq!(send_one(&sender(with_login(&smtp, "tls=none"))).await.verdict, Accepted);
    assert_eq!((smtp.count("AUTH PLAIN AGFubgBzZWNyZXQ="), smtp.count("AGFubgBzZWNyZXQ=")), (1, 1));
}

#[tokio::test]
async fn an_endless_exchange_is_canceled() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN"]);
    smtp.auth().replies(["334 "]);
    smtp.after_auth().replies(["334 more"]);
    let outcome = send_one(&sender(with_login(&smtp, "tls=none"))).await;
    assert_eq!((outcome.verdict, smtp.count("*"), smtp.count("MAIL")), (Temporary, 1, 0));
}

#[tokio::test]
async fn a_refused_session_ends_with_quit() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN"]);
    let sender = sender(with_login(&smtp, "tls=none"));
    smtp.auth().replies(["535 5.7.8 no"]);
    send_one(&sender).await;
    smtp.wait_for_lines("QUIT", 1).await;
    smtp.greeting().replies(["554 5.7.1 not you"]);
    send_one(&sender).await;
    smtp.wait_for_lines("QUIT", 2).await;
    smtp.all_connections_closed().await;
}

#[tokio::test]
async fn authentication_codes_are_judged_by_their_text() {
    for (reply, verdict) in [
        ("534 SIZE=Message too big.", Permanent),
        ("535 5.1.1 no such mailbox", Permanent),
        ("530 5.7.0 Must issue a STARTTLS command first", Temporary),
        ("530 Authentication required", Temporary),
    ] {
        for at_rcpt in [true, false] {
            let smtp = SmtpServer::start().await;
            let script = if at_rcpt { smtp.rcpt("ann@example.test") } else { smtp.mail() };
            script.replies([reply]);
            let outcome = send_one(&sender(relay(&smtp))).await;
            assert_eq!(outcome.verdict, verdict, "{reply}");
        }
    }
}

#[tokio::test]
async fn no_message_is_sent_without_a_supported_mechanism() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH GSSAPI"]);
    let outcome = send_one(&sender(with_login(&smtp, "tls=none"))).await;
    assert_eq!((outcome.verdict, smtp.count("MAIL")), (Temporary, 0));
}
