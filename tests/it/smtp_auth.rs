//! Credentials: how they are given, and what it means when they are refused.

use postrider::domain::outcome::Verdict::{Accepted, Temporary};
use postrider::smtp::Settings;

use crate::support::certificate::Certificate;
use crate::support::sending::{send_one, sender};
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
async fn a_server_that_asks_for_no_credentials_we_have_gets_no_mail() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["AUTH GSSAPI"]);
    let outcome = send_one(&sender(with_login(&smtp, "tls=none"))).await;
    assert_eq!((outcome.verdict, smtp.count("MAIL")), (Temporary, 0));
}
