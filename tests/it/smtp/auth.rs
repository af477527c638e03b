//! Credentials: how they are given, and what it means when they are refused.

use postrider::domain::outcome::Verdict::{Accepted, Permanent, Temporary};
use postrider::smtp::Settings;

use crate::support::certificate::Certificate;
use crate::support::sending::{relay, send_one, sender};
use crate::support::smtp::SmtpServer;

/// The user `ann` with the password `secret`; loopback may see it in plain text.
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
async fn login_is_known_too() {
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
async fn credentials_are_not_sent_to_a_certificate_that_is_not_valid() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN"]);
    smtp.starttls_with(&Certificate::valid_for("127.0.0.1"));
    assert_eq!(send_one(&sender(with_login(&smtp, "tls=required"))).await.verdict, Temporary);
    assert_eq!(smtp.count("AUTH"), 0);
}

#[tokio::test]
async fn refused_credentials_bounce_no_mail() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN"]);
    smtp.auth().replies(["535 5.7.8 bad credentials"]);
    let outcome = send_one(&sender(with_login(&smtp, "tls=none"))).await;
    assert_eq!((outcome.verdict, outcome.reply.code), (Temporary, Some(535)));
    assert_eq!(smtp.count("MAIL"), 0);
}

#[tokio::test]
async fn the_old_form_of_the_offer_is_understood() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH=LOGIN PLAIN"]);
    assert_eq!(send_one(&sender(with_login(&smtp, "tls=none"))).await.verdict, Accepted);
    assert_eq!(smtp.count("AUTH PLAIN"), 1);
}

#[tokio::test]
async fn what_is_offered_instead_is_named() {
    let smtp = SmtpServer::start().await;
    for (offered, words) in [("AUTH GSSAPI CRAM-MD5", "it offers AUTH GSSAPI CRAM-MD5"), ("8BITMIME", "no AUTH at all")]
    {
        smtp.offers([offered]);
        let text = send_one(&sender(with_login(&smtp, "tls=none"))).await.reply.text;
        assert!(text.contains("does not offer AUTH PLAIN or LOGIN") && text.contains(words), "{text}");
    }
}

#[tokio::test]
async fn a_password_that_the_server_repeats_is_not_kept() {
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
async fn a_long_challenge_is_passed_by() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN"]);
    let challenge = format!("334 {}", "QUFB".repeat(3_000));
    smtp.auth().replies([challenge.as_str()]);
    smtp.after_auth().replies(["535 5.7.8 no"]);
    let outcome = send_one(&sender(with_login(&smtp, "tls=none"))).await;
    assert_eq!((outcome.verdict, outcome.reply.code), (Temporary, Some(535)), "{}", outcome.reply.text);
}

#[tokio::test]
async fn a_server_that_wants_plain_in_two_steps_gets_it() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN"]);
    smtp.auth().replies(["334 "]);
    assert_eq!(send_one(&sender(with_login(&smtp, "tls=none"))).await.verdict, Accepted);
    assert_eq!((smtp.count("AUTH PLAIN AGFubgBzZWNyZXQ="), smtp.count("AGFubgBzZWNyZXQ=")), (1, 1));
}

#[tokio::test]
async fn an_exchange_without_end_is_canceled() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN"]);
    smtp.auth().replies(["334 "]);
    smtp.after_auth().replies(["334 more"]);
    let outcome = send_one(&sender(with_login(&smtp, "tls=none"))).await;
    assert_eq!((outcome.verdict, smtp.count("*"), smtp.count("MAIL")), (Temporary, 1, 0));
}

#[tokio::test]
async fn a_server_that_refuses_us_is_told_goodbye() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH PLAIN"]);
    let sender = sender(with_login(&smtp, "tls=none"));
    smtp.auth().replies(["535 5.7.8 no"]);
    send_one(&sender).await;
    smtp.read("QUIT", 1).await;
    smtp.greeting().replies(["554 5.7.1 not you"]);
    send_one(&sender).await;
    smtp.read("QUIT", 2).await;
    smtp.left_alone().await;
}

#[tokio::test]
async fn codes_of_authentication_are_judged_by_their_words() {
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
async fn a_server_that_asks_for_no_credentials_we_have_gets_no_mail() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH GSSAPI"]);
    let outcome = send_one(&sender(with_login(&smtp, "tls=none"))).await;
    assert_eq!((outcome.verdict, smtp.count("MAIL")), (Temporary, 0));
}
