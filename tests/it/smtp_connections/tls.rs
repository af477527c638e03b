//! TLS is used if it is offered, verified if it is required, and never mixed with plain text.

use std::time::Duration;

use postrider::domain::outcome::Verdict::{Accepted, Temporary};
use postrider::smtp::{Sender, Settings, Timeouts};

use crate::support::certificate::Certificate;
use crate::support::sending::{relay_at, send_one, sender};
use crate::support::smtp::{Action, SmtpServer};

async fn server(certificate: &Certificate) -> SmtpServer {
    let smtp = SmtpServer::start().await;
    smtp.starttls_with(certificate);
    smtp
}

/// A sender that requires TLS and trusts this certificate.
fn strict(smtp: &SmtpServer, trusted: &Certificate) -> Sender {
    let (ca_file, _dir) = trusted.as_ca_file();
    sender(relay_at(smtp.address(), &format!("tls=required&ca_file={}", ca_file.display())))
}

fn opportunistic(smtp: &SmtpServer) -> Settings {
    relay_at(smtp.address(), "tls=opportunistic")
}

#[tokio::test]
async fn a_verified_session_repeats_ehlo_and_reports_its_cipher() {
    let certificate = Certificate::valid_for("127.0.0.1");
    let smtp = server(&certificate).await;
    let outcome = send_one(&strict(&smtp, &certificate)).await;

    assert_eq!(outcome.verdict, Accepted, "{}", outcome.reply.text);
    assert!(smtp.messages()[0].tls);
    assert_eq!(smtp.count("EHLO"), 2);
    assert!(outcome.peer.tls.unwrap().starts_with("TLSv1.3 TLS13_"));
}

#[tokio::test]
async fn no_message_is_sent_to_an_invalid_certificate() {
    let trusted = Certificate::valid_for("127.0.0.1");
    let expired = Certificate::expired_for("127.0.0.1");
    let misnamed = Certificate::valid_for("other.test");
    let unknown = Certificate::valid_for("127.0.0.1");
    for (presented, trusted) in [(&expired, &expired), (&misnamed, &misnamed), (&unknown, &trusted)] {
        let smtp = server(presented).await;
        let outcome = send_one(&strict(&smtp, trusted)).await;
        assert_eq!(outcome.verdict, Temporary);
        assert!(outcome.reply.text.contains("certificate"), "{}", outcome.reply.text);
        assert_eq!(smtp.count("MAIL"), 0);
    }
}

#[tokio::test]
async fn a_refusal_for_missing_tls_includes_the_handshake_error() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["STARTTLS"]);
    let refusal = "530 5.7.0 Must issue a STARTTLS command first";
    smtp.mail().replies([refusal]);
    let outcome = send_one(&sender(opportunistic(&smtp))).await;
    assert_eq!((outcome.verdict, outcome.reply.code), (Temporary, Some(530)));
    let text = outcome.reply.text;
    assert!(
        text.starts_with("TLS handshake failed: ") && text.ends_with("; then: Must issue a STARTTLS command first"),
        "{text}"
    );

    let smtp = SmtpServer::start().await;
    smtp.offers(["STARTTLS"]);
    smtp.greeting().replies(["220 hello", "554 5.7.1 not without TLS"]);
    let text = send_one(&sender(opportunistic(&smtp))).await.reply.text;
    assert!(text.starts_with("TLS handshake failed: ") && text.ends_with("; then: not without TLS"), "{text}");
}

#[tokio::test]
async fn a_drop_at_starttls_falls_back_to_plain_text() {
    let smtp = SmtpServer::start().await;
    smtp.offers(["STARTTLS"]);
    smtp.starttls().does([Action::Drop]);
    let outcome = send_one(&sender(opportunistic(&smtp))).await;
    assert_eq!((outcome.verdict, smtp.connections(), smtp.messages().len()), (Accepted, 2, 1));

    let smtp = SmtpServer::start().await;
    smtp.offers(["STARTTLS"]);
    smtp.starttls().does([Action::Drop]);
    let outcome = send_one(&strict(&smtp, &Certificate::valid_for("127.0.0.1"))).await;
    assert_eq!((outcome.verdict, smtp.connections(), smtp.messages().len()), (Temporary, 1, 0));
    assert_eq!(outcome.reply.text, "at STARTTLS: the server closed the connection");
}

#[tokio::test]
async fn certificate_errors_are_described_in_plain_language() {
    let (expired, misnamed) = (Certificate::expired_for("127.0.0.1"), Certificate::valid_for("other.test"));
    for (presented, expected) in
        [(&expired, "the certificate expired on 20"), (&misnamed, "valid for other.test, and not for 127.0.0.1")]
    {
        let text = send_one(&strict(&server(presented).await, presented)).await.reply.text;
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn no_message_is_sent_if_required_tls_was_stripped() {
    let certificate = Certificate::valid_for("127.0.0.1");
    let smtp = SmtpServer::start().await;
    let outcome = send_one(&strict(&smtp, &certificate)).await;
    assert_eq!((outcome.verdict, smtp.count("MAIL")), (Temporary, 0));

    let smtp = server(&certificate).await;
    smtp.starttls().replies(["454 4.7.0 not now"]);
    let outcome = send_one(&strict(&smtp, &certificate)).await;
    assert_eq!((outcome.verdict, smtp.count("MAIL")), (Temporary, 0));
}

#[tokio::test]
async fn plain_text_injected_before_the_handshake_fails_the_session() {
    let certificate = Certificate::valid_for("127.0.0.1");
    for strictly in [true, false] {
        let smtp = server(&certificate).await;
        smtp.starttls().does([Action::Bytes(b"220 go ahead\r\n250 injected\r\n".to_vec())]);
        let sender = if strictly { strict(&smtp, &certificate) } else { sender(opportunistic(&smtp)) };
        let outcome = send_one(&sender).await;
        assert_eq!(outcome.verdict, Temporary);
        assert!(outcome.reply.text.contains("plain text after"), "{}", outcome.reply.text);
        assert_eq!(smtp.count("MAIL"), 0);
    }
}

#[tokio::test]
async fn opportunistic_tls_accepts_any_certificate() {
    let smtp = server(&Certificate::expired_for("other.test")).await;
    let outcome = send_one(&sender(opportunistic(&smtp))).await;
    assert_eq!(outcome.verdict, Accepted);
    assert!(smtp.messages()[0].tls && outcome.peer.tls.is_some());
}

#[tokio::test]
async fn opportunistic_tls_falls_back_to_plain_text() {
    let smtp = SmtpServer::start().await;
    assert_eq!(send_one(&sender(opportunistic(&smtp))).await.verdict, Accepted);

    let smtp = server(&Certificate::valid_for("127.0.0.1")).await;
    smtp.starttls().replies(["454 4.7.0 not now"]);
    assert_eq!(send_one(&sender(opportunistic(&smtp))).await.verdict, Accepted);
    assert_eq!(smtp.connections(), 1);

    // The server offers STARTTLS but does not implement it.
    let smtp = SmtpServer::start().await;
    smtp.offers(["STARTTLS"]);
    let outcome = send_one(&sender(opportunistic(&smtp))).await;
    assert_eq!((outcome.verdict, outcome.peer.tls), (Accepted, None));
    assert_eq!(smtp.connections(), 2);
}

#[tokio::test]
async fn a_server_that_closes_at_starttls_gets_no_plain_text() {
    let certificate = Certificate::valid_for("127.0.0.1");
    for strictly in [true, false] {
        let smtp = server(&certificate).await;
        smtp.starttls().does([Action::ReplyThenDrop("421 4.3.2 closing".into())]);
        let sender = if strictly { strict(&smtp, &certificate) } else { sender(opportunistic(&smtp)) };
        let outcome = send_one(&sender).await;
        assert_eq!((outcome.verdict, outcome.reply.code, smtp.connections()), (Temporary, Some(421), 1));
        assert_eq!(send_one(&sender).await.verdict, Accepted);
        assert!(smtp.messages()[0].tls);
    }
}

#[tokio::test]
async fn a_silent_handshake_times_out() {
    let smtp = SmtpServer::start().await;
    let _gate = smtp.greeting().stalls();
    let timeouts = Timeouts { tls: Duration::from_millis(100), ..Timeouts::default() };
    let url = format!("smtps://{}", smtp.address());
    let settings = Settings { relay: Some(url.parse().unwrap()), timeouts, ..Settings::default() };
    let outcome = send_one(&sender(settings)).await;
    assert_eq!(outcome.verdict, Temporary);
    assert!(outcome.reply.text.contains("TLS handshake failed: it took too long"), "{}", outcome.reply.text);
}

#[tokio::test]
async fn smtps_uses_tls_from_the_first_byte() {
    let certificate = Certificate::valid_for("127.0.0.1");
    let smtp = SmtpServer::start().await;
    smtp.implicit_tls_with(&certificate);
    let (ca_file, _dir) = certificate.as_ca_file();
    let url = format!("smtps://{}?ca_file={}", smtp.address(), ca_file.display());
    let sender = sender(Settings { relay: Some(url.parse().unwrap()), ..Settings::default() });
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert!(smtp.messages()[0].tls);
}

#[tokio::test]
async fn an_unusable_ca_file_is_a_setup_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    for content in [None, Some("no certificate")] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let url = format!("smtps://relay.test?ca_file={}", path.display());
        let created = Sender::new(Settings { relay: Some(url.parse().unwrap()), ..Settings::default() });
        assert!(created.expect_err("an error").to_string().contains("ca.pem"));
    }
}
