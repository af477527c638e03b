//! Evaluates the records of `variants.txt` with mail-auth, as a second implementation.
//!
//! The two messages were signed with dkimpy. Queries for names that are not in the zone go to a server that replies
//! NXDOMAIN.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use mail_auth::common::cache::NoCache;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::dmarc::{Dmarc, Policy};
use mail_auth::spf::Spf;
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{
    AuthenticatedMessage, DkimResult, DnssecStatus, MX, MessageAuthenticator, Parameters, RecordSet, ResolverCache, Txt,
};
use tokio::net::UdpSocket;

use super::Memory;
use crate::domain::sender_domain::dkim::Algorithm;

/// The key of `signed-rsa.eml`.
pub(super) const RSA: &str = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAjpleTub1QDi9V/kkq2vhSMTO+p/ZhH8CraFOky0645K6r6/PyB7xhMNKmbzolpZXVA\
     99febL7EF1cBNhE1J5DyCmb5qCK1KcurSodjjNWNZfNzRh0ttvNKQNkXBygU5TSFHr3YgWTXixCKB4ZCbP1LmzuDwi2GsX00nF5G0Sr2TJmbg5\
     +9L1N1+SS57/d9xSpTDHre56ulKG7OBpULJZyvZESgK4Mic7/P3BFN5Rz26TfWioEATh5W8ZVuLxEKk9SPGyIXZrdSeYVcyeDMXqJcxeYOQQOs\
     WKdH849eng164zXQC/sm4ekWw16q7+0el87Ift3jR2XS6XIbNDB8t50wIDAQAB";
/// The key of `signed-ed25519.eml`.
pub(super) const ED25519: &str = "zqn1Up5bkNe//YC8yOz7neGu9+n1isRqKtik/flPg+E=";

/// A DNS cache that is filled in advance.
struct PrefilledCache<K, V>(HashMap<K, V>);

impl<K: Eq + Hash, V: Clone> ResolverCache<K, V> for PrefilledCache<K, V> {
    fn get<Q>(&self, name: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.get(name).cloned()
    }

    fn remove<Q>(&self, _: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: K, _: V, _: Instant) {}
}

/// Returns a cache with the records of one type, parsed by `read`.
fn cache<V>(zone: &Memory, kind: &str, read: impl Fn(&[String]) -> V) -> PrefilledCache<Box<str>, V> {
    let of_kind = zone.records.iter().filter(|((_, its), _)| its == kind);
    PrefilledCache(of_kind.map(|((name, _), values)| (format!("{name}.").into(), read(values))).collect())
}

fn set<T>(records: Vec<T>) -> RecordSet<T> {
    RecordSet { rrset: records.into(), dnssec_status: DnssecStatus::Indeterminate }
}

/// Returns the first record that can be parsed, as mail-auth does.
fn first<T: TxtRecordParser + Into<Txt>>(values: &[String]) -> Txt {
    let mut read = values.iter().map(|value| T::parse(value.as_bytes()));
    let last = read.next_back();
    read.find(Result::is_ok).or(last).expect("a value").into()
}

/// mail-auth with a resolver that replies NXDOMAIN to every query.
pub(super) struct MailAuth(MessageAuthenticator);

impl MailAuth {
    pub(super) async fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut packet = [0; 4_096];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                // The server returns the query as a response with the code NXDOMAIN.
                packet[2] |= 0x80;
                packet[3] = 0x83;
                let _ = socket.send_to(&packet[..length], from).await;
            }
        });
        Self(MessageAuthenticator(crate::dns::resolver(Some(address)).unwrap()))
    }

    pub(super) async fn spf(&self, zone: &Memory, address: IpAddr) -> String {
        let exchangers = |values: &[String]| {
            let exchanges = values.iter().map(|host| format!("{host}.").into()).collect();
            set(vec![MX { exchanges, preference: 10 }])
        };
        let named =
            |values: &[String]| set(values.iter().map(|name| format!("{name}.").into()).collect::<Vec<Box<str>>>());
        let pointers = zone.records.iter().filter(|((_, kind), _)| kind == "PTR");
        let pointers =
            PrefilledCache(pointers.map(|((address, _), names)| (address.parse().unwrap(), named(names))).collect());
        let parameters = Parameters {
            params: SpfParameters::verify_mail_from(address, "acme.test", "receiver.test", "postmaster@acme.test"),
            cache_txt: Some(&cache(zone, "TXT", first::<Spf>)),
            cache_mx: Some(&cache(zone, "MX", exchangers)),
            cache_ptr: Some(&pointers),
            cache_ipv4: Some(&cache(zone, "A", |values| set::<Ipv4Addr>(parse_all(values)))),
            cache_ipv6: Some(&cache(zone, "AAAA", |values| set::<Ipv6Addr>(parse_all(values)))),
        };
        format!("{:?}", self.0.check_host(parameters).await.result()).to_lowercase()
    }

    /// Returns `ok` if the message signed with the key of this algorithm verifies, else `wrong`.
    pub(super) async fn dkim(&self, zone: &Memory, algorithm: Algorithm) -> &'static str {
        let signed = match algorithm {
            Algorithm::Rsa => include_str!("signed-rsa.eml"),
            Algorithm::Ed25519 => include_str!("signed-ed25519.eml"),
        };
        let message = signed.replace('\n', "\r\n");
        let message = AuthenticatedMessage::parse(message.as_bytes()).unwrap();
        let parameters = Parameters {
            params: &message,
            cache_txt: Some(&cache(zone, "TXT", first::<DomainKey>)),
            cache_mx: None::<&NoCache<Box<str>, RecordSet<MX>>>,
            cache_ptr: None::<&NoCache<IpAddr, RecordSet<Box<str>>>>,
            cache_ipv4: None::<&NoCache<Box<str>, RecordSet<Ipv4Addr>>>,
            cache_ipv6: None::<&NoCache<Box<str>, RecordSet<Ipv6Addr>>>,
        };
        let outputs = self.0.verify_dkim(parameters).await;
        if outputs.iter().all(|output| *output.result() == DkimResult::Pass) { "ok" } else { "wrong" }
    }
}

fn parse_all<T: std::str::FromStr>(values: &[String]) -> Vec<T> {
    values.iter().filter_map(|value| value.parse().ok()).collect()
}

/// Returns the policy of the only valid record at the domain, or at its organisational domain.
pub(super) fn dmarc(zone: &Memory, domain: &str) -> &'static str {
    let organisation = crate::domain::sender_domain::dns_records::organisation(domain);
    for (name, is_below) in [(domain, false), (organisation, domain != organisation)] {
        let Some(records) = zone.records.get(&(format!("_dmarc.{name}"), "TXT".to_owned())) else { continue };
        let read: Vec<Dmarc> = records.iter().filter_map(|record| Dmarc::parse(record.as_bytes()).ok()).collect();
        let [only] = read.as_slice() else { return "-" };
        return match if is_below { &only.sp } else { &only.p } {
            Policy::None => "none",
            Policy::Quarantine => "quarantine",
            Policy::Reject => "reject",
            Policy::Unspecified => "-",
        };
    }
    "-"
}
