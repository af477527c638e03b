//! TLS modes that the configuration sets for recipient domains.

use postrider::domain::outcome::Outcome;
use postrider::domain::outcome::Verdict::{Accepted, Temporary};
use postrider::smtp::{MtaSts, Route, Sender, Settings, TlsMode};

use crate::support::certificate::Certificate;
use crate::support::dns::DnsServer;
use crate::support::sending::{MAIL, envelope, sender};
use crate::support::smtp::SmtpServer;

/// A sender with one server for every domain.
fn direct(smtp: &SmtpServer, dns: &DnsServer, modes: &[(&str, TlsMode)], sts: MtaSts) -> Sender {
    for domain in ["none.test", "any.test", "valid.test", "other.test"] {
        dns.mx(domain, 10, "mx.test");
    }
    dns.add_address("mx.test", "127.0.0.1");
    sender(Settings {
        dns: Some(dns.address()),
        mx_port: smtp.address().port(),
        mx_tls: modes.iter().map(|(domain, mode)| ((*domain).to_owned(), *mode)).collect(),
        allow_loopback_mx: true,
        mta_sts: MtaSts { enabled: false, ..sts },
        ..Settings::default()
    })
}

const MODES: [(&str, TlsMode); 3] =
    [("none.test", TlsMode::None), ("any.test", TlsMode::Required), ("valid.test", TlsMode::Verified)];

async fn send(sender: &Sender, domain: &str) -> Outcome {
    sender.send(&Route::Mx { domain: domain.into() }, &envelope(["ann@example.test"]), MAIL).await.remove(0)
}

#[tokio::test]
async fn an_untrusted_certificate_is_accepted_unless_verified() {
    let (smtp, dns) = (SmtpServer::start().await, DnsServer::start().await);
    smtp.starttls_with(&Certificate::valid_for("elsewhere.test"));
    let sender = direct(&smtp, &dns, &MODES, MtaSts::default());
    for (domain, verdict, tls) in [
        ("none.test", Accepted, false),
        ("any.test", Accepted, true),
        ("other.test", Accepted, true),
        ("valid.test", Temporary, false),
    ] {
        let outcome = send(&sender, domain).await;
        assert_eq!((outcome.verdict, outcome.peer.tls.is_some()), (verdict, tls), "{domain}: {:?}", outcome.reply);
    }
}

#[tokio::test]
async fn a_valid_certificate_names_the_server() {
    let (smtp, dns) = (SmtpServer::start().await, DnsServer::start().await);
    let certificate = Certificate::valid_for("mx.test");
    let (ca_file, _dir) = certificate.as_ca_file();
    smtp.starttls_with(&certificate);
    let sts = MtaSts { ca_file: Some(ca_file), ..MtaSts::default() };
    let outcome = send(&direct(&smtp, &dns, &MODES, sts), "valid.test").await;
    assert_eq!((outcome.verdict, outcome.peer.tls.is_some()), (Accepted, true), "{:?}", outcome.reply);
}

#[tokio::test]
async fn no_message_is_sent_without_required_tls() {
    let (smtp, dns) = (SmtpServer::start().await, DnsServer::start().await);
    let sender = direct(&smtp, &dns, &[("*", TlsMode::Required), ("none.test", TlsMode::None)], MtaSts::default());
    let outcome = send(&sender, "other.test").await;
    assert_eq!(outcome.verdict, Temporary);
    assert!(outcome.reply.text.contains("TLS is required"), "{:?}", outcome.reply);
    assert_eq!(send(&sender, "none.test").await.verdict, Accepted);
    assert_eq!(smtp.count("MAIL"), 1);
}
