//! Finds the mail exchangers of a domain (RFC 5321 §5.1, RFC 7505).
//!
//! They are sorted by preference and shuffled within equal ones. Without MX records the domain's own addresses are
//! used; a null MX and a domain that does not exist are permanent failures; every failed DNS query is temporary.

pub(in crate::smtp) mod direct;
pub(in crate::smtp) mod mx_guard;

use std::net::IpAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RData};
use rand::seq::SliceRandom;
use tokio::time::timeout;

use super::outgoing_message::Judgement;
use super::settings::Settings;
use crate::dns::{resolver, words};
use crate::domain::outcome::{Reply, Stage, Verdict};
use crate::smtp::sts;
use mx_guard::MxGuard;

/// Maximum addresses tried for one message (RFC 5321 §5.1 requires at least two).
const ADDRESSES: usize = 5;
/// Maximum addresses of one host among them, so that a second host is tried too.
const ADDRESSES_OF_A_HOST: usize = 3;

/// One address of a mail exchanger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::smtp) struct Exchanger {
    pub host: String,
    pub ip: IpAddr,
}

/// Finds mail exchangers in the DNS.
pub(in crate::smtp) struct Resolver {
    dns: TokioResolver,
    wait: std::time::Duration,
    own_name: String,
    guard: MxGuard,
}

impl Resolver {
    pub fn new(settings: &Settings) -> Result<Self, NetError> {
        Ok(Self {
            dns: resolver(settings.dns)?,
            wait: settings.timeouts.dns,
            own_name: settings.hostname.trim_end_matches('.').to_ascii_lowercase(),
            guard: settings.mx_guard(),
        })
    }

    /// Returns the DNS resolver.
    pub fn dns(&self) -> TokioResolver {
        self.dns.clone()
    }

    /// Returns the addresses in the order to try them, at least one, or a judgement for the recipients. An enforced
    /// `policy` leaves only the hosts that it names.
    pub async fn exchangers(&self, domain: &str, policy: Option<&sts::Policy>) -> Result<Vec<Exchanger>, Judgement> {
        let found = if domain.starts_with('[') {
            let ip = literal(domain).ok_or_else(|| no_such_domain(format!("{domain} is not an address literal")))?;
            if !self.guard.admits_literal(domain, ip) {
                return Err(refused_literal(domain));
            }
            vec![Exchanger { host: domain.to_owned(), ip }]
        } else {
            timeout(self.wait, self.look_up(domain, policy))
                .await
                .map_err(|_| unanswered(domain, "it took too long"))??
        };
        let (mut allowed, mut refused) = (Vec::with_capacity(found.len()), String::new());
        for mx in found {
            match self.guard.check(&mx.host, mx.ip) {
                Ok(()) => allowed.push(mx),
                Err(why) => refused = why,
            }
        }
        if allowed.is_empty() {
            let why = format!("no mail exchanger of {domain} is at a permitted address: {refused}");
            return Err(Judgement::new(Verdict::Temporary, Stage::Connect, Reply::ours_with(4, 4, 6, why)));
        }
        Ok(allowed)
    }

    async fn look_up(&self, domain: &str, policy: Option<&sts::Policy>) -> Result<Vec<Exchanger>, Judgement> {
        let Ok(name) = Name::from_ascii(format!("{}.", domain.trim_end_matches('.'))) else {
            return Err(no_such_domain(format!("{domain} is not a domain name")));
        };
        let records = match self.dns.mx_lookup(name.clone()).await {
            Ok(lookup) => lookup
                .answers()
                .iter()
                .filter_map(|record| if let RData::MX(mx) = &record.data { Some(mx) } else { None })
                .map(|mx| (mx.preference, mx.exchange.clone()))
                .collect(),
            Err(error) if error.is_nx_domain() => return Err(no_such_domain(format!("{domain} does not exist"))),
            Err(error) if error.is_no_records_found() => Vec::new(),
            Err(error) => return Err(unanswered(domain, &words(&error))),
        };
        let is_wanted = |host: &Name| policy.is_none_or(|policy| policy.allows(&host.to_ascii()));
        if records.is_empty() {
            return if is_wanted(&name) {
                self.own_addresses(domain, name).await
            } else {
                Err(unwanted(domain, &[name]))
            };
        }
        if records.iter().all(|(_, host)| host.is_root()) {
            let why = format!("{domain} accepts no mail (null MX)");
            return Err(Judgement::new(Verdict::Permanent, Stage::Connect, Reply::ours_with(5, 1, 10, why)));
        }
        let hosts = in_order(records, &self.own_name);
        if hosts.is_empty() {
            let why =
                format!("this machine is the first mail exchanger of {domain}, so there is no server to relay to");
            return Err(Judgement::new(Verdict::Temporary, Stage::Connect, Reply::ours_with(4, 4, 6, why)));
        }
        let (hosts, others): (Vec<Name>, Vec<Name>) = hosts.into_iter().partition(is_wanted);
        if hosts.is_empty() {
            return Err(unwanted(domain, &others));
        }
        self.addresses(domain, hosts).await
    }

    async fn own_addresses(&self, domain: &str, name: Name) -> Result<Vec<Exchanger>, Judgement> {
        let error = match self.addresses_of(name.clone()).await {
            Ok(found) => return Ok(found),
            Err(error) if error.is_no_records_found() => match self.dns.ipv6_lookup(name).await {
                // The result for IPv4 hides that of the IPv6 query; a bounce must rest on both.
                Err(error) if error.is_no_records_found() => {
                    return Err(no_such_domain(format!("{domain} has neither mail exchangers nor an address")));
                }
                Err(error) => words(&error),
                Ok(_) => "its records have just changed".into(),
            },
            Err(error) => words(&error),
        };
        Err(unanswered(domain, &error))
    }

    async fn addresses(&self, domain: &str, hosts: Vec<Name>) -> Result<Vec<Exchanger>, Judgement> {
        let mut found = Vec::new();
        let mut trouble = None;
        for host in hosts {
            if let Some(ip) = number(&host) {
                trouble.get_or_insert_with(|| {
                    format!("its MX record names the address {ip}, where the name of a host must stand (RFC 5321 §5.1)")
                });
                continue;
            }
            match self.addresses_of(host.clone()).await {
                Ok(addresses) => found.extend(addresses),
                Err(error) => trouble = Some(format!("the mail exchanger {}: {}", text(&host), words(&error))),
            }
            if found.len() >= ADDRESSES {
                break;
            }
        }
        found.truncate(ADDRESSES);
        match trouble {
            Some(trouble) if found.is_empty() => Err(unanswered(domain, &trouble)),
            _ => Ok(found),
        }
    }

    async fn addresses_of(&self, host: Name) -> Result<Vec<Exchanger>, NetError> {
        let text = text(&host);
        let lookup = self.dns.lookup_ip(host).await?;
        Ok(lookup.iter().take(ADDRESSES_OF_A_HOST).map(|ip| Exchanger { host: text.clone(), ip }).collect())
    }
}

/// Sorts by preference, shuffles equal ones, and drops ourselves and everything behind us (RFC 5321 §5.1: that would
/// loop).
fn in_order(mut records: Vec<(u16, Name)>, own_name: &str) -> Vec<Name> {
    let is_own = |host: &Name| host.to_ascii().trim_end_matches('.').eq_ignore_ascii_case(own_name);
    let own = records.iter().filter(|(_, host)| is_own(host)).map(|(preference, _)| *preference).min();
    records.retain(|(preference, host)| !host.is_root() && own.is_none_or(|own| *preference < own));
    records.shuffle(&mut rand::rng());
    records.sort_by_key(|(preference, _)| *preference);
    records.into_iter().map(|(_, host)| host).collect()
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
fn literal(domain: &str) -> Option<IpAddr> {
    let text = domain.strip_prefix('[')?.strip_suffix(']')?;
    match text.split_at_checked(5) {
        Some((tag, ip)) if tag.eq_ignore_ascii_case("IPv6:") => ip.parse().ok().map(IpAddr::V6),
        _ => text.parse().ok().map(IpAddr::V4),
    }
}

/// Returns a host's name for display.
fn text(host: &Name) -> String {
    host.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

/// Returns the address that an MX record contains in place of a name.
fn number(host: &Name) -> Option<IpAddr> {
    host.to_ascii().trim_end_matches('.').parse().ok()
}

/// Refuses an address literal permanently: it will not become a name later.
fn refused_literal(domain: &str) -> Judgement {
    let why = format!(
        "mail to address literals such as {domain} is not sent: only `delivery.allow_private_mx` can permit that"
    );
    Judgement::new(Verdict::Permanent, Stage::Connect, Reply::ours_with(5, 7, 1, why))
}

fn no_such_domain(why: String) -> Judgement {
    Judgement::new(Verdict::Permanent, Stage::Connect, Reply::ours_with(5, 1, 2, why))
}

/// The judgement if the policy names no exchanger. It is temporary, as all policy failures are: the domain may be about
/// to change its MX records or its policy (RFC 8461 §5.1).
fn unwanted(domain: &str, hosts: &[Name]) -> Judgement {
    let hosts: Vec<String> = hosts.iter().map(|host| host.to_ascii().trim_end_matches('.').to_owned()).collect();
    let why =
        format!("MTA-STS enforce: the policy of {domain} names none of its mail exchangers ({})", hosts.join(", "));
    Judgement::new(Verdict::Temporary, Stage::Connect, Reply::ours_with(4, 4, 4, why))
}

fn unanswered(domain: &str, why: &str) -> Judgement {
    let why = format!("cannot look up the mail exchangers of {domain}: {why}");
    Judgement::new(Verdict::Temporary, Stage::Connect, Reply::ours_with(4, 4, 3, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(records: &[(u16, &str)], own: &str) -> Vec<String> {
        let records = records.iter().map(|(preference, host)| (*preference, Name::from_ascii(host).unwrap())).collect();
        in_order(records, own).iter().map(Name::to_ascii).collect()
    }

    #[test]
    fn lower_preference_comes_first_and_equals_take_turns() {
        let records = [(20, "c.test."), (10, "a.test."), (10, "b.test.")];
        let mut firsts: Vec<String> = Vec::new();
        for _ in 0..100 {
            let order = ordered(&records, "me.test");
            assert_eq!(order[2], "c.test.");
            firsts.push(order[0].clone());
        }
        assert!(firsts.contains(&"a.test.".to_owned()) && firsts.contains(&"b.test.".to_owned()));
    }

    #[test]
    fn a_backup_mx_relays_only_towards_the_primary() {
        let records = [(10, "a.test."), (20, "Me.test."), (20, "b.test."), (30, "c.test.")];
        assert_eq!(ordered(&records, "me.test"), ["a.test."]);
    }

    #[test]
    fn literals_are_read() {
        assert_eq!(literal("[192.0.2.1]"), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(literal("[IPv6:2001:db8::1]"), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(literal("[ipv6:::1]"), Some("::1".parse().unwrap()));
        for text in ["[192.0.2]", "[2001:db8::1]", "[", "[]", "[€€]"] {
            assert_eq!(literal(text), None, "{text}");
        }
    }

    #[test]
    fn an_address_in_place_of_a_name_is_known() {
        let ip = |name: &str| number(&Name::from_ascii(name).unwrap());
        assert_eq!(ip("192.0.2.1."), Some("192.0.2.1".parse().unwrap()));
        assert_eq!((ip("mx.test."), ip("192.0.2.1.test.")), (None, None));
    }
}
