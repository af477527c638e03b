//! A domain with an MTA-STS policy (RFC 8461) in mode `enforce` gets messages only as the policy requires; otherwise
//! they are deferred. Other modes stop no message.

use std::time::Duration;

use futures_util::future::join_all;
use postrider::domain::outcome::Outcome;
use postrider::domain::outcome::Verdict::{Accepted, Temporary};
use postrider::smtp::{MtaSts, Route, Sender, Settings, Timeouts};
use tempfile::TempDir;

use crate::support::certificate::Certificate;
use crate::support::dns::DnsServer;
use crate::support::policy::PolicyServer;
use crate::support::sending::{MAIL, envelope, sender};
use crate::support::smtp::SmtpServer;

/// `example.test` with its mail exchanger `mx.example.test`, which offers TLS, and its policy server.
struct Setup {
    dns: DnsServer,
    smtp: SmtpServer,
    https: PolicyServer,
    ca: Certificate,
    _dir: TempDir,
    settings: Settings,
}

const RECORD: &str = "_mta-sts.example.test";

async fn setup() -> Setup {
    setup_with(&Certificate::valid_for_all(&["mta-sts.example.test", "mx.example.test"])).await
}

/// Both servers use the certificate `ca`, which the sender trusts.
async fn setup_with(ca: &Certificate) -> Setup {
    let (dns, smtp, https) = (DnsServer::start().await, SmtpServer::start().await, PolicyServer::start(ca).await);
    dns.mx("example.test", 10, "mx.example.test");
    for host in ["mx.example.test", "mta-sts.example.test"] {
        dns.add_address(host, "127.0.0.1");
    }
    dns.txt(RECORD, ["v=STSv1; id=1;"]);
    smtp.starttls_with(ca);
    let (ca_file, dir) = ca.as_ca_file();
    let mta_sts = MtaSts { port: https.port(), period: Duration::ZERO, ca_file: Some(ca_file), ..MtaSts::default() };
    let settings = Settings {
        dns: Some(dns.address()),
        mx_port: smtp.address().port(),
        allow_loopback_mx: true,
        mta_sts,
        ..Settings::default()
    };
    Setup { dns, smtp, https, ca: ca.clone(), _dir: dir, settings }
}

impl Setup {
    fn sender(&self) -> Sender {
        sender(self.settings.clone())
    }

    fn publishes(&self, mode: &str, mx: &str) {
        self.https.publishes(&format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n"));
    }
}

async fn send(sender: &Sender) -> Outcome {
    let route = Route::Mx { domain: "example.test".into() };
    sender.send(&route, &envelope(["ann@example.test"]), MAIL).await.remove(0)
}

fn tls(outcome: &Outcome) -> &str {
    outcome.peer.tls.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn a_policy_that_is_met_is_reported_in_the_attempt() {
    let setup = setup().await;
    setup.publishes("enforce", "*.example.test");
    let sender = setup.sender();
    for _ in 0..2 {
        let outcome = send(&sender).await;
        assert_eq!(outcome.verdict, Accepted, "{}", outcome.reply.text);
        assert!(tls(&outcome).starts_with("TLSv1.3 ") && tls(&outcome).ends_with(" (MTA-STS enforce)"), "{outcome:?}");
    }
    assert_eq!(setup.https.requested_hosts(), ["mta-sts.example.test"], "one fetch");
    assert_eq!(setup.smtp.connections(), 1);
}

#[tokio::test]
async fn no_message_is_sent_to_a_server_outside_the_policy() {
    let setup = setup().await;
    setup.publishes("enforce", "mail.example.test");
    let outcome = send(&setup.sender()).await;
    assert_eq!((outcome.verdict, outcome.peer.is_final), (Temporary, true));
    assert!(outcome.reply.text.contains("MTA-STS enforce") && outcome.reply.text.contains("mx.example.test"));
    assert_eq!(setup.smtp.connections(), 0);
}

#[tokio::test]
async fn a_policy_server_without_a_final_response_is_abandoned() {
    let mut setup = setup().await;
    setup.https.respond_informational_endlessly();
    setup.settings.timeouts = Timeouts { policy: Duration::from_mins(5), ..Timeouts::default() };
    let outcome =
        tokio::time::timeout(Duration::from_secs(20), send(&setup.sender())).await.expect("long before the limit");
    assert_eq!(outcome.verdict, Accepted, "as for a domain without a policy");
}

#[tokio::test]
async fn a_less_preferred_server_in_the_policy_is_used() {
    let setup = setup().await;
    for index in 1..=6 {
        setup.dns.mx("example.test", index, &format!("evil{index}.test"));
        setup.dns.add_address(&format!("evil{index}.test"), "127.0.0.9");
    }
    setup.publishes("enforce", "mx.example.test");
    assert_eq!(send(&setup.sender()).await.peer.mx.as_deref(), Some("mx.example.test"));
}

#[tokio::test]
async fn no_message_is_sent_to_a_server_with_a_bad_certificate() {
    let named = ["mta-sts.example.test", "mx.example.test"];
    let misnamed = Certificate::valid_for("mta-sts.example.test");
    for (trusted, presented) in [
        (Certificate::valid_for_all(&named), Certificate::valid_for("mx.example.test")),
        (Certificate::valid_for_all(&named), Certificate::expired_for("mx.example.test")),
        (misnamed.clone(), misnamed),
    ] {
        let setup = setup_with(&trusted).await;
        setup.smtp.starttls_with(&presented);
        setup.publishes("enforce", "mx.example.test");
        let outcome = send(&setup.sender()).await;
        assert_eq!((outcome.verdict, setup.smtp.count("MAIL")), (Temporary, 0));
        let text = outcome.reply.text;
        assert!(text.starts_with("MTA-STS enforce: ") && text.contains("certificate"), "{text}");
    }
}

#[tokio::test]
async fn stripped_tls_defers_messages_under_an_enforced_policy() {
    let setup = setup().await;
    setup.smtp.offers(["PIPELINING"]);
    setup.publishes("enforce", "mx.example.test");
    let outcome = send(&setup.sender()).await;
    assert_eq!((outcome.verdict, setup.smtp.count("MAIL")), (Temporary, 0));
    assert!(outcome.reply.text.starts_with("MTA-STS enforce: TLS is required"), "{}", outcome.reply.text);
}

#[tokio::test]
async fn a_testing_policy_reports_violations_and_stops_nothing() {
    let setup = setup().await;
    setup.publishes("testing", "mail.example.test");
    let outcome = send(&setup.sender()).await;
    assert_eq!(outcome.verdict, Accepted);
    assert!(tls(&outcome).ends_with("(MTA-STS testing: the host is not in the policy)"), "{outcome:?}");

    setup.publishes("testing", "mx.example.test");
    let outcome = send(&setup.sender()).await;
    assert!(!tls(&outcome).contains("certificate") && tls(&outcome).ends_with(" (MTA-STS testing)"), "{outcome:?}");

    setup.smtp.starttls_with(&Certificate::valid_for("other.test"));
    let outcome = send(&setup.sender()).await;
    assert!(tls(&outcome).contains("certificate") && tls(&outcome).ends_with(" (MTA-STS testing)"), "{outcome:?}");

    let names: Vec<String> = (0..500).map(|index| format!("host{index}.other.test")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    setup.smtp.starttls_with(&Certificate::valid_for_all(&names));
    let outcome = send(&setup.sender()).await;
    assert!(tls(&outcome).contains("certificate") && tls(&outcome).len() < 300, "{outcome:?}");

    setup.smtp.offers([]);
    let outcome = send(&setup.sender()).await;
    assert_eq!((outcome.verdict, &outcome.peer.tls), (Accepted, &None));
    assert!(outcome.reply.text.ends_with("(MTA-STS testing: there was no TLS)"), "{outcome:?}");
}

#[tokio::test]
async fn a_failed_policy_fetch_does_not_stop_messages() {
    for (what, response) in [
        ("no such page", ("404 Not Found", "Content-Type: text/plain", "version: STSv1\nmode: enforce\n")),
        ("a redirect", ("302 Found", "Location: https://mta-sts.example.test/x\r\nContent-Type: text/plain", "")),
        ("a parked domain", ("200 OK", "Content-Type: text/html", "version: STSv1\nmode: enforce\n")),
        ("no policy", ("200 OK", "Content-Type: text/plain", "hello")),
    ] {
        let setup = setup().await;
        setup.smtp.starttls_with(&Certificate::valid_for("other.test"));
        setup.https.respond(response.0, response.1, response.2);
        let outcome = send(&setup.sender()).await;
        assert_eq!((outcome.verdict, setup.https.requested_hosts().len()), (Accepted, 1), "{what}");
        assert!(!tls(&outcome).contains("MTA-STS"), "{what}");
    }
}

#[tokio::test]
async fn a_policy_with_mode_none_is_not_applied() {
    let setup = setup().await;
    setup.publishes("none", "mail.example.test");
    let outcome = send(&setup.sender()).await;
    assert!(outcome.verdict == Accepted && !tls(&outcome).contains("MTA-STS"), "{outcome:?}");
}

#[tokio::test]
async fn an_oversized_policy_and_a_silent_server_are_abandoned() {
    let setup = setup().await;
    setup.https.publishes(&format!("version: STSv1\nmode: enforce\n{}", "x: y\n".repeat(20_000)));
    assert_eq!(send(&setup.sender()).await.verdict, Accepted);

    setup.https.stop_responding();
    let timeouts = Timeouts { policy: Duration::from_millis(100), ..Timeouts::default() };
    let sender = sender(Settings { timeouts, ..setup.settings.clone() });
    assert_eq!(send(&sender).await.verdict, Accepted);
    assert_eq!(setup.https.requested_hosts().len(), 2);
}

#[tokio::test]
async fn a_policy_server_with_a_wrong_certificate_is_ignored() {
    let setup = setup_with(&Certificate::valid_for("mx.example.test")).await;
    setup.publishes("enforce", "mail.example.test");
    assert_eq!(send(&setup.sender()).await.verdict, Accepted);
    assert!(setup.https.requested_hosts().is_empty());
}

#[tokio::test]
async fn a_policy_is_not_fetched_from_a_private_address() {
    let setup = setup().await;
    setup.publishes("enforce", "mail.example.test");
    let sender = sender(Settings { allow_loopback_mx: false, ..setup.settings.clone() });
    // The mail exchanger cannot be used either; this test only checks that no policy was fetched.
    send(&sender).await;
    assert!(setup.https.requested_hosts().is_empty());
}

#[tokio::test]
async fn a_cached_policy_stays_in_force_when_lookups_fail() {
    let setup = setup().await;
    setup.publishes("enforce", "mx.example.test");
    let sender = setup.sender();
    assert_eq!(send(&sender).await.verdict, Accepted);
    let enforced = async |what: &str| {
        let outcome = send(&sender).await;
        assert!(tls(&outcome).contains("MTA-STS enforce"), "{what}: {outcome:?}");
    };
    setup.https.respond("500 Internal Server Error", "Content-Type: text/plain", "");
    setup.dns.txt(RECORD, ["v=STSv1; id=2;"]);
    enforced("a new policy that cannot be fetched").await;
    setup.https.wait_for_requests(2).await;
    enforced("the failed fetch is not repeated at once").await;
    assert_eq!(setup.https.requested_hosts().len(), 2);
    setup.dns.txt(RECORD, []);
    enforced("no record").await;
    setup.dns.txt(RECORD, ["v=STSv1; id=3;", "v=STSv1; id=4;"]);
    enforced("two records").await;
    setup.dns.servfail(RECORD);
    enforced("a failed DNS query").await;
    enforced("after a failed DNS query").await;
}

#[tokio::test]
async fn a_slow_policy_server_does_not_delay_a_cached_policy() {
    let setup = setup().await;
    setup.publishes("enforce", "mx.example.test");
    let timeouts = Timeouts { policy: Duration::from_hours(1), ..Timeouts::default() };
    let sender = sender(Settings { timeouts, ..setup.settings.clone() });
    assert_eq!(send(&sender).await.verdict, Accepted);
    setup.https.stop_responding();
    setup.dns.txt(RECORD, ["v=STSv1; id=2;"]);
    for _ in 0..2 {
        let sent = tokio::time::timeout(Duration::from_secs(20), send(&sender))
            .await
            .expect("the message waits for the policy");
        assert!(sent.verdict == Accepted && tls(&sent).contains("MTA-STS enforce"), "{sent:?}");
    }
    setup.https.wait_for_requests(2).await;
}

#[tokio::test]
async fn a_policy_with_a_new_id_is_fetched() {
    let setup = setup().await;
    setup.publishes("enforce", "mail.example.test");
    let sender = setup.sender();
    assert_eq!(send(&sender).await.verdict, Temporary);
    setup.publishes("enforce", "mx.example.test");
    assert_eq!(send(&sender).await.verdict, Temporary, "the old policy is in force");
    setup.dns.txt(RECORD, ["v=STSv1; id=2;"]);
    // The new policy is fetched while a message is sent under the old one.
    send(&sender).await;
    setup.https.wait_for_requests(2).await;
    let until_accepted = async {
        while send(&sender).await.verdict != Accepted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), until_accepted).await.expect("the new policy is never applied");
}

#[tokio::test]
async fn concurrent_messages_fetch_the_policy_once() {
    let setup = setup().await;
    setup.publishes("enforce", "mx.example.test");
    let sender = setup.sender();
    let outcomes = join_all((0..20).map(|_| send(&sender))).await;
    assert!(outcomes.iter().all(|outcome| outcome.verdict == Accepted));
    assert_eq!(setup.https.requested_hosts().len(), 1);
}

#[tokio::test]
async fn session_without_policy_is_not_reused_for_a_domain_with_one() {
    let setup = setup().await;
    setup.publishes("enforce", "mx.example.test");
    setup.dns.mx("plain.test", 10, "mx.example.test");
    setup.smtp.starttls_with(&Certificate::valid_for("other.test"));
    let sender = setup.sender();
    let route = Route::Mx { domain: "plain.test".into() };
    assert_eq!(sender.send(&route, &envelope(["ann@plain.test"]), MAIL).await[0].verdict, Accepted);
    assert_eq!(send(&sender).await.verdict, Temporary);
    setup.smtp.starttls_with(&setup.ca);
    assert_eq!(send(&sender).await.verdict, Accepted);
}

#[tokio::test]
async fn mta_sts_can_be_disabled() {
    let setup = setup().await;
    setup.publishes("enforce", "mail.example.test");
    let mta_sts = MtaSts { enabled: false, ..setup.settings.mta_sts.clone() };
    let sender = sender(Settings { mta_sts, ..setup.settings.clone() });
    assert_eq!(send(&sender).await.verdict, Accepted);
    assert!(setup.https.requested_hosts().is_empty());
}
