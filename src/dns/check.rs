//! Checks whether records are published, and how receivers evaluate them.
//!
//! The sending addresses are those that the expected SPF record allows: the addresses of the hostname, or those that
//! `domains.spf` names. SPF is evaluated for these addresses. A return path's mail exchangers must have only addresses
//! of the expected mail exchanger.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::StreamExt as _;
use futures_util::stream;
use parking_lot::Mutex;

use super::UncachedResolver;
use super::spf::{Zone, check_host, passing_addresses};
use crate::domain::sender_domain::dns_records::spf::{SpfResult, is_spf, repairs, targets};
use crate::domain::sender_domain::dns_records::{
    Answer, Evidence, Finding, MxTarget, Purpose, Record, RecordType, SpfEvidence, has_purpose, judge,
};

/// The number of records that are checked concurrently.
const CONCURRENT_RECORDS: usize = 8;
/// Number of answered queries after which a check sends no more. Without this limit, the domain's owner could cause any
/// number of queries, because records refer to other records.
const MAX_QUERIES: usize = 400;
/// The maximum number of a return path's mail exchangers that are looked up.
const MAX_EXCHANGERS: usize = 10;
/// An address from which no messages are sent (RFC 2544).
const UNRELATED_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 255, 254));

/// Looks up every record and returns a finding for each, in the same order.
pub async fn check(dns: &UncachedResolver, records: Vec<Record>) -> Vec<Finding> {
    check_in(dns, records).await
}

/// Like [`check`], in any zone. Caches the answers for the duration of the check.
pub(super) async fn check_in<Z: Zone>(zone: &Z, records: Vec<Record>) -> Vec<Finding> {
    let zone = CachingZone { zone, answers: Mutex::default() };
    stream::iter(records).map(|record| check_record(&zone, record)).buffered(CONCURRENT_RECORDS).collect().await
}

async fn check_record<Z: Zone>(zone: &Z, record: Record) -> Finding {
    let (mut at, mut answer): (String, Answer) = (record.name.clone(), Ok(Vec::new()));
    let mut other_records = Vec::new();
    for name in record.names() {
        answer = match record.kind {
            RecordType::Txt => zone.texts(&name).await,
            RecordType::Mx => zone.exchangers(&name).await,
        };
        at = name;
        // If a query fails, there may be a record at this name, so the parent's record does not count.
        match &answer {
            Ok(found) if !found.iter().any(|value| has_purpose(record.purpose, value)) => {
                other_records.extend(found.clone());
            }
            _ => break,
        }
    }
    if let Ok(found) = &mut answer
        && !found.iter().any(|value| has_purpose(record.purpose, value))
    {
        *found = other_records;
    }
    let found = answer.as_deref().unwrap_or_default();
    let evidence = match record.purpose {
        Purpose::Spf | Purpose::ReturnPathSpf | Purpose::HeloSpf => {
            let matching: Vec<&String> = found.iter().filter(|value| has_purpose(record.purpose, value)).collect();
            match matching.as_slice() {
                [only] => Evidence::Spf(spf(zone, &record, only).await),
                _ => Evidence::None,
            }
        }
        Purpose::ReturnPath => Evidence::Exchangers(exchangers(zone, &record, found).await),
        Purpose::Dkim | Purpose::Dmarc => Evidence::None,
    };
    judge(record, &at, answer, &evidence)
}

/// Evaluates the domain's only SPF record as receivers do.
async fn spf<Z: Zone>(zone: &Z, record: &Record, found: &str) -> SpfEvidence {
    let addresses = match passing_addresses(zone, &record.name, &record.value).await {
        Ok(addresses) if addresses.is_empty() => {
            return SpfEvidence::NoAddress(format!("no name in {} has an address", record.value));
        }
        Ok(addresses) => addresses,
        Err(why) => return SpfEvidence::NoAddress(why),
    };
    let mut worst = None;
    for address in &addresses {
        let outcome = check_host(zone, *address, &record.name, None).await;
        if worst.as_ref().is_none_or(|(_, known): &(IpAddr, super::spf::Outcome)| outcome.result < known.result) {
            worst = Some((*address, outcome));
        }
    }
    let Some((address, outcome)) = worst else { return SpfEvidence::NoAddress("there is no address".into()) };
    let unrelated = check_host(zone, UNRELATED_ADDRESS, &record.name, None).await;
    let mut repair = None;
    if !matches!(outcome.result, SpfResult::Pass | SpfResult::TempError) {
        let without_record = without_record(zone, found).await;
        for candidate in repairs(found, &record.value, &addresses, &without_record) {
            if is_acceptable(zone, &record.name, &candidate, &addresses).await {
                repair = Some(candidate);
                break;
            }
        }
    }
    SpfEvidence::Evaluated {
        address,
        result: outcome.result,
        reason: outcome.reason,
        unrelated: (unrelated.result, unrelated.reason),
        repair,
    }
}

/// Returns the domains that a record includes or redirects to, but that have no SPF record.
async fn without_record<Z: Zone>(zone: &Z, record: &str) -> Vec<String> {
    let mut without_record = Vec::new();
    for target in targets(record).into_iter().filter(|target| !target.contains('%')) {
        if zone.texts(&target).await.is_ok_and(|found| !found.iter().any(|text| is_spf(text))) {
            without_record.push(target);
        }
    }
    without_record
}

/// Returns whether the record gives `pass` for the sending addresses, and neither `pass` nor `permerror` for an unrelated
/// address.
async fn is_acceptable<Z: Zone>(zone: &Z, domain: &str, record: &str, addresses: &[IpAddr]) -> bool {
    for address in addresses {
        if check_host(zone, *address, domain, Some(record)).await.result != SpfResult::Pass {
            return false;
        }
    }
    let unrelated = check_host(zone, UNRELATED_ADDRESS, domain, Some(record)).await.result;
    !matches!(unrelated, SpfResult::Pass | SpfResult::PermError)
}

/// Compares the addresses of each mail exchanger with those of the expected one.
async fn exchangers<Z: Zone>(zone: &Z, record: &Record, found: &[String]) -> Vec<MxTarget> {
    let host = |value: &str| {
        let host = value.split_whitespace().last().unwrap_or_default();
        host.trim_end_matches('.').to_ascii_lowercase()
    };
    let own = zone.addresses(&host(&record.value)).await;
    let mut targets = Vec::new();
    for value in found.iter().take(MAX_EXCHANGERS) {
        targets.push(match (zone.addresses(&host(value)).await, &own) {
            (Ok(addresses), _) if addresses.is_empty() => MxTarget::NoAddress,
            (Err(_), _) | (Ok(_), Err(_)) => MxTarget::Unanswered,
            (Ok(addresses), Ok(own)) if addresses.iter().all(|address| own.contains(address)) => MxTarget::ThisServer,
            (Ok(_), Ok(_)) => MxTarget::OtherServer,
        });
    }
    targets.resize(found.len(), MxTarget::OtherServer);
    targets
}

/// A query, as the key of its cached answer.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Query {
    Texts(String),
    Addresses(String),
    Exchangers(String),
    Names(IpAddr),
}

/// A cached answer.
#[derive(Clone)]
enum CachedAnswer {
    Texts(Result<Vec<String>, String>),
    Addresses(Result<Vec<IpAddr>, String>),
}

/// A zone that caches its answers for one check, and limits the number of queries.
struct CachingZone<'z, Z> {
    zone: &'z Z,
    answers: Mutex<HashMap<Query, CachedAnswer>>,
}

impl<Z: Zone> CachingZone<'_, Z> {
    /// Returns the cached answer; for a new query, an error if the limit is reached.
    fn cached(&self, query: &Query) -> Option<CachedAnswer> {
        let answers = self.answers.lock();
        let is_full = answers.len() >= MAX_QUERIES;
        answers.get(query).cloned().or_else(|| {
            let why = || "the check needs too many lookups".to_owned();
            is_full.then(|| match query {
                Query::Addresses(_) => CachedAnswer::Addresses(Err(why())),
                _ => CachedAnswer::Texts(Err(why())),
            })
        })
    }

    fn store(&self, query: Query, answer: CachedAnswer) {
        self.answers.lock().insert(query, answer);
    }

    async fn cached_texts<F>(&self, query: Query, send: F) -> Result<Vec<String>, String>
    where
        F: Future<Output = Result<Vec<String>, String>> + Send,
    {
        if let Some(CachedAnswer::Texts(answer)) = self.cached(&query) {
            return answer;
        }
        let answer = send.await;
        self.store(query, CachedAnswer::Texts(answer.clone()));
        answer
    }
}

fn normalised(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

impl<Z: Zone> Zone for CachingZone<'_, Z> {
    async fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        self.cached_texts(Query::Texts(normalised(name)), self.zone.texts(name)).await
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let query = Query::Addresses(normalised(host));
        if let Some(CachedAnswer::Addresses(answer)) = self.cached(&query) {
            return answer;
        }
        let answer = self.zone.addresses(host).await;
        self.store(query, CachedAnswer::Addresses(answer.clone()));
        answer
    }

    async fn exchangers(&self, name: &str) -> Result<Vec<String>, String> {
        self.cached_texts(Query::Exchangers(normalised(name)), self.zone.exchangers(name)).await
    }

    async fn names(&self, address: IpAddr) -> Result<Vec<String>, String> {
        self.cached_texts(Query::Names(address), self.zone.names(address)).await
    }
}

impl Zone for UncachedResolver {
    async fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        UncachedResolver::texts(self, name).await
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        UncachedResolver::addresses(self, host).await
    }

    async fn exchangers(&self, name: &str) -> Result<Vec<String>, String> {
        UncachedResolver::exchangers(self, name).await
    }

    async fn names(&self, address: IpAddr) -> Result<Vec<String>, String> {
        UncachedResolver::names(self, address).await
    }
}
