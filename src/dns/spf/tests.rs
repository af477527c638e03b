//! Evaluates the SPF, DKIM and DMARC records of `domain/sender_domain/dns_records/variants.txt` as receivers do, and checks the
//! findings.

mod readers;

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::dns::check::check_in;
use crate::domain::sender_domain::dkim::{Algorithm, KeyState};
use crate::domain::sender_domain::dns_records::{
    DnsSettings, Finding, PublishedKey, Purpose, RecordStatus, Verdict, records,
};
use readers::MailAuth;

const VARIANTS: &str = include_str!("../../domain/sender_domain/dns_records/variants.txt");

/// A zone in memory. Queries for the name in `fails` fail.
#[derive(Default)]
struct Memory {
    records: HashMap<(String, String), Vec<String>>,
    fails: Option<String>,
}

impl Memory {
    /// Creates a zone from lines of the form `NAME TYPE VALUE`.
    fn new<'l>(lines: impl IntoIterator<Item = &'l str>) -> Self {
        let mut zone = Self::default();
        for line in lines {
            let (name, rest) = line.split_once(' ').unwrap();
            let (kind, value) = rest.split_once(' ').unwrap();
            zone.records.entry((name.into(), kind.into())).or_default().push(value.into());
        }
        zone
    }

    fn get(&self, name: &str, kind: &str) -> Answer<String> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if self.fails.as_ref() == Some(&name) {
            return Err("timeout".into());
        }
        Ok(self.records.get(&(name, kind.into())).cloned().unwrap_or_default())
    }
}

impl Zone for Memory {
    async fn texts(&self, name: &str) -> Answer<String> {
        self.get(name, "TXT")
    }

    async fn addresses(&self, host: &str) -> Answer<IpAddr> {
        Ok([self.get(host, "A")?, self.get(host, "AAAA")?].concat().iter().map(|ip| ip.parse().unwrap()).collect())
    }

    async fn exchangers(&self, name: &str) -> Answer<String> {
        Ok(self.get(name, "MX")?.into_iter().map(|host| format!("10 {host}.")).collect())
    }

    async fn names(&self, address: IpAddr) -> Answer<String> {
        self.get(&address.to_string(), "PTR")
    }
}

fn key() -> PublishedKey {
    key_of(Algorithm::Rsa)
}

fn key_of(algorithm: Algorithm) -> PublishedKey {
    let public = match algorithm {
        Algorithm::Rsa => readers::RSA,
        Algorithm::Ed25519 => readers::ED25519,
    };
    let public = STANDARD.decode(public).unwrap();
    PublishedKey { selector: "s".into(), algorithm, state: KeyState::Active, public }
}

fn settings(spf: &str) -> DnsSettings {
    DnsSettings {
        hostname: "mail.acme.test".into(),
        spf: spf.into(),
        return_path: None,
        algorithms: vec![Algorithm::Rsa],
        is_direct: false,
    }
}

async fn found(zone: &Memory, settings: &DnsSettings, domain: &str, purpose: Purpose) -> Finding {
    found_of(zone, settings, domain, purpose, key()).await
}

async fn found_of(zone: &Memory, settings: &DnsSettings, domain: &str, purpose: Purpose, key: PublishedKey) -> Finding {
    let findings = check_in(zone, records(settings, domain, &[key])).await;
    findings.into_iter().find(|finding| finding.purpose == purpose).unwrap()
}

/// An entry of `variants.txt`: its title, the expected result, deviating results of other implementations, and the
/// zone.
struct Variant<'t> {
    title: &'t str,
    expected: &'t str,
    others: HashMap<&'t str, &'t str>,
    zone: Vec<&'t str>,
}

impl<'t> Variant<'t> {
    fn parse(text: &'t str) -> Self {
        let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let (title, expected) = (lines.next().unwrap(), lines.next().unwrap());
        let (others, zone): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with("! "));
        let other =
            |line: &'t str| line[2..].split_once(": ").and_then(|(result, _)| result.split_once(' ')).expect(line);
        Self { title, expected, others: others.into_iter().map(other).collect(), zone }
    }

    /// Asserts that mail-auth has the expected result, or the deviation listed for it.
    fn assert_mail_auth(&self, result: &str, expected: &str) {
        assert_eq!(result, self.others.get("mail-auth").copied().unwrap_or(expected), "mail-auth on {}", self.title);
    }
}

#[tokio::test]
async fn variants_are_evaluated_as_receivers_do() {
    let (mail_auth, mut judged) = (MailAuth::new().await, 0);
    for text in VARIANTS.split("\n[").skip(1) {
        let (kind, rest) = text.split_once("] ").unwrap();
        let variant = Variant::parse(rest);
        let implementations = ["pyspf", "dkimpy", "authheaders", "mail-auth"];
        assert!(variant.others.keys().all(|reader| implementations.contains(reader)), "{}", variant.title);
        match kind {
            "spf" => check_spf_variant(&variant, &mail_auth).await,
            "dkim" => check_dkim_variant(&variant, &mail_auth).await,
            "dmarc" => check_dmarc_variant(&variant).await,
            other => panic!("{other}"),
        }
        judged += 1;
    }
    assert!(judged >= 150, "{judged}");
}

async fn check_spf_variant(variant: &Variant<'_>, mail_auth: &MailAuth) {
    let (title, zone) = (variant.title, &Memory::new(variant.zone.iter().copied()));
    let (address, result) = variant.expected.split_once(' ').unwrap();
    variant.assert_mail_auth(&mail_auth.spf(zone, address.parse().unwrap()).await, result);
    let outcome = check_host(zone, address.parse().unwrap(), "acme.test", None).await;
    assert_eq!(outcome.result.to_string(), result, "{title}: {}", outcome.reason);
    // The finding for the record, if messages are sent from that address.
    let own = if address.contains(':') { format!("ip6:{address}") } else { format!("ip4:{address}") };
    let finding = found(zone, &settings(&own), "acme.test", Purpose::Spf).await;
    let status = if result == "pass" { RecordStatus::Ok } else { finding.status };
    assert_eq!(finding.status, status, "{title}: {finding:?}");
    assert_eq!(finding.status == RecordStatus::Ok, result == "pass", "{title}: {finding:?}");
    // The suggested record lets that address pass, and is no error for other addresses.
    if let Some((_, record)) = finding.fix.as_deref().and_then(|fix| fix.split_once("Replace it with: ")) {
        let with = |ip: &str| check_host(zone, ip.parse().unwrap(), "acme.test", Some(record));
        assert_eq!(with(address).await.result, SpfResult::Pass, "{title}: {record}");
        let unrelated = with("203.0.113.7").await;
        assert!(
            ![SpfResult::Pass, SpfResult::PermError].contains(&unrelated.result),
            "{title}: {record}: {unrelated:?}"
        );
    }
}

async fn check_dkim_variant(variant: &Variant<'_>, mail_auth: &MailAuth) {
    let Variant { title, expected, .. } = variant;
    let is_ed25519 = variant.zone.iter().any(|record| record.contains("{e}"));
    let algorithm = if is_ed25519 { Algorithm::Ed25519 } else { Algorithm::Rsa };
    let settings = DnsSettings { algorithms: vec![algorithm], ..settings("a:mail.acme.test") };
    let name = key_of(algorithm).name("acme.test");
    let (p1, p2) = readers::RSA.split_at(200);
    let zone_line = |record: &&str| {
        let record = record.replace("{p}", readers::RSA).replace("{p1}", p1).replace("{p2}", p2);
        format!("{name} TXT {}", record.replace("{e}", readers::ED25519))
    };
    let lines: Vec<String> = variant.zone.iter().map(zone_line).collect();
    let zone = Memory::new(lines.iter().map(String::as_str));
    variant.assert_mail_auth(mail_auth.dkim(&zone, algorithm).await, expected);
    let finding = found_of(&zone, &settings, "acme.test", Purpose::Dkim, key_of(algorithm)).await;
    assert_eq!(finding.status == RecordStatus::Ok, *expected == "ok", "{title}: {finding:?}");
    let verdict = Verdict::new(&settings, "acme.test", &[key_of(algorithm)], vec![finding]);
    assert_eq!(verdict.is_verified, Some(*expected == "ok"), "{title}");
}

async fn check_dmarc_variant(variant: &Variant<'_>) {
    let [domain, status, policy] = variant.expected.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let zone = Memory::new(variant.zone.iter().copied());
    variant.assert_mail_auth(readers::dmarc(&zone, domain), policy);
    let finding = found(&zone, &settings("a:mail.acme.test"), domain, Purpose::Dmarc).await;
    let found_status = format!("{:?}", finding.status).to_lowercase();
    let verdict = Verdict::new(&settings("a:mail.acme.test"), domain, &[], vec![finding.clone()]);
    let applies = verdict.dmarc.flatten().map_or("-", |policy| policy.as_str());
    assert_eq!((found_status.as_str(), applies), (status, policy), "{}: {finding:?}", variant.title);
}

#[tokio::test]
async fn failed_query_is_reported_as_unanswered() {
    let lines = ["acme.test TXT v=spf1 include:relay.test ip4:192.0.2.1 -all"];
    let zone = Memory { fails: Some("relay.test".into()), ..Memory::new(lines) };
    let finding = found(&zone, &settings("ip4:192.0.2.1"), "acme.test", Purpose::Spf).await;
    assert_eq!(finding.status, RecordStatus::Unanswered);
    assert!(finding.fix.unwrap().contains("relay.test"));
}

#[tokio::test]
async fn addresses_of_a_relay_come_from_its_spf_record() {
    let zone = |record: &str| {
        let record = format!("acme.test TXT {record}");
        Memory::new([
            record.as_str(),
            "spf.relay.test TXT v=spf1 ip4:192.0.2.0/28 a:x.relay.test -all",
            "x.relay.test A 198.51.100.9",
        ])
    };
    let settings = settings("include:spf.relay.test");
    for (record, status) in [
        ("v=spf1 include:spf.relay.test ~all", RecordStatus::Ok),
        ("v=spf1 ip4:192.0.2.0/24 ip4:198.51.100.9 ~all", RecordStatus::Ok),
        ("v=spf1 ip4:192.0.2.0/29 ip4:198.51.100.9 ~all", RecordStatus::Wrong),
    ] {
        let finding = found(&zone(record), &settings, "acme.test", Purpose::Spf).await;
        assert_eq!(finding.status, status, "{record}: {finding:?}");
    }
    let finding = found(&Memory::new(["acme.test TXT v=spf1 -all"]), &settings, "acme.test", Purpose::Spf).await;
    assert!(finding.fix.as_ref().unwrap().contains("are unknown"), "{finding:?}");
}

#[tokio::test]
async fn record_with_errors_for_other_senders_has_a_warning() {
    let warning = async |record: &str| {
        let record = format!("acme.test TXT {record}");
        let finding =
            found(&Memory::new([record.as_str()]), &settings("ip4:192.0.2.1"), "acme.test", Purpose::Spf).await;
        assert_eq!(finding.status, RecordStatus::Ok, "{finding:?}");
        finding.warning.unwrap_or_default()
    };
    assert_eq!(warning("v=spf1 ip4:192.0.2.1 -all").await, "");
    assert!(warning("v=spf1 ip4:192.0.2.1 +all").await.contains("every address"));
    assert!(warning("v=spf1 ip4:192.0.2.1 include:nothing.test -all").await.contains("nothing.test has no SPF record"));
}

#[tokio::test]
async fn return_path_mx_may_be_another_name_of_this_server() {
    let settings = DnsSettings { return_path: Some("bounce.acme.test".into()), ..settings("a:mail.acme.test") };
    for (host, status) in [
        ("in.acme.test", RecordStatus::Ok),
        ("mail.acme.test", RecordStatus::Ok),
        ("mx.other.test", RecordStatus::Wrong),
        ("nowhere.test", RecordStatus::Wrong),
    ] {
        let mx = format!("bounce.acme.test MX {host}");
        let hosts = ["mail.acme.test A 192.0.2.1", "in.acme.test A 192.0.2.1", "mx.other.test A 192.0.2.2"];
        let zone = Memory::new([mx.as_str()].into_iter().chain(hosts));
        let finding = found(&zone, &settings, "acme.test", Purpose::ReturnPath).await;
        assert_eq!(finding.status, status, "{host}: {finding:?}");
    }
}
