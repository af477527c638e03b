//! Checks whether records are published, and how receivers evaluate them.
//!
//! The addresses we send from are those that the expected record allows: the addresses of the hostname, or of what
//! `domains.spf` names. SPF is evaluated for them, and a return path's mail exchangers must lead to them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::StreamExt as _;
use futures_util::stream;
use parking_lot::Mutex;

use super::Asker;
use super::spf::{Zone, addresses_of, check_host};
use crate::domain::dns_records::spf::{SpfResult, is_spf, repairs, targets};
use crate::domain::dns_records::{
    Answer, Evidence, Finding, Host, Purpose, Record, RecordType, SpfEvidence, is_meant, judge,
};

/// Concurrent queries.
const AT_ONCE: usize = 8;
/// Maximum queries of a check: the owner of a domain decides how many further records it refers to.
const MOST_QUESTIONS: usize = 400;
/// Maximum mail exchangers of a return path that are looked up.
const MOST_EXCHANGERS: usize = 10;
/// An address that no one sends from (RFC 2544).
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 255, 254));

/// Looks up every record and returns a finding for each, in the same order.
pub async fn check(dns: &Asker, records: Vec<Record>) -> Vec<Finding> {
    check_in(dns, records).await
}

/// Does the same in any zone. No query is sent twice.
pub(super) async fn check_in<Z: Zone>(zone: &Z, records: Vec<Record>) -> Vec<Finding> {
    let zone = Remembered { zone, known: Mutex::default() };
    stream::iter(records).map(|record| one(&zone, record)).buffered(AT_ONCE).collect().await
}

async fn one<Z: Zone>(zone: &Z, record: Record) -> Finding {
    let (mut at, mut answer): (String, Answer) = (record.name.clone(), Ok(Vec::new()));
    let mut passed_over = Vec::new();
    for name in record.names() {
        answer = match record.kind {
            RecordType::Txt => zone.texts(&name).await,
            RecordType::Mx => zone.exchangers(&name).await,
        };
        at = name;
        // A query that failed may hide a record, so the parent's record does not count.
        match &answer {
            Ok(found) if !found.iter().any(|value| is_meant(record.purpose, value)) => {
                passed_over.extend(found.clone());
            }
            _ => break,
        }
    }
    if let Ok(found) = &mut answer
        && !found.iter().any(|value| is_meant(record.purpose, value))
    {
        *found = passed_over;
    }
    let found = answer.as_deref().unwrap_or_default();
    let evidence = match record.purpose {
        Purpose::Spf | Purpose::ReturnPathSpf | Purpose::HeloSpf => {
            let meant: Vec<&String> = found.iter().filter(|value| is_meant(record.purpose, value)).collect();
            match meant.as_slice() {
                [only] => Evidence::Spf(spf(zone, &record, only).await),
                _ => Evidence::None,
            }
        }
        Purpose::ReturnPath => Evidence::Hosts(hosts(zone, &record, found).await),
        Purpose::Dkim | Purpose::Dmarc => Evidence::None,
    };
    judge(record, &at, answer, &evidence)
}

/// Evaluates the only SPF record as receivers do.
async fn spf<Z: Zone>(zone: &Z, record: &Record, found: &str) -> SpfEvidence {
    let addresses = match addresses_of(zone, &record.name, &record.value).await {
        Ok(addresses) if addresses.is_empty() => {
            return SpfEvidence::NoAddress(format!("nothing that {} names has one", record.value));
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
    let Some((address, outcome)) = worst else { return SpfEvidence::NoAddress("there is none".into()) };
    let stranger = check_host(zone, STRANGER, &record.name, None).await;
    let mut repair = None;
    if !matches!(outcome.result, SpfResult::Pass | SpfResult::TempError) {
        let dead = dead(zone, found).await;
        for candidate in repairs(found, &record.value, &addresses, &dead) {
            if is_good(zone, &record.name, &candidate, &addresses).await {
                repair = Some(candidate);
                break;
            }
        }
    }
    SpfEvidence::Evaluated {
        address,
        result: outcome.result,
        reason: outcome.reason,
        stranger: (stranger.result, stranger.reason),
        repair,
    }
}

/// Returns the domains that a record includes or redirects to and that have no SPF record.
async fn dead<Z: Zone>(zone: &Z, record: &str) -> Vec<String> {
    let mut dead = Vec::new();
    for target in targets(record).into_iter().filter(|target| !target.contains('%')) {
        if zone.texts(&target).await.is_ok_and(|found| !found.iter().any(|text| is_spf(text))) {
            dead.push(target);
        }
    }
    dead
}

/// Returns whether a record lets our addresses pass and is no error for other senders.
async fn is_good<Z: Zone>(zone: &Z, domain: &str, record: &str, addresses: &[IpAddr]) -> bool {
    for address in addresses {
        if check_host(zone, *address, domain, Some(record)).await.result != SpfResult::Pass {
            return false;
        }
    }
    let stranger = check_host(zone, STRANGER, domain, Some(record)).await.result;
    !matches!(stranger, SpfResult::Pass | SpfResult::PermError)
}

/// Finds where each mail exchanger leads. One with our name counts as ours whatever its addresses.
async fn hosts<Z: Zone>(zone: &Z, record: &Record, found: &[String]) -> Vec<Host> {
    let host = |value: &str| {
        let host = value.split_whitespace().last().unwrap_or_default();
        host.trim_end_matches('.').to_ascii_lowercase()
    };
    let ours = zone.addresses(&host(&record.value)).await;
    let mut led = Vec::new();
    for value in found.iter().take(MOST_EXCHANGERS) {
        led.push(match (zone.addresses(&host(value)).await, &ours) {
            (Ok(addresses), _) if addresses.is_empty() => Host::Nowhere,
            (Err(_), _) | (Ok(_), Err(_)) => Host::Unanswered,
            (Ok(addresses), Ok(ours)) if addresses.iter().all(|address| ours.contains(address)) => Host::Here,
            (Ok(_), Ok(_)) => Host::Elsewhere,
        });
    }
    led.resize(found.len(), Host::Elsewhere);
    led
}

/// A query that was answered.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Question {
    Texts(String),
    Addresses(String),
    Exchangers(String),
    Names(IpAddr),
}

/// A cached answer.
#[derive(Clone)]
enum Known {
    Texts(Result<Vec<String>, String>),
    Addresses(Result<Vec<IpAddr>, String>),
}

/// A zone that caches its answers for one check, and limits the number of queries.
struct Remembered<'z, Z> {
    zone: &'z Z,
    known: Mutex<HashMap<Question, Known>>,
}

impl<Z: Zone> Remembered<'_, Z> {
    /// Returns the cached answer, or an error once the limit is reached.
    fn recall(&self, question: &Question) -> Option<Known> {
        let known = self.known.lock();
        let is_full = known.len() >= MOST_QUESTIONS;
        known.get(question).cloned().or_else(|| {
            let why = || "it takes too many look-ups".to_owned();
            is_full.then(|| match question {
                Question::Addresses(_) => Known::Addresses(Err(why())),
                _ => Known::Texts(Err(why())),
            })
        })
    }

    fn keep(&self, question: Question, answer: Known) {
        self.known.lock().insert(question, answer);
    }

    async fn texts_of<F>(&self, question: Question, ask: F) -> Result<Vec<String>, String>
    where
        F: Future<Output = Result<Vec<String>, String>> + Send,
    {
        if let Some(Known::Texts(answer)) = self.recall(&question) {
            return answer;
        }
        let answer = ask.await;
        self.keep(question, Known::Texts(answer.clone()));
        answer
    }
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

impl<Z: Zone> Zone for Remembered<'_, Z> {
    async fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        self.texts_of(Question::Texts(normal(name)), self.zone.texts(name)).await
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let question = Question::Addresses(normal(host));
        if let Some(Known::Addresses(answer)) = self.recall(&question) {
            return answer;
        }
        let answer = self.zone.addresses(host).await;
        self.keep(question, Known::Addresses(answer.clone()));
        answer
    }

    async fn exchangers(&self, name: &str) -> Result<Vec<String>, String> {
        self.texts_of(Question::Exchangers(normal(name)), self.zone.exchangers(name)).await
    }

    async fn names(&self, address: IpAddr) -> Result<Vec<String>, String> {
        self.texts_of(Question::Names(address), self.zone.names(address)).await
    }
}

impl Zone for Asker {
    async fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        Asker::texts(self, name).await
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        Asker::addresses(self, host).await
    }

    async fn exchangers(&self, name: &str) -> Result<Vec<String>, String> {
        Asker::exchangers(self, name).await
    }

    async fn names(&self, address: IpAddr) -> Result<Vec<String>, String> {
        Asker::names(self, address).await
    }
}
