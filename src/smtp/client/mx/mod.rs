//! Finds the mail exchangers of a domain (RFC 5321 §5.1, RFC 7505).
//!
//! They are sorted by preference, and shuffled among equals. Without MX records, the domain's own addresses are used. A
//! null MX and a domain that does not exist are permanent failures; every failed DNS query is a temporary one.

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
use crate::dns::{counted, describe_error, resolver};
use crate::domain::outcome::{Reply, Stage, Verdict};
use crate::metrics::labels::DnsKind;
use crate::smtp::sts;
use mx_guard::MxGuard;

/// Maximum addresses tried for one message (RFC 5321 §5.1 requires at least two).
const MAX_ADDRESSES: usize = 5;
/// Maximum addresses of one host among these, so that a second host is tried too.
const MAX_ADDRESSES_PER_HOST: usize = 3;

/// One address of a mail exchanger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::smtp) struct Exchanger {
    pub host: String,
    pub ip: IpAddr,
}

/// Finds mail exchangers in the DNS.
pub(in crate::smtp) struct Resolver {
    dns: TokioResolver,
    timeout: std::time::Duration,
    own_name: String,
    guard: MxGuard,
}

impl Resolver {
    pub fn new(settings: &Settings) -> Result<Self, NetError> {
        Ok(Self {
            dns: resolver(settings.dns)?,
            timeout: settings.timeouts.dns,
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
            timeout(self.timeout, self.look_up(domain, policy))
                .await
                .map_err(|_| lookup_failed(domain, "it took too long"))??
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
            return Err(Judgement::new(Verdict::Temporary, Stage::Connect, Reply::local_error_with(4, 4, 6, why)));
        }
        Ok(allowed)
    }

    async fn look_up(&self, domain: &str, policy: Option<&sts::Policy>) -> Result<Vec<Exchanger>, Judgement> {
        let Ok(name) = Name::from_ascii(format!("{}.", domain.trim_end_matches('.'))) else {
            return Err(no_such_domain(format!("{domain} is not a domain name")));
        };
        let records = match counted(DnsKind::Mx, self.dns.mx_lookup(name.clone())).await {
            Ok(lookup) => lookup
                .answers()
                .iter()
                .filter_map(|record| if let RData::MX(mx) = &record.data { Some(mx) } else { None })
                .map(|mx| (mx.preference, mx.exchange.clone()))
                .collect(),
            Err(error) if error.is_nx_domain() => return Err(no_such_domain(format!("{domain} does not exist"))),
            Err(error) if error.is_no_records_found() => Vec::new(),
            Err(error) => return Err(lookup_failed(domain, &describe_error(&error))),
        };
        let is_in_policy = |host: &Name| policy.is_none_or(|policy| policy.allows(&host.to_ascii()));
        if records.is_empty() {
            return if is_in_policy(&name) {
                self.domain_addresses(domain, name).await
            } else {
                Err(not_in_policy(domain, &[name]))
            };
        }
        if records.iter().all(|(_, host)| host.is_root()) {
            let why = format!("{domain} accepts no mail (null MX)");
            return Err(Judgement::new(Verdict::Permanent, Stage::Connect, Reply::local_error_with(5, 1, 10, why)));
        }
        let hosts = by_preference(records, &self.own_name);
        if hosts.is_empty() {
            let why =
                format!("this machine is the first mail exchanger of {domain}, so there is no server to relay to");
            return Err(Judgement::new(Verdict::Temporary, Stage::Connect, Reply::local_error_with(4, 4, 6, why)));
        }
        let (hosts, others): (Vec<Name>, Vec<Name>) = hosts.into_iter().partition(is_in_policy);
        if hosts.is_empty() {
            return Err(not_in_policy(domain, &others));
        }
        self.addresses(domain, hosts).await
    }

    async fn domain_addresses(&self, domain: &str, name: Name) -> Result<Vec<Exchanger>, Judgement> {
        let error = match self.host_addresses(name.clone()).await {
            Ok(found) => return Ok(found),
            Err(error) if error.is_no_records_found() => {
                match counted(DnsKind::Address, self.dns.ipv6_lookup(name)).await {
                    // `lookup_ip` reports the IPv4 result only. The message bounces only if the IPv6 query finds nothing
                    // either.
                    Err(error) if error.is_no_records_found() => {
                        return Err(no_such_domain(format!("{domain} has neither mail exchangers nor an address")));
                    }
                    Err(error) => describe_error(&error),
                    Ok(_) => "its records have just changed".into(),
                }
            }
            Err(error) => describe_error(&error),
        };
        Err(lookup_failed(domain, &error))
    }

    async fn addresses(&self, domain: &str, hosts: Vec<Name>) -> Result<Vec<Exchanger>, Judgement> {
        let mut found = Vec::new();
        let mut problem = None;
        for host in hosts {
            if let Some(ip) = ip_in_name(&host) {
                problem.get_or_insert_with(|| {
                    format!("its MX record names the address {ip}, but it must name a host (RFC 5321 §5.1)")
                });
                continue;
            }
            match self.host_addresses(host.clone()).await {
                Ok(addresses) => found.extend(addresses),
                Err(error) => {
                    problem = Some(format!("the mail exchanger {}: {}", display_name(&host), describe_error(&error)));
                }
            }
            if found.len() >= MAX_ADDRESSES {
                break;
            }
        }
        found.truncate(MAX_ADDRESSES);
        match problem {
            Some(problem) if found.is_empty() => Err(lookup_failed(domain, &problem)),
            _ => Ok(found),
        }
    }

    async fn host_addresses(&self, host: Name) -> Result<Vec<Exchanger>, NetError> {
        let name = display_name(&host);
        let lookup = counted(DnsKind::Address, self.dns.lookup_ip(host)).await?;
        Ok(lookup.iter().take(MAX_ADDRESSES_PER_HOST).map(|ip| Exchanger { host: name.clone(), ip }).collect())
    }
}

/// Sorts by preference, shuffles equals, and drops this server and all that are not preferred to it, since messages
/// would loop between them (RFC 5321 §5.1).
fn by_preference(mut records: Vec<(u16, Name)>, own_name: &str) -> Vec<Name> {
    let is_own = |host: &Name| host.to_ascii().trim_end_matches('.').eq_ignore_ascii_case(own_name);
    let own = records.iter().filter(|(_, host)| is_own(host)).map(|(preference, _)| *preference).min();
    records.retain(|(preference, host)| !host.is_root() && own.is_none_or(|own| *preference < own));
    records.shuffle(&mut rand::rng());
    records.sort_by_key(|(preference, _)| *preference);
    records.into_iter().map(|(_, host)| host).collect()
}

/// Parses an address literal: `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
fn literal(domain: &str) -> Option<IpAddr> {
    let text = domain.strip_prefix('[')?.strip_suffix(']')?;
    match text.split_at_checked(5) {
        Some((tag, ip)) if tag.eq_ignore_ascii_case("IPv6:") => ip.parse().ok().map(IpAddr::V6),
        _ => text.parse().ok().map(IpAddr::V4),
    }
}

/// Returns a host's name for display.
fn display_name(host: &Name) -> String {
    host.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

/// Returns the IP address that an MX record contains instead of a host name.
fn ip_in_name(host: &Name) -> Option<IpAddr> {
    host.to_ascii().trim_end_matches('.').parse().ok()
}

/// Returns the permanent refusal of an address literal, which no later change of the DNS can permit.
fn refused_literal(domain: &str) -> Judgement {
    let why = format!(
        "mail to address literals such as {domain} is not sent: only `delivery.allow_private_mx` can permit that"
    );
    Judgement::new(Verdict::Permanent, Stage::Connect, Reply::local_error_with(5, 7, 1, why))
}

fn no_such_domain(why: String) -> Judgement {
    Judgement::new(Verdict::Permanent, Stage::Connect, Reply::local_error_with(5, 1, 2, why))
}

/// Returns the judgement if the MTA-STS policy names no mail exchanger of the domain. It is temporary, like all policy
/// failures: the domain may be about to change its MX records or its policy (RFC 8461 §5.1).
fn not_in_policy(domain: &str, hosts: &[Name]) -> Judgement {
    let hosts: Vec<String> = hosts.iter().map(|host| host.to_ascii().trim_end_matches('.').to_owned()).collect();
    let why =
        format!("MTA-STS enforce: the policy of {domain} names none of its mail exchangers ({})", hosts.join(", "));
    Judgement::new(Verdict::Temporary, Stage::Connect, Reply::local_error_with(4, 4, 4, why))
}

fn lookup_failed(domain: &str, why: &str) -> Judgement {
    let why = format!("cannot look up the mail exchangers of {domain}: {why}");
    Judgement::new(Verdict::Temporary, Stage::Connect, Reply::local_error_with(4, 4, 3, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(records: &[(u16, &str)], own: &str) -> Vec<String> {
        let records = records.iter().map(|(preference, host)| (*preference, Name::from_ascii(host).unwrap())).collect();
        by_preference(records, own).iter().map(Name::to_ascii).collect()
    }

    #[test]
    fn lower_preference_comes_first_and_equals_are_shuffled() {
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
    fn address_literals_are_parsed() {
        assert_eq!(literal("[192.0.2.1]"), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(literal("[IPv6:2001:db8::1]"), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(literal("[ipv6:::1]"), Some("::1".parse().unwrap()));
        for text in ["[192.0.2]", "[2001:db8::1]", "[", "[]", "[€€]"] {
            assert_eq!(literal(text), None, "{text}");
        }
    }

    #[test]
    fn an_address_in_an_mx_record_is_detected() {
        let ip = |name: &str| ip_in_name(&Name::from_ascii(name).unwrap());
        assert_eq!(ip("192.0.2.1."), Some("192.0.2.1".parse().unwrap()));
        assert_eq!((ip("mx.test."), ip("192.0.2.1.test.")), (None, None));
    }
}
