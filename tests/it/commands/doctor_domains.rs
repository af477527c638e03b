//! `postrider doctor` checks DNS records.

use crate::support::dns::DnsServer;
use crate::support::domains::{SECRET, publish, records, registered, with_secret};
use crate::support::process::postrider;

/// Returns the lines of `doctor` about domains, the secret key and the hostname, and whether it succeeded.
async fn doctor(url: &str, dns: &DnsServer, secret: Option<&str>) -> (Vec<String>, bool) {
    doctor_with(url, dns, secret, &[]).await
}

/// Like [`doctor`], with more environment variables.
async fn doctor_with(url: &str, dns: &DnsServer, secret: Option<&str>, more: &[(&str, &str)]) -> (Vec<String>, bool) {
    let mut command = postrider(&["doctor"]);
    command.envs(more.iter().copied());
    command.env("DATABASE_URL", url).env("POSTRIDER_DNS", dns.address().to_string());
    command.env("POSTRIDER_HOSTNAME", "postrider.test");
    if let Some(secret) = secret {
        command.env("POSTRIDER_SECRET_KEY", secret);
    }
    let output = command.output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let is_relevant =
        |line: &&str| ["domain", "secret_key", "hostname", "streams"].iter().any(|name| line[6..].starts_with(name));
    (text.lines().filter(is_relevant).map(str::to_owned).collect(), output.status.success())
}

#[tokio::test]
async fn doctor_reports_each_record_and_the_hostname() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    let url = &app.database.url;
    let (lines, _) = doctor(url, &dns, None).await;
    assert!(lines[0].starts_with("ok    secret_key: it is not set, and nothing needs it yet"), "{lines:#?}");
    assert!(lines[1].starts_with("ok    domains: none are registered"), "{lines:#?}");
    assert!(lines[2].starts_with("BAD   hostname postrider.test: it has no address"), "{lines:#?}");

    let domain = registered(&app, "acme.test").await;
    dns.add_address("postrider.test", "192.0.2.1");
    dns.ptr("192.0.2.1", "other.test");
    let (lines, is_success) = doctor(url, &dns, Some(SECRET)).await;
    assert!(!is_success && lines[0] == "ok    secret_key: it is set", "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("BAD   domain acme.test, ")).count(), 5, "{lines:#?}");
    assert!(lines[5].contains("postrider.test: v=spf1 a -all"), "{lines:#?}");
    assert!(lines[6].contains("192.0.2.1, whose PTR record is other.test"), "{lines:#?}");

    publish(&dns, &domain);
    dns.txt("postrider.test", ["v=spf1 a -all"]);
    dns.ptr("192.0.2.1", "Postrider.test");
    let (lines, _) = doctor(url, &dns, Some(SECRET)).await;
    assert!(lines.len() == 7 && lines.iter().all(|line| line.starts_with("ok    ")), "{lines:#?}");

    let (lines, is_success) = doctor(url, &dns, Some("another secret that is just as long")).await;
    assert!(
        !is_success && lines[1].contains("its keys cannot be decrypted") && lines[1].contains("previous_secret_keys")
    );
    let (lines, _) = doctor(url, &dns, None).await;
    assert!(lines[0].starts_with("BAD   secret_key: it is not set"), "{lines:#?}");
}

#[tokio::test]
async fn missing_record_of_unused_key_is_not_reported() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    let domain = registered(&app, "acme.test").await;
    publish(&dns, &domain);
    let ed25519 = records(&domain, "dkim").into_iter().find_map(|record| {
        let name = record["name"].as_str().unwrap();
        name.contains("-ed25519.").then(|| name.to_owned())
    });
    let ed25519 = ed25519.expect("a record of each key");
    dns.remove_records(&ed25519);
    let ed25519_line = async |algorithms: &str| {
        let variables = [("POSTRIDER_DKIM__ALGORITHMS", algorithms)];
        let (lines, _) = doctor_with(&app.database.url, &dns, Some(SECRET), &variables).await;
        lines.into_iter().find(|line| line.contains(&ed25519)).expect("a line")
    };
    assert!(ed25519_line("ed25519,rsa").await.starts_with("BAD   "));
    let line = ed25519_line("rsa").await;
    assert!(line.starts_with("ok    ") && line.ends_with("(not in use)"), "{line}");
}

#[tokio::test]
async fn doctor_reports_missing_unsubscribe_settings() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    app.sql("UPDATE streams SET unsubscribe = true WHERE name = 'bulk'").await;
    let (lines, is_success) = doctor(&app.database.url, &dns, Some(SECRET)).await;
    let expected = "BAD   streams: messages of bulk wait for unsubscribe links: set public_url (POSTRIDER_PUBLIC_URL)";
    assert!(!is_success && lines.iter().any(|line| line == expected), "{lines:#?}");
    let public = [("POSTRIDER_PUBLIC_URL", "https://mail.acme.test")];
    let (lines, _) = doctor_with(&app.database.url, &dns, Some(SECRET), &public).await;
    assert!(!lines.iter().any(|line| line.contains("streams")), "{lines:#?}");
}

#[tokio::test]
async fn doctor_reports_blocklists_that_name_the_host() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    dns.add_address("postrider.test", "192.0.2.1");
    dns.add_address("1.2.0.192.bad.test", "127.0.0.2");
    dns.add_address("1.2.0.192.closed.test", "127.255.255.254");
    let mut command = postrider(&["doctor"]);
    command.env("DATABASE_URL", &app.database.url).env("POSTRIDER_DNS", dns.address().to_string());
    command.env("POSTRIDER_HOSTNAME", "postrider.test");
    command.env("POSTRIDER_DELIVERY__BLOCKLISTS", "bad.test,good.test,closed.test");
    let text = String::from_utf8(command.output().await.unwrap().stdout).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line[6..].starts_with("blocklists: ")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("BAD   blocklists: bad.test names 192.0.2.1"), "{text}");
    assert!(lines[1].starts_with("WARN  blocklists: closed.test does not answer this resolver"), "{text}");
}
