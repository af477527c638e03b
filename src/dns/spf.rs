//! `check_host()` of RFC 7208 §4: evaluates an SPF record for an address as a receiver does, and gives the reason for
//! the result.
//!
//! This module replaces mail-auth's evaluation, which gives no reason, uses the first of several records, and skips
//! terms that are errors by §4.6. mail-auth is still used to expand macros. An evaluation sends no more queries than a
//! receiver would.

use std::net::IpAddr;
use std::pin::Pin;

use ipnet::IpNet;
use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::spf::{Mechanism as Parsed, Spf as ParsedSpf, Variables};

use crate::domain::sender_domain::dns_records::spf::{Mechanism, Spf, SpfResult, is_spf, parse};

/// The maximum number of terms that query the DNS (§4.6.4).
const MAX_LOOKUPS: u32 = 10;
/// The maximum number of lookups that find nothing (§4.6.4).
const MAX_VOID_LOOKUPS: u32 = 2;
/// The maximum number of mail exchangers of an `mx` term, and of names of a `ptr` term.
const MAX_HOSTS: usize = 10;

/// The records found (empty if there are none), or the reason why the query failed.
type Answer<T> = Result<Vec<T>, String>;

/// A source of DNS records.
pub trait Zone: Sync {
    /// Returns the TXT records of a name.
    fn texts(&self, name: &str) -> impl Future<Output = Answer<String>> + Send;
    /// Returns the addresses of a host.
    fn addresses(&self, host: &str) -> impl Future<Output = Answer<IpAddr>> + Send;
    /// Returns the mail exchangers of a name, each as `preference host`.
    fn exchangers(&self, name: &str) -> impl Future<Output = Answer<String>> + Send;
    /// Returns the names in an address's PTR records.
    fn names(&self, address: IpAddr) -> impl Future<Output = Answer<String>> + Send;
}

/// The result of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The result.
    pub result: SpfResult,
    /// The reason, as a clause.
    pub reason: String,
}

/// Evaluates the SPF record of `domain` for `address`. `record`, if given, replaces the one in the DNS.
pub async fn check_host<Z: Zone>(zone: &Z, address: IpAddr, domain: &str, record: Option<&str>) -> Outcome {
    let mut evaluation = Evaluation { zone, address, sender: domain, lookups: 0, voids: 0 };
    let outcome = match record {
        Some(record) => evaluation.evaluate(domain, record).await,
        None => evaluation.check(domain).await,
    };
    let (result, reason) = outcome.unwrap_or_else(|end| end);
    Outcome { result, reason }
}

/// A result and its reason.
type Judged = (SpfResult, String);
/// A step of an evaluation. An error ends the whole evaluation.
type Step<T> = Result<T, Judged>;

fn permanent<T>(reason: String) -> Step<T> {
    Err((SpfResult::PermError, reason))
}

struct Evaluation<'z, Z> {
    zone: &'z Z,
    address: IpAddr,
    sender: &'z str,
    lookups: u32,
    voids: u32,
}

impl<Z: Zone> Evaluation<'_, Z> {
    async fn check(&mut self, domain: &str) -> Step<Judged> {
        let texts = or_temporary(self.zone.texts(domain).await, domain)?;
        let found: Vec<String> = texts.into_iter().filter(|text| is_spf(text)).collect();
        match found.as_slice() {
            [] => Ok((SpfResult::None, format!("{domain} has no SPF record"))),
            [only] => self.evaluate(domain, only).await,
            several => permanent(format!("{domain} has {} SPF records", several.len())),
        }
    }

    /// Evaluates a record. Calls itself for included records.
    fn evaluate<'s>(
        &'s mut self,
        domain: &'s str,
        record: &'s str,
    ) -> Pin<Box<dyn Future<Output = Step<Judged>> + Send + 's>> {
        Box::pin(async move {
            let Spf { directives, redirect } = match parse(record) {
                Ok(spf) => spf,
                Err(why) => return permanent(format!("{why} (in the record of {domain})")),
            };
            for directive in &directives {
                let text = &directive.text;
                if let Some(through) = self.matches(domain, text, &directive.mechanism).await? {
                    return Ok((directive.result, format!("`{text}` of {domain} matches{through}")));
                }
            }
            let Some(target) = redirect else {
                return Ok((SpfResult::Neutral, format!("nothing in the record of {domain} matches")));
            };
            self.count_lookup(domain, &format!("redirect={target}"))?;
            let target = self.expand(&target, domain);
            match self.check(&target).await? {
                (SpfResult::None, why) => permanent(format!("{why}, and the record of {domain} redirects to it")),
                judged => Ok(judged),
            }
        })
    }

    /// Returns `Some` if a mechanism matches, with the reason if it is an include.
    async fn matches(&mut self, domain: &str, text: &str, mechanism: &Mechanism) -> Step<Option<String>> {
        let is_match = match mechanism {
            Mechanism::All => true,
            Mechanism::Ip(network, prefix) => is_in(self.address, *network, *prefix),
            Mechanism::Include(target) => return self.include(domain, text, target).await,
            Mechanism::A(target, v4, v6) => {
                self.count_lookup(domain, text)?;
                let host = self.target(target.as_deref(), domain);
                self.is_address_of(&host, *v4, *v6).await?
            }
            Mechanism::Mx(target, v4, v6) => {
                self.count_lookup(domain, text)?;
                let name = self.target(target.as_deref(), domain);
                self.is_exchanger(text, &name, *v4, *v6).await?
            }
            Mechanism::Exists(target) => {
                self.count_lookup(domain, text)?;
                let host = self.target(Some(target), domain);
                // Only an A record counts, also for IPv6 (§5.7).
                let found = or_temporary(self.zone.addresses(&host).await, &host)?;
                let exists = found.iter().any(IpAddr::is_ipv4);
                self.count_void(!exists, &host)?;
                exists
            }
            Mechanism::Ptr(target) => {
                self.count_lookup(domain, text)?;
                let within = self.target(target.as_deref(), domain);
                self.has_ptr_name(&within).await?
            }
        };
        Ok(is_match.then(String::new))
    }

    async fn include(&mut self, domain: &str, text: &str, target: &str) -> Step<Option<String>> {
        self.count_lookup(domain, text)?;
        let target = self.expand(target, domain);
        match self.check(&target).await? {
            (SpfResult::Pass, why) => Ok(Some(format!(": {why}"))),
            (SpfResult::None, why) => permanent(format!("{why}, and the record of {domain} includes it")),
            _ => Ok(None),
        }
    }

    async fn is_address_of(&mut self, host: &str, v4: u8, v6: u8) -> Step<bool> {
        let found = or_temporary(self.zone.addresses(host).await, host)?;
        let is_same_version = |address: &&IpAddr| address.is_ipv4() == self.address.is_ipv4();
        let candidates: Vec<IpAddr> = found.iter().filter(is_same_version).copied().collect();
        self.count_void(candidates.is_empty(), host)?;
        Ok(candidates.into_iter().any(|address| is_in(self.address, address, if address.is_ipv4() { v4 } else { v6 })))
    }

    async fn is_exchanger(&mut self, text: &str, name: &str, v4: u8, v6: u8) -> Step<bool> {
        let hosts = or_temporary(self.zone.exchangers(name).await, name)?;
        self.count_void(hosts.is_empty(), name)?;
        if hosts.len() > MAX_HOSTS {
            return permanent(format!("`{text}` names {} mail exchangers; {MAX_HOSTS} are allowed", hosts.len()));
        }
        for exchanger in hosts {
            let host = exchanger.split_whitespace().last().unwrap_or_default();
            if self.is_address_of(host, v4, v6).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Checks a `ptr` mechanism. A DNS error counts as no match (§5.5).
    async fn has_ptr_name(&mut self, within: &str) -> Step<bool> {
        let names = self.zone.names(self.address).await.unwrap_or_default();
        self.count_void(names.is_empty(), within)?;
        let within = within.trim_end_matches('.').to_ascii_lowercase();
        let is_within =
            |name: &String| name.strip_suffix(&within).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        for name in names.iter().take(MAX_HOSTS).filter(|name| is_within(name)) {
            if self.zone.addresses(name).await.unwrap_or_default().contains(&self.address) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn count_lookup(&mut self, domain: &str, text: &str) -> Step<()> {
        self.lookups += 1;
        if self.lookups > MAX_LOOKUPS {
            return permanent(format!(
                "more than {MAX_LOOKUPS} lookups are needed: the next is for `{text}` of {domain}"
            ));
        }
        Ok(())
    }

    fn count_void(&mut self, is_void: bool, name: &str) -> Step<()> {
        self.voids += u32::from(is_void);
        if self.voids > MAX_VOID_LOOKUPS {
            return permanent(format!("more than {MAX_VOID_LOOKUPS} lookups find nothing: the last was for {name}"));
        }
        Ok(())
    }

    fn target(&self, target: Option<&str>, domain: &str) -> String {
        target.map_or_else(|| domain.to_owned(), |target| self.expand(target, domain))
    }

    /// Expands the macros of a name, and shortens the result from the left to the longest valid name (§7.3).
    fn expand(&self, target: &str, domain: &str) -> String {
        if !target.contains('%') {
            return target.to_owned();
        }
        let Ok(parsed) = ParsedSpf::parse(format!("v=spf1 include:{target}").as_bytes()) else {
            return target.to_owned();
        };
        let [directive] = &*parsed.directives else { return target.to_owned() };
        let Parsed::Include { macro_string } = &directive.mechanism else { return target.to_owned() };
        let mut variables = Variables::new();
        variables.set_ip(&self.address);
        variables.set_sender(format!("postmaster@{}", self.sender).into_bytes());
        variables.set_domain(domain.as_bytes());
        variables.set_helo_domain(self.sender.as_bytes());
        let mut name = macro_string.eval(&variables, domain, true).into_owned();
        while name.len() > 253 {
            let Some((_, rest)) = name.split_once('.') else { break };
            name = rest.to_owned();
        }
        name
    }
}

fn or_temporary<T>(answer: Answer<T>, name: &str) -> Step<Vec<T>> {
    answer.map_err(|why| (SpfResult::TempError, format!("the DNS query for {name} failed ({why})")))
}

/// Returns whether an address is in a network. An IPv4-mapped IPv6 address counts as IPv4.
fn is_in(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    IpNet::new(network, prefix).is_ok_and(|network| network.contains(&address.to_canonical()))
}

/// The maximum number of terms that [`passing_addresses`] reads.
const MAX_SOURCES: usize = 20;
/// The maximum number of addresses that [`passing_addresses`] returns.
const MAX_ADDRESSES: usize = 8;

/// Returns addresses that a record lets pass: all addresses of a host, the first and the last of a network, and those
/// of included records. For the record that Postrider expects, these are the sending addresses.
pub async fn passing_addresses<Z: Zone>(zone: &Z, domain: &str, record: &str) -> Result<Vec<IpAddr>, String> {
    let mut pending = vec![(domain.to_owned(), record.to_owned())];
    let (mut addresses, mut terms_read) = (Vec::new(), 0);
    while let Some((domain, record)) = pending.pop() {
        let spf = parse(&record).map_err(|why| format!("{why} (in the record of {domain})"))?;
        let passing = spf.directives.into_iter().filter(|directive| directive.result == SpfResult::Pass);
        let terms = passing.map(|directive| directive.mechanism).chain(spf.redirect.map(Mechanism::Include));
        for term in terms {
            terms_read += 1;
            if terms_read > MAX_SOURCES || addresses.len() >= MAX_ADDRESSES {
                break;
            }
            let name = |target: &Option<String>| target.clone().unwrap_or_else(|| domain.clone());
            match term {
                Mechanism::Ip(network, prefix) => addresses.extend(ends(network, prefix)),
                Mechanism::A(target, ..) => addresses.extend(zone.addresses(&name(&target)).await?),
                Mechanism::Mx(target, ..) => {
                    for exchanger in zone.exchangers(&name(&target)).await?.iter().take(MAX_HOSTS) {
                        let host = exchanger.split_whitespace().last().unwrap_or_default();
                        addresses.extend(zone.addresses(host).await?);
                    }
                }
                Mechanism::Include(target) => {
                    let records = zone.texts(&target).await?;
                    pending.extend(records.into_iter().find(|text| is_spf(text)).map(|record| (target, record)));
                }
                Mechanism::All | Mechanism::Ptr(_) | Mechanism::Exists(_) => {}
            }
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    Ok(addresses)
}

/// Returns the first and the last address of a network.
fn ends(network: IpAddr, prefix: u8) -> Vec<IpAddr> {
    IpNet::new(network, prefix).map(|network| vec![network.network(), network.broadcast()]).unwrap_or_default()
}

#[cfg(test)]
mod tests;
