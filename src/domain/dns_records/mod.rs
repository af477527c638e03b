//! The DNS records that authenticate a domain's messages, and the checks of what is published. Pure.
//!
//! Records: DKIM keys (RFC 6376 §3.6.1), SPF of the domain and of the return path (RFC 7208), DMARC (RFC 7489) and the
//! return path's MX. [`judge`] compares what was found with what is expected and says how to fix it; [`Verdict`] is the
//! result for the domain as a whole.

mod dkim_record;
mod dmarc;
mod judge;
pub mod spf;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::dkim::{self, Algorithm, KeyState};

pub use dmarc::Strict;
pub use judge::{Answer, Evidence, Host, SpfEvidence, is_meant, judge};

/// The parts of the configuration that records depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The name of this machine, or an address literal.
    pub hostname: String,
    /// The SPF terms of this installation, such as `a:mail.example.net`; separated by spaces.
    pub spf: String,
    /// The domain that bounces go to, if it is not the sender's own.
    pub return_path: Option<String>,
    /// Which keys sign.
    pub algorithms: Vec<Algorithm>,
    /// Whether some messages go to recipients' servers without a relay, which then see the hostname.
    pub is_direct: bool,
}

/// A record type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schema(as = DnsRecordType)]
pub enum RecordType {
    /// Text.
    Txt,
    /// A mail exchanger: preference and host.
    Mx,
}

/// The purpose of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DnsRecordPurpose)]
pub enum Purpose {
    /// The public key of a DKIM key that signs, or will.
    Dkim,
    /// Which servers may send for the domain.
    Spf,
    /// What receivers do with messages that fail authentication.
    Dmarc,
    /// Where bounces go.
    ReturnPath,
    /// Which servers may send for the domain that bounces go to.
    ReturnPathSpf,
    /// Which servers may use the hostname in EHLO, which receivers check if the return path is empty.
    HeloSpf,
}

/// The status of a record in the DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DnsRecordStatus)]
pub enum RecordStatus {
    /// Not checked yet.
    Unchecked,
    /// Published correctly.
    Ok,
    /// Not published.
    Missing,
    /// A different record is published, or several.
    Wrong,
    /// The DNS did not answer.
    Unanswered,
}

/// A record to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its type.
    pub kind: RecordType,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Its purpose.
    pub purpose: Purpose,
}

/// A record, and what the DNS has in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = DnsRecord)]
pub struct Finding {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: RecordType,
    /// The name to publish it at.
    #[schema(example = "pr-k7xq2m9a-rsa._domainkey.acme.test")]
    pub name: String,
    /// The value to publish. More than 255 characters are published as several strings.
    #[schema(example = "v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A…")]
    pub value: String,
    /// Its purpose.
    pub purpose: Purpose,
    /// The result of the last check.
    pub status: RecordStatus,
    /// The records found in its place.
    pub found: Vec<String>,
    /// How to fix it; null if nothing is wrong.
    pub mend: Option<String>,
    /// A probable mistake in a record that receivers accept.
    #[serde(default)]
    pub warning: Option<String>,
}

/// A key's record.
#[derive(Debug, Clone)]
pub struct PublishedKey {
    /// Its selector.
    pub selector: String,
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// Its state.
    pub state: KeyState,
    /// Its public key.
    pub public: Vec<u8>,
}

impl PublishedKey {
    /// Returns the name of its record.
    pub fn name(&self, domain: &str) -> String {
        format!("{}._domainkey.{domain}", self.selector)
    }

    /// Returns whether its record counts for the domain's verification: the key signs with this configuration, or would
    /// if none does.
    fn verifies(&self, terms: &Terms) -> bool {
        self.state == KeyState::Active && self.is_in_use(terms)
    }

    /// Returns whether it signs with this configuration, or will, or would if none does.
    pub fn is_in_use(&self, terms: &Terms) -> bool {
        let is_chosen = terms.algorithms.is_empty() || terms.algorithms.contains(&self.algorithm);
        self.state != KeyState::Retiring && is_chosen
    }
}

/// A domain's policy for messages that fail authentication (RFC 7489 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DmarcPolicy {
    /// Deliver them, and report.
    None,
    /// Treat them as suspicious.
    Quarantine,
    /// Refuse them.
    Reject,
}

impl DmarcPolicy {
    /// Returns the word in SQL, JSON and the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        }
    }
}

impl fmt::Display for DmarcPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DmarcPolicy {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        [Self::None, Self::Quarantine, Self::Reject]
            .into_iter()
            .find(|policy| policy.as_str().eq_ignore_ascii_case(word))
            .ok_or(())
    }
}

/// Returns every record that `domain` needs, its keys' first.
pub fn records(terms: &Terms, domain: &str, keys: &[PublishedKey]) -> Vec<Record> {
    let txt = |name: String, value: String, purpose| Record { kind: RecordType::Txt, name, value, purpose };
    let spf = || format!("v=spf1 {} ~all", terms.spf);
    let mut records: Vec<Record> =
        keys.iter().map(|key| txt(key.name(domain), dkim::record(key.algorithm, &key.public), Purpose::Dkim)).collect();
    records.push(txt(domain.to_owned(), spf(), Purpose::Spf));
    records.push(txt(format!("_dmarc.{domain}"), "v=DMARC1; p=none".into(), Purpose::Dmarc));
    if let Some(return_path) = &terms.return_path {
        // A mail exchanger is a name; an address literal cannot be one.
        if !terms.hostname.starts_with('[') {
            let value = format!("10 {}.", terms.hostname.trim_end_matches('.'));
            let name = return_path.clone();
            records.push(Record { kind: RecordType::Mx, name, value, purpose: Purpose::ReturnPath });
        }
        if return_path != domain {
            records.push(txt(return_path.clone(), spf(), Purpose::ReturnPathSpf));
        }
    }
    let is_named = |name: &str| domain == name || terms.return_path.as_deref() == Some(name);
    let hostname = terms.hostname.trim_end_matches('.');
    // An address literal or a single label cannot have a record.
    if terms.is_direct && hostname.contains('.') && !hostname.starts_with('[') && !is_named(hostname) {
        records.push(txt(hostname.to_owned(), "v=spf1 a -all".into(), Purpose::HeloSpf));
    }
    records
}

impl Record {
    /// Returns the names to query in order, until one has such a record: a DMARC policy may be at the organisational
    /// domain (RFC 7489 §6.6.3), but not at domains between.
    pub fn names(&self) -> Vec<String> {
        let organisation = || {
            let domain = self.name.strip_prefix("_dmarc.")?;
            Some(format!("_dmarc.{}", organisation(domain))).filter(|name| *name != self.name)
        };
        match self.purpose {
            Purpose::Dmarc => std::iter::once(self.name.clone()).chain(organisation()).collect(),
            _ => vec![self.name.clone()],
        }
    }

    /// Returns the finding before the first check.
    pub fn unchecked(self) -> Finding {
        self.found(RecordStatus::Unchecked, Vec::new(), None)
    }

    fn found(self, status: RecordStatus, mut found: Vec<String>, fix: Option<String>) -> Finding {
        let Self { kind, name, value, purpose } = self;
        found.truncate(MOST_FOUND);
        for value in &mut found {
            if let Some((end, _)) = value.char_indices().nth(LONGEST_FOUND) {
                value.truncate(end);
            }
        }
        Finding { kind, name, value, purpose, status, found, mend: fix, warning: None }
    }
}

/// How many found records are kept.
const MOST_FOUND: usize = 10;
/// How many characters of each are kept.
const LONGEST_FOUND: usize = 1_000;

/// Returns the records to publish, each with the result of the last check.
pub fn with_findings(records: Vec<Record>, findings: &[Finding]) -> Vec<Finding> {
    let finding_of = |record: Record| {
        let same = |found: &&Finding| {
            (found.kind, &found.name, &found.value) == (record.kind, &record.name, &record.value)
                && found.purpose == record.purpose
        };
        findings.iter().find(same).cloned().unwrap_or_else(|| record.unchecked())
    };
    records.into_iter().map(finding_of).collect()
}

/// The interval between checks of a verified domain.
const SETTLED: TimeDelta = TimeDelta::hours(6);
/// The interval between checks of a domain with a missing record.
pub const UNSETTLED: TimeDelta = TimeDelta::minutes(5);
/// How long the record of a retired key must stay published.
pub const RETIRING: TimeDelta = TimeDelta::days(7);

/// The result of a check for a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The finding of each record.
    pub findings: Vec<Finding>,
    /// The selectors of the pending keys whose records are published, so that they may sign.
    pub seen: Vec<String>,
    /// Whether the records of all signing keys are published; `None` if the DNS did not answer.
    pub is_verified: Option<bool>,
    /// The DMARC policy that applies, if any; the outer `None` if the DNS did not answer.
    pub dmarc: Option<Option<DmarcPolicy>>,
    /// Which alignments that policy requires to be strict.
    pub strict: Strict,
}

impl Verdict {
    /// Derives the result from the findings.
    pub fn new(terms: &Terms, domain: &str, keys: &[PublishedKey], findings: Vec<Finding>) -> Self {
        let status = |key: &PublishedKey| {
            let name = key.name(domain);
            findings.iter().find(|found| found.name == name).map_or(RecordStatus::Unchecked, |found| found.status)
        };
        let pending = keys.iter().filter(|key| key.state == KeyState::Pending);
        let seen = pending.filter(|key| status(key) == RecordStatus::Ok).map(|key| key.selector.clone()).collect();
        let signing: Vec<RecordStatus> = keys.iter().filter(|key| key.verifies(terms)).map(status).collect();
        let is_verified = if signing.iter().any(|s| matches!(s, RecordStatus::Missing | RecordStatus::Wrong)) {
            Some(false)
        } else if signing.contains(&RecordStatus::Unanswered) {
            None
        } else {
            Some(!signing.is_empty())
        };
        let dmarc = findings.iter().find(|found| found.purpose == Purpose::Dmarc);
        let applying = dmarc.and_then(|found| match found.status {
            RecordStatus::Unanswered | RecordStatus::Unchecked => None,
            _ => Some(judge::applying(found)),
        });
        let strict = applying.flatten().map_or_else(Strict::default, |(read, _)| read.strict);
        let policy =
            |(read, is_parents): (dmarc::Dmarc, bool)| if is_parents { read.subdomain_policy } else { read.policy };
        Self { findings, seen, is_verified, dmarc: applying.map(|applying| applying.map(policy)), strict }
    }

    /// Returns how long to wait before the next check: a short time if a record is still to be published. Keys that
    /// will not sign do not count.
    pub fn next_check(&self, terms: &Terms, keys: &[PublishedKey]) -> TimeDelta {
        let mut pending = keys.iter().filter(|key| key.state == KeyState::Pending && key.is_in_use(terms));
        let is_settled = pending.all(|key| self.seen.contains(&key.selector));
        if self.is_verified == Some(true) && is_settled { SETTLED } else { UNSETTLED }
    }
}

/// How long a domain whose records have vanished still counts as verified, so that a DNS mistake does not stop its
/// messages.
const GRACE: TimeDelta = TimeDelta::hours(72);

/// The status of a domain after its checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DomainStatus {
    /// Its keys' records were never found.
    Pending,
    /// The last check found the records of all signing keys.
    Verified,
    /// The last check did not find them, but one less than 72 hours before did: it still counts as verified.
    Failing,
    /// Its records have been missing for longer.
    Unverified,
}

impl DomainStatus {
    /// Derives the status from the last check that the DNS answered and the last one that found all records.
    pub fn from_checks(checked_at: Option<DateTime<Utc>>, verified_at: Option<DateTime<Utc>>) -> Self {
        match (checked_at, verified_at) {
            (_, None) => Self::Pending,
            (Some(checked), Some(verified)) if checked - verified >= GRACE => Self::Unverified,
            (Some(checked), Some(verified)) if checked > verified => Self::Failing,
            _ => Self::Verified,
        }
    }

    /// Returns whether the domain counts as verified.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Verified | Self::Failing)
    }
}

/// Returns whether messages from `domain` can be SPF-aligned with a return path at `return_path`: in DMARC's relaxed
/// mode both have the same organisational domain, in strict mode they are equal.
pub fn is_aligned(domain: &str, return_path: &str, strict: Strict) -> bool {
    domain == return_path || (!strict.spf && organisation(domain) == organisation(return_path))
}

/// Returns the organisational domain (RFC 7489 §3.2): one label below the public suffix, or the domain itself if it is
/// one.
pub fn organisation(domain: &str) -> &str {
    psl::domain_str(domain).unwrap_or(domain)
}

/// Returns a domain and its parents except the top-level domain, the nearest first.
pub fn lineage(domain: &str) -> Vec<String> {
    std::iter::successors(Some(domain), |domain| {
        let (_, parent) = domain.split_once('.')?;
        parent.contains('.').then_some(parent)
    })
    .map(str::to_owned)
    .collect()
}
