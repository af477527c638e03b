//! Direct delivery to the mail exchangers of recipient domains.

use std::time::Duration;

use postrider::domain::network::Allowed;
use postrider::domain::outcome::Outcome;
use postrider::domain::outcome::Verdict::{Accepted, Permanent, Temporary};
use postrider::smtp::{Route, Sender, Settings, Timeouts};

use crate::support::dns::DnsServer;
use crate::support::sending::{MAIL, envelope, send_one, sender};
use crate::support::smtp::{Action, SmtpServer, three};

/// Settings with the mail exchangers on this machine, at the port of `smtp`.
fn direct(dns: &DnsServer, smtp: &SmtpServer) -> Settings {
    Settings {
        dns: Some(dns.address()),
        mx_port: smtp.address().port(),
        allow_loopback_mx: true,
        ..Settings::default()
    }
}

async fn send(sender: &Sender, domain: &str) -> Outcome {
    let route = Route::Mx { domain: domain.into() };
    sender.send(&route, &envelope(["ann@example.test"]), MAIL).await.remove(0)
}

fn enhanced(outcome: &Outcome) -> String {
    outcome.reply.enhanced.map(|code| code.to_string()).unwrap_or_default()
}

#[tokio::test]
async fn the_lowest_preference_is_tried_first() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    dns.mx("example.test", 20, "backup.test");
    dns.mx("example.test", 10, "mx.test");
    dns.add_address("mx.test", "127.0.0.1");
    dns.add_address("backup.test", "127.0.0.9");
    let outcome = send(&sender(direct(&dns, &smtp)), "example.test").await;

    assert_eq!(outcome.verdict, Accepted);
    assert_eq!((outcome.peer.mx.as_deref(), outcome.peer.is_final), (Some("mx.test"), true));
    assert_eq!(outcome.peer.ip, Some("127.0.0.1".parse().unwrap()));
}

#[tokio::test]
async fn next_server_is_used_if_the_first_fails_or_refuses() {
    let dns = DnsServer::start().await;
    let [first, second, third] = three().await;
    for (preference, host, ip) in
        [(1, "a.test", "127.0.0.9"), (2, "b.test", "127.0.0.1"), (3, "c.test", "127.0.0.2"), (4, "d.test", "127.0.0.3")]
    {
        dns.mx("example.test", preference, host);
        dns.add_address(host, ip);
    }
    first.greeting().replies(["451 4.3.2 overloaded"]);
    second.greeting().replies(["554 5.7.1 not you"]);
    let outcome = send(&sender(direct(&dns, &first)), "example.test").await;

    assert_eq!((outcome.verdict, outcome.peer.mx.as_deref()), (Accepted, Some("d.test")));
    assert_eq!((first.connections(), second.connections(), third.messages().len()), (1, 1, 1));
}

/// A domain with two servers, and a sender.
async fn two(dns: &DnsServer) -> (SmtpServer, SmtpServer, Sender) {
    let [first, second, _] = three().await;
    for (preference, host, ip) in [(1, "a.test", "127.0.0.1"), (2, "b.test", "127.0.0.2")] {
        dns.mx("example.test", preference, host);
        dns.add_address(host, ip);
    }
    let sender = sender(direct(dns, &first));
    (first, second, sender)
}

#[tokio::test]
async fn next_server_is_used_if_the_first_defers_the_message() {
    for reply in ["421 4.3.2 closing", "452 4.3.1 insufficient storage"] {
        let dns = DnsServer::start().await;
        let (first, second, sender) = two(&dns).await;
        first.mail().replies([reply]);
        assert_eq!(send(&sender, "example.test").await.peer.mx.as_deref(), Some("b.test"), "{reply}");
        assert_eq!((first.count("MAIL"), second.messages().len()), (1, 1));
    }
}

#[tokio::test]
async fn an_unreachable_server_is_not_tried_first_again() {
    let dns = DnsServer::start().await;
    let (first, second, sender) = two(&dns).await;
    first.greeting().does([Action::Drop, Action::Drop, Action::Drop]);
    for _ in 0..3 {
        assert_eq!(send(&sender, "example.test").await.verdict, Accepted);
    }
    assert_eq!((first.connections(), second.messages().len()), (1, 3));
}

#[tokio::test]
async fn no_other_server_is_tried_after_a_reply_to_rcpt() {
    let dns = DnsServer::start().await;
    let [first, second, _third] = three().await;
    dns.mx("example.test", 1, "a.test");
    dns.mx("example.test", 2, "b.test");
    dns.add_address("a.test", "127.0.0.1");
    dns.add_address("b.test", "127.0.0.2");
    first.rcpt("ann@example.test").replies(["451 4.7.1 greylisted"]);
    assert_eq!(send(&sender(direct(&dns, &first)), "example.test").await.verdict, Temporary);
    assert_eq!(second.connections(), 0);
}

#[tokio::test]
async fn at_most_five_addresses_are_tried() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    for index in 1..=6 {
        let host = format!("mx{index}.test");
        dns.mx("example.test", index, &host);
        dns.add_address(&host, if index == 6 { "127.0.0.1" } else { "127.0.0.9" });
    }
    let outcome = send(&sender(direct(&dns, &smtp)), "example.test").await;
    assert_eq!((outcome.verdict, smtp.connections()), (Temporary, 0));
    assert!(outcome.reply.text.contains("could not connect"));
}

#[tokio::test]
async fn a_domain_without_mx_uses_its_own_addresses() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    dns.add_address("example.test", "127.0.0.1");
    dns.cname("alias.test", "example.test");
    let sender = sender(direct(&dns, &smtp));
    for domain in ["example.test", "alias.test"] {
        assert_eq!(send(&sender, domain).await.verdict, Accepted, "{domain}");
    }
}

#[tokio::test]
async fn an_alias_leads_to_the_mail_exchangers_of_its_target() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    dns.cname("alias.test", "example.test");
    dns.mx("example.test", 10, "mx.test");
    dns.add_address("mx.test", "127.0.0.1");
    assert_eq!(send(&sender(direct(&dns, &smtp)), "alias.test").await.peer.mx.as_deref(), Some("mx.test"));
}

#[tokio::test]
async fn a_mail_exchanger_may_be_an_alias() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    dns.mx("example.test", 10, "mx.test");
    dns.cname("mx.test", "real.test");
    dns.add_address("real.test", "127.0.0.1");
    let outcome = send(&sender(direct(&dns, &smtp)), "example.test").await;
    assert_eq!((outcome.verdict, outcome.peer.mx.as_deref()), (Accepted, Some("mx.test")));
}

#[tokio::test]
async fn a_mail_exchanger_with_an_alias_loop_is_temporary() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    dns.mx("example.test", 10, "a.test");
    dns.cname("a.test", "b.test");
    dns.cname("b.test", "a.test");
    assert_eq!(send(&sender(direct(&dns, &smtp)), "example.test").await.verdict, Temporary);
}

#[tokio::test]
async fn a_server_with_only_an_ipv6_address_is_tried() {
    let dns = DnsServer::start().await;
    let smtp = SmtpServer::start().await;
    dns.mx("example.test", 10, "mx.test");
    dns.add_address("mx.test", "::1");
    dns.add_address("implicit.test", "::1");
    let sender = sender(direct(&dns, &smtp));
    for domain in ["example.test", "implicit.test"] {
        // No server listens there; without IPv6 there is no connection at all.
        let outcome = send(&sender, domain).await;
        assert_eq!((outcome.verdict, outcome.peer.ip), (Temporary, Some("::1".parse().unwrap())), "{domain}");
    }
}

#[tokio::test]
async fn domains_that_accept_no_messages_are_permanent() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    dns.null_mx("null.test");
    dns.empty("empty.test");
    let sender = sender(direct(&dns, &smtp));
    for (domain, code) in
        [("null.test", "5.1.10"), ("nowhere.test", "5.1.2"), ("empty.test", "5.1.2"), ("[nonsense]", "5.1.2")]
    {
        let outcome = send(&sender, domain).await;
        assert_eq!((outcome.verdict, enhanced(&outcome).as_str()), (Permanent, code), "{domain}");
        assert!(outcome.peer.is_final);
    }
}

#[tokio::test]
async fn a_failed_dns_query_is_temporary() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    dns.servfail("broken.test");
    dns.refuses("refused.test");
    dns.silent("silent.test");
    dns.mx("half.test", 10, "broken.test");
    dns.mx("lost.test", 10, "nowhere.test");
    // The domain may have an IPv6 address.
    dns.servfail_for_ipv6("half-known.test");
    let timeouts = Timeouts { dns: Duration::from_millis(300), ..Timeouts::default() };
    let sender = sender(Settings { timeouts, ..direct(&dns, &smtp) });
    for domain in ["broken.test", "refused.test", "silent.test", "half.test", "lost.test", "half-known.test"] {
        let outcome = send(&sender, domain).await;
        assert_eq!((outcome.verdict, enhanced(&outcome).as_str()), (Temporary, "4.4.3"), "{domain}");
    }
}

#[tokio::test]
async fn an_address_literal_is_connected_to_directly() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    assert_eq!(send(&sender(direct(&dns, &smtp)), "[127.0.0.1]").await.verdict, Accepted);
}

#[tokio::test]
async fn this_machine_is_refused_as_a_mail_exchanger() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    dns.mx("example.test", 10, "mx.test");
    dns.add_address("mx.test", "127.0.0.1");
    let sender = sender(Settings { allow_loopback_mx: false, ..direct(&dns, &smtp) });
    for (domain, verdict) in [("example.test", Temporary), ("[127.0.0.1]", Permanent), ("[IPv6:::1]", Permanent)] {
        assert_eq!(send(&sender, domain).await.verdict, verdict, "{domain}");
    }
    assert_eq!(smtp.connections(), 0);
}

#[tokio::test]
async fn private_hosts_are_refused_as_mail_exchangers() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    let sender = sender(Settings { allow_loopback_mx: false, ..direct(&dns, &smtp) });
    for (index, ip) in ["10.0.0.1", "172.17.0.1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fd00::1"]
        .iter()
        .enumerate()
    {
        let (domain, host) = (format!("x{index}.test"), format!("mx{index}.test"));
        dns.mx(&domain, 10, &host);
        dns.add_address(&host, ip);
        dns.add_address(&format!("own{index}.test"), ip);
        for domain in [domain, format!("own{index}.test")] {
            let outcome = send(&sender, &domain).await;
            assert_eq!((outcome.verdict, enhanced(&outcome).as_str()), (Temporary, "4.4.6"), "{domain}");
            assert!(outcome.reply.text.contains("can permit that"), "{}", outcome.reply.text);
        }
        let literal = if ip.contains(':') { format!("[IPv6:{ip}]") } else { format!("[{ip}]") };
        let outcome = send(&sender, &literal).await;
        assert_eq!((outcome.verdict, enhanced(&outcome).as_str()), (Permanent, "5.7.1"), "{literal}");
    }
    assert_eq!(send(&sender, "[1.1.1.1]").await.verdict, Permanent, "a public literal is refused too");
    assert_eq!(smtp.connections(), 0);
}

#[tokio::test]
async fn an_allowed_private_host_gets_messages() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    dns.mx("example.test", 10, "mx.test");
    dns.add_address("mx.test", "127.0.0.1");
    for rule in ["127.0.0.0/8", "127.0.0.1"] {
        let allow_private_mx = Allowed { private: false, rules: vec![rule.parse().unwrap()], this_machine_only: false };
        let sender = sender(Settings { allow_loopback_mx: false, allow_private_mx, ..direct(&dns, &smtp) });
        for domain in ["example.test", "[127.0.0.1]"] {
            assert_eq!(send(&sender, domain).await.verdict, Accepted, "{rule} {domain}");
        }
    }
    let allow_private_mx = Allowed { private: true, rules: vec!["mx.test".parse().unwrap()], this_machine_only: false };
    let sender = sender(Settings { allow_loopback_mx: false, allow_private_mx, ..direct(&dns, &smtp) });
    assert_eq!(send(&sender, "example.test").await.verdict, Accepted, "by name");
    assert_eq!(send(&sender, "[127.0.0.1]").await.verdict, Permanent, "private networks are not this machine");
}

#[tokio::test]
async fn a_public_server_is_used_if_another_is_private() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    dns.mx("example.test", 10, "a.test");
    dns.mx("example.test", 20, "b.test");
    dns.add_address("a.test", "10.0.0.1");
    dns.add_address("b.test", "127.0.0.1");
    assert_eq!(send(&sender(direct(&dns, &smtp)), "example.test").await.peer.mx.as_deref(), Some("b.test"));
}

#[tokio::test]
async fn an_mx_record_with_an_address_is_reported() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    dns.mx("example.test", 10, "192.0.2.1");
    let sender = sender(direct(&dns, &smtp));
    let outcome = send(&sender, "example.test").await;
    assert_eq!(outcome.verdict, Temporary);
    assert!(outcome.reply.text.contains("its MX record names the address 192.0.2.1"), "{}", outcome.reply.text);
    dns.mx("example.test", 20, "mx.test");
    dns.add_address("mx.test", "127.0.0.1");
    let sender = crate::support::sending::sender(direct(&dns, &smtp));
    assert_eq!(send(&sender, "example.test").await.verdict, Accepted, "the other mail exchangers are used");
}

#[tokio::test]
async fn dns_errors_are_described_in_plain_language() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    dns.servfail("broken.test");
    dns.mx("lost.test", 10, "nowhere.test");
    let sender = sender(direct(&dns, &smtp));
    for (domain, expected) in [
        ("broken.test", "the DNS server returned Server Failure"),
        ("lost.test", "the mail exchanger nowhere.test: the name does not exist"),
    ] {
        let text = send(&sender, domain).await.reply.text;
        assert!(text.contains(expected) && !text.contains("Query {"), "{text}");
    }
}

#[tokio::test]
async fn relay_names_are_resolved_by_the_configured_dns() {
    let (dns, smtp) = (DnsServer::start().await, SmtpServer::start().await);
    dns.add_address("relay.nowhere.test", "127.0.0.1");
    for (host, verdict) in [("relay.nowhere.test", Accepted), ("localhost", Accepted), ("lost.nowhere.test", Temporary)]
    {
        let relay = format!("smtp://{host}:{}?tls=none", smtp.address().port()).parse().unwrap();
        let outcome =
            send_one(&sender(Settings { relay: Some(relay), dns: Some(dns.address()), ..Settings::default() })).await;
        assert_eq!(outcome.verdict, verdict, "{host}: {}", outcome.reply.text);
    }
}

#[tokio::test]
async fn each_server_has_its_own_sessions() {
    let dns = DnsServer::start().await;
    let [first, second, _third] = three().await;
    for (domain, host, ip) in [
        ("one.test", "a.test", "127.0.0.1"),
        ("two.test", "b.test", "127.0.0.2"),
        ("three.test", "a.test", "127.0.0.1"),
    ] {
        dns.mx(domain, 10, host);
        if domain != "three.test" {
            dns.add_address(host, ip);
        }
    }
    let sender = sender(direct(&dns, &first));
    for domain in ["one.test", "two.test", "three.test"] {
        assert_eq!(send(&sender, domain).await.verdict, Accepted);
    }
    assert_eq!((first.connections(), first.messages().len(), second.messages().len()), (1, 2, 1));
}

#[tokio::test]
async fn the_next_server_is_used_after_a_drop_at_mail() {
    let dns = DnsServer::start().await;
    let (first, second, sender) = two(&dns).await;
    first.mail().does([Action::Drop]);
    assert_eq!(send(&sender, "example.test").await.verdict, Accepted);
    assert_eq!((first.count("MAIL"), second.messages().len()), (1, 1));
}
