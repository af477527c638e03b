//! A domain that publishes an MTA-STS policy (RFC 8461) gets messages only as the policy requires; otherwise they are
//! deferred.

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

/// `example.test` with its mail exchanger `mx.example.test`, which speaks TLS, and its policy's server.
struct World {
    dns: DnsServer,
    smtp: SmtpServer,
    https: PolicyServer,
    ca: Certificate,
    _dir: TempDir,
    settings: Settings,
}

const RECORD: &str = "_mta-sts.example.test";

async fn world() -> World {
    world_with(&Certificate::valid_for_all(&["mta-sts.example.test", "mx.example.test"])).await
}

/// `ca` is trusted, and used by both servers.
async fn world_with(ca: &Certificate) -> World {
    let (dns, smtp, https) = (DnsServer::start().await, SmtpServer::start().await, PolicyServer::start(ca).await);
    dns.mx("example.test", 10, "mx.example.test");
    for host in ["mx.example.test", "mta-sts.example.test"] {
        dns.has_address(host, "127.0.0.1");
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
    World { dns, smtp, https, ca: ca.clone(), _dir: dir, settings }
}

impl World {
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
async fn a_policy_that_is_kept_is_on_record() {
    let world = world().await;
    world.publishes("enforce", "*.example.test");
    let sender = world.sender();
    for _ in 0..2 {
        let outcome = send(&sender).await;
        assert_eq!(outcome.verdict, Accepted, "{}", outcome.reply.text);
        assert!(tls(&outcome).starts_with("TLSv1.3 ") && tls(&outcome).ends_with(" (MTA-STS enforce)"), "{outcome:?}");
    }
    assert_eq!(world.https.asked(), ["mta-sts.example.test"], "asked for once");
    assert_eq!(world.smtp.connections(), 1);
}

#[tokio::test]
async fn a_server_that_the_policy_does_not_name_gets_nothing() {
    let world = world().await;
    world.publishes("enforce", "mail.example.test");
    let outcome = send(&world.sender()).await;
    assert_eq!((outcome.verdict, outcome.peer.is_final), (Temporary, true));
    assert!(outcome.reply.text.contains("MTA-STS enforce") && outcome.reply.text.contains("mx.example.test"));
    assert_eq!(world.smtp.connections(), 0);
}

#[tokio::test]
async fn a_policy_server_without_a_final_response_is_left() {
    let mut world = world().await;
    world.https.stays_informational();
    world.settings.timeouts = Timeouts { policy: Duration::from_mins(5), ..Timeouts::default() };
    let outcome =
        tokio::time::timeout(Duration::from_secs(20), send(&world.sender())).await.expect("long before the limit");
    assert_eq!(outcome.verdict, Accepted, "as for a domain without a policy");
}

#[tokio::test]
async fn a_backup_that_the_policy_names_is_taken_instead() {
    let world = world().await;
    for index in 1..=6 {
        world.dns.mx("example.test", index, &format!("evil{index}.test"));
        world.dns.has_address(&format!("evil{index}.test"), "127.0.0.9");
    }
    world.publishes("enforce", "mx.example.test");
    assert_eq!(send(&world.sender()).await.peer.mx.as_deref(), Some("mx.example.test"));
}

#[tokio::test]
async fn a_server_with_a_bad_certificate_gets_nothing() {
    let named = ["mta-sts.example.test", "mx.example.test"];
    let misnamed = Certificate::valid_for("mta-sts.example.test");
    for (trusted, shown) in [
        (Certificate::valid_for_all(&named), Certificate::valid_for("mx.example.test")),
        (Certificate::valid_for_all(&named), Certificate::expired_for("mx.example.test")),
        (misnamed.clone(), misnamed),
    ] {
        let world = world_with(&trusted).await;
        world.smtp.starttls_with(&shown);
        world.publishes("enforce", "mx.example.test");
        let outcome = send(&world.sender()).await;
        assert_eq!((outcome.verdict, world.smtp.count("MAIL")), (Temporary, 0));
        let text = outcome.reply.text;
        assert!(text.starts_with("MTA-STS enforce: ") && text.contains("certificate"), "{text}");
    }
}

#[tokio::test]
async fn stripped_tls_stops_mail_under_an_enforced_policy() {
    let world = world().await;
    world.smtp.offers(["PIPELINING"]);
    world.publishes("enforce", "mx.example.test");
    let outcome = send(&world.sender()).await;
    assert_eq!((outcome.verdict, world.smtp.count("MAIL")), (Temporary, 0));
    assert!(outcome.reply.text.starts_with("MTA-STS enforce: TLS is required"), "{}", outcome.reply.text);
}

#[tokio::test]
async fn a_policy_in_testing_stops_nothing_and_tells_everything() {
    let world = world().await;
    world.publishes("testing", "mail.example.test");
    let outcome = send(&world.sender()).await;
    assert_eq!(outcome.verdict, Accepted);
    assert!(tls(&outcome).ends_with("(MTA-STS testing: the host is not in the policy)"), "{outcome:?}");

    world.publishes("testing", "mx.example.test");
    let outcome = send(&world.sender()).await;
    assert!(!tls(&outcome).contains("certificate") && tls(&outcome).ends_with(" (MTA-STS testing)"), "{outcome:?}");

    world.smtp.starttls_with(&Certificate::valid_for("other.test"));
    let outcome = send(&world.sender()).await;
    assert!(tls(&outcome).contains("certificate") && tls(&outcome).ends_with(" (MTA-STS testing)"), "{outcome:?}");

    let names: Vec<String> = (0..500).map(|index| format!("host{index}.other.test")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.smtp.starttls_with(&Certificate::valid_for_all(&names));
    let outcome = send(&world.sender()).await;
    assert!(tls(&outcome).contains("certificate") && tls(&outcome).len() < 300, "{outcome:?}");

    world.smtp.offers([]);
    let outcome = send(&world.sender()).await;
    assert_eq!((outcome.verdict, &outcome.peer.tls), (Accepted, &None));
    assert!(outcome.reply.text.ends_with("(MTA-STS testing: there was no TLS)"), "{outcome:?}");
}

#[tokio::test]
async fn without_a_policy_mail_goes_as_ever() {
    for (what, answer) in [
        ("no such page", ("404 Not Found", "Content-Type: text/plain", "version: STSv1\nmode: enforce\n")),
        ("a redirect", ("302 Found", "Location: https://mta-sts.example.test/x\r\nContent-Type: text/plain", "")),
        ("a parked domain", ("200 OK", "Content-Type: text/html", "version: STSv1\nmode: enforce\n")),
        ("no policy", ("200 OK", "Content-Type: text/plain", "hello")),
    ] {
        let world = world().await;
        world.smtp.starttls_with(&Certificate::valid_for("other.test"));
        world.https.answers(answer.0, answer.1, answer.2);
        let outcome = send(&world.sender()).await;
        assert_eq!((outcome.verdict, world.https.asked().len()), (Accepted, 1), "{what}");
        assert!(!tls(&outcome).contains("MTA-STS"), "{what}");
    }
}

#[tokio::test]
async fn a_domain_that_takes_its_policy_back_has_none() {
    let world = world().await;
    world.publishes("none", "mail.example.test");
    let outcome = send(&world.sender()).await;
    assert!(outcome.verdict == Accepted && !tls(&outcome).contains("MTA-STS"), "{outcome:?}");
}

#[tokio::test]
async fn a_text_without_end_and_a_server_without_words_are_given_up() {
    let world = world().await;
    world.https.publishes(&format!("version: STSv1\nmode: enforce\n{}", "x: y\n".repeat(20_000)));
    assert_eq!(send(&world.sender()).await.verdict, Accepted);

    world.https.falls_silent();
    let timeouts = Timeouts { policy: Duration::from_millis(100), ..Timeouts::default() };
    let sender = sender(Settings { timeouts, ..world.settings.clone() });
    assert_eq!(send(&sender).await.verdict, Accepted);
    assert_eq!(world.https.asked().len(), 2);
}

#[tokio::test]
async fn a_policy_from_a_server_that_is_not_who_it_says_is_none() {
    let world = world_with(&Certificate::valid_for("mx.example.test")).await;
    world.publishes("enforce", "mail.example.test");
    assert_eq!(send(&world.sender()).await.verdict, Accepted);
    assert!(world.https.asked().is_empty());
}

#[tokio::test]
async fn a_policy_is_not_fetched_from_within_our_network() {
    let world = world().await;
    world.publishes("enforce", "mail.example.test");
    let sender = sender(Settings { allow_loopback_mx: false, ..world.settings.clone() });
    // The mail exchanger does not work either; this test checks that no policy was fetched.
    send(&sender).await;
    assert!(world.https.asked().is_empty());
}

#[tokio::test]
async fn a_remembered_policy_outlives_a_failure_to_see_it() {
    let world = world().await;
    world.publishes("enforce", "mx.example.test");
    let sender = world.sender();
    assert_eq!(send(&sender).await.verdict, Accepted);
    let enforced = async |what: &str| {
        let outcome = send(&sender).await;
        assert!(tls(&outcome).contains("MTA-STS enforce"), "{what}: {outcome:?}");
    };
    world.https.answers("500 Internal Server Error", "Content-Type: text/plain", "");
    world.dns.txt(RECORD, ["v=STSv1; id=2;"]);
    enforced("a new edition that cannot be had").await;
    world.https.was_asked(2).await;
    enforced("nor is it asked for again at once").await;
    assert_eq!(world.https.asked().len(), 2);
    world.dns.txt(RECORD, []);
    enforced("no record").await;
    world.dns.txt(RECORD, ["v=STSv1; id=3;", "v=STSv1; id=4;"]);
    enforced("two records").await;
    world.dns.servfail(RECORD);
    enforced("no answer").await;
    enforced("after no answer").await;
}

#[tokio::test]
async fn a_slow_server_of_policies_slows_no_mail_that_has_one() {
    let world = world().await;
    world.publishes("enforce", "mx.example.test");
    let timeouts = Timeouts { policy: Duration::from_hours(1), ..Timeouts::default() };
    let sender = sender(Settings { timeouts, ..world.settings.clone() });
    assert_eq!(send(&sender).await.verdict, Accepted);
    world.https.falls_silent();
    world.dns.txt(RECORD, ["v=STSv1; id=2;"]);
    for _ in 0..2 {
        let sent = tokio::time::timeout(Duration::from_secs(20), send(&sender)).await.expect("it waits for the policy");
        assert!(sent.verdict == Accepted && tls(&sent).contains("MTA-STS enforce"), "{sent:?}");
    }
    world.https.was_asked(2).await;
}

#[tokio::test]
async fn a_new_edition_is_fetched() {
    let world = world().await;
    world.publishes("enforce", "mail.example.test");
    let sender = world.sender();
    assert_eq!(send(&sender).await.verdict, Temporary);
    world.publishes("enforce", "mx.example.test");
    assert_eq!(send(&sender).await.verdict, Temporary, "the old edition holds");
    world.dns.txt(RECORD, ["v=STSv1; id=2;"]);
    // It is fetched while a message is sent by the old one.
    send(&sender).await;
    world.https.was_asked(2).await;
    let until_accepted = async {
        while send(&sender).await.verdict != Accepted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), until_accepted).await.expect("the new edition never holds");
}

#[tokio::test]
async fn many_mails_at_once_fetch_it_once() {
    let world = world().await;
    world.publishes("enforce", "mx.example.test");
    let sender = world.sender();
    let outcomes = join_all((0..20).map(|_| send(&sender))).await;
    assert!(outcomes.iter().all(|outcome| outcome.verdict == Accepted));
    assert_eq!(world.https.asked().len(), 1);
}

#[tokio::test]
async fn session_without_policy_is_not_reused_for_a_domain_with_one() {
    let world = world().await;
    world.publishes("enforce", "mx.example.test");
    world.dns.mx("plain.test", 10, "mx.example.test");
    world.smtp.starttls_with(&Certificate::valid_for("other.test"));
    let sender = world.sender();
    let route = Route::Mx { domain: "plain.test".into() };
    assert_eq!(sender.send(&route, &envelope(["ann@plain.test"]), MAIL).await[0].verdict, Accepted);
    assert_eq!(send(&sender).await.verdict, Temporary);
    world.smtp.starttls_with(&world.ca);
    assert_eq!(send(&sender).await.verdict, Accepted);
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let world = world().await;
    world.publishes("enforce", "mail.example.test");
    let mta_sts = MtaSts { enabled: false, ..world.settings.mta_sts.clone() };
    let sender = sender(Settings { mta_sts, ..world.settings.clone() });
    assert_eq!(send(&sender).await.verdict, Accepted);
    assert!(world.https.asked().is_empty());
}
