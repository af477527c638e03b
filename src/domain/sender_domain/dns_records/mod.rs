//! The DNS records that authenticate a domain's messages, and the checks of the published records. No I/O.
//!
//! The records are DKIM keys (RFC 6376 §3.6.1), SPF of the domain and of the return path (RFC 7208), DMARC (RFC 7489)
//! and the return path's MX. [`judge`] compares the published records with the expected ones and describes how to fix
//! them; [`Verdict`] is the result for the whole domain.

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
pub use judge::{Answer, Evidence, MxTarget, SpfEvidence, has_purpose, judge};

/// The configuration that a domain's records depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSettings {
    /// This machine's host name, or an address literal.
    pub hostname: String,
    /// The SPF terms of this installation, separated by spaces, such as `a:mail.example.net`.
    pub spf: String,
    /// The domain that bounces are sent to; `None` if it is the sender's own domain.
    pub return_path: Option<String>,
    /// The algorithms of the keys that sign.
    pub algorithms: Vec<Algorithm>,
    /// Whether some messages are sent directly to recipients' servers, which then see the hostname.
    pub is_direct: bool,
}

/// A record type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schema(as = DnsRecordType)]
pub enum RecordType {
    /// A TXT record.
    Txt,
    /// An MX record: preference and host.
    Mx,
}

/// The purpose of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DnsRecordPurpose)]
pub enum Purpose {
    /// Publishes the public key of a DKIM key that signs, or will sign.
    Dkim,
    /// Lists the servers that may send for the domain.
    Spf,
    /// Tells receivers how to treat messages that fail authentication.
    Dmarc,
    /// Names the server that receives bounces.
    ReturnPath,
    /// Lists the servers that may send with the return path's domain.
    ReturnPathSpf,
    /// Lists the servers that may use the hostname in EHLO. Receivers check it if the return path is empty.
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
    /// A different record is published, or several records are.
    Wrong,
    /// The DNS query failed.
    Unanswered,
}

/// A record to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The record's type.
    pub kind: RecordType,
    /// The record's name.
    pub name: String,
    /// The record's value.
    pub value: String,
    /// The record's purpose.
    pub purpose: Purpose,
}

/// A record to publish, and the result of its last check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = DnsRecord)]
pub struct Finding {
    /// The record's type.
    #[serde(rename = "type")]
    #[schema(example = "TXT")]
    pub kind: RecordType,
    /// The name to publish it at.
    #[schema(example = "pr-k7xq2m9a-rsa._domainkey.acme.test")]
    pub name: String,
    /// The value to publish. Split a value of more than 255 characters into several strings.
    #[schema(example = "v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A…")]
    pub value: String,
    /// The record's purpose.
    #[schema(example = "dkim")]
    pub purpose: Purpose,
    /// The result of the last check.
    #[schema(example = "wrong")]
    pub status: RecordStatus,
    /// The records that the last check found at the name.
    #[schema(example = json!(["v=DKIM1; k=rsa; p="]))]
    pub found: Vec<String>,
    /// How to fix the record; null if nothing is wrong.
    #[schema(
        example = "The record has no key in p=, which means that the key is revoked. Publish the value as shown here."
    )]
    // The name in findings that an earlier version has stored.
    #[serde(alias = "mend")]
    pub fix: Option<String>,
    /// A probable mistake in a record that receivers accept; null if there is none.
    #[schema(example = "aspf=s: SPF counts for DMARC only if bounces go to acme.test itself.")]
    #[serde(default)]
    pub warning: Option<String>,
}

/// A DKIM key and its record.
#[derive(Debug, Clone)]
pub struct PublishedKey {
    /// The key's selector.
    pub selector: String,
    /// The key's algorithm.
    pub algorithm: Algorithm,
    /// The key's state.
    pub state: KeyState,
    /// The public key.
    pub public: Vec<u8>,
}

impl PublishedKey {
    /// Returns the name of the key's record.
    pub fn name(&self, domain: &str) -> String {
        format!("{}._domainkey.{domain}", self.selector)
    }

    /// Returns whether the key's record is required for the domain's verification: the key is active, and the
    /// configuration selects its algorithm, or no algorithm at all.
    fn is_required(&self, settings: &DnsSettings) -> bool {
        self.state == KeyState::Active && self.is_in_use(settings)
    }

    /// Returns whether the key signs or will sign: it is not retiring, and the configuration selects its algorithm, or
    /// no algorithm at all.
    pub fn is_in_use(&self, settings: &DnsSettings) -> bool {
        let is_chosen = settings.algorithms.is_empty() || settings.algorithms.contains(&self.algorithm);
        self.state != KeyState::Retiring && is_chosen
    }
}

/// A domain's policy for messages that fail authentication (RFC 7489 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DmarcPolicy {
    /// Deliver the messages, and report them.
    None,
    /// Treat the messages as suspicious.
    Quarantine,
    /// Refuse the messages.
    Reject,
}

impl DmarcPolicy {
    /// Returns the policy's name in SQL, JSON and the record.
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

/// Returns every record that `domain` needs, the records of its keys first.
pub fn records(settings: &DnsSettings, domain: &str, keys: &[PublishedKey]) -> Vec<Record> {
    let txt = |name: String, value: String, purpose| Record { kind: RecordType::Txt, name, value, purpose };
    let spf = || format!("v=spf1 {} ~all", settings.spf);
    let mut records: Vec<Record> =
        keys.iter().map(|key| txt(key.name(domain), dkim::record(key.algorithm, &key.public), Purpose::Dkim)).collect();
    records.push(txt(domain.to_owned(), spf(), Purpose::Spf));
    records.push(txt(format!("_dmarc.{domain}"), "v=DMARC1; p=none".into(), Purpose::Dmarc));
    if let Some(return_path) = &settings.return_path {
        // A mail exchanger must be a host name, not an address literal.
        if !settings.hostname.starts_with('[') {
            let value = format!("10 {}.", settings.hostname.trim_end_matches('.'));
            let name = return_path.clone();
            records.push(Record { kind: RecordType::Mx, name, value, purpose: Purpose::ReturnPath });
        }
        if return_path != domain {
            records.push(txt(return_path.clone(), spf(), Purpose::ReturnPathSpf));
        }
    }
    let is_named = |name: &str| domain == name || settings.return_path.as_deref() == Some(name);
    let hostname = settings.hostname.trim_end_matches('.');
    // An address literal or a single-label name cannot have a record.
    if settings.is_direct && hostname.contains('.') && !hostname.starts_with('[') && !is_named(hostname) {
        records.push(txt(hostname.to_owned(), "v=spf1 a -all".into(), Purpose::HeloSpf));
    }
    records
}

impl Record {
    /// Returns the names to query in order, until one of them has such a record. A DMARC policy may be at the domain
    /// itself or at its organisational domain, but not at a domain between them (RFC 7489 §6.6.3).
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

    /// Returns the finding of a record that has not been checked yet.
    pub fn unchecked(self) -> Finding {
        self.found(RecordStatus::Unchecked, Vec::new(), None)
    }

    fn found(self, status: RecordStatus, mut found: Vec<String>, fix: Option<String>) -> Finding {
        let Self { kind, name, value, purpose } = self;
        found.truncate(MAX_FOUND);
        for value in &mut found {
            if let Some((end, _)) = value.char_indices().nth(MAX_FOUND_CHARS) {
                value.truncate(end);
            }
        }
        Finding { kind, name, value, purpose, status, found, fix, warning: None }
    }
}

/// The maximum number of found records in a finding.
const MAX_FOUND: usize = 10;
/// The maximum length of a found record in a finding, in characters.
const MAX_FOUND_CHARS: usize = 1_000;

/// Returns the records to publish, each with the result of the last check.
pub fn with_findings(records: Vec<Record>, findings: &[Finding]) -> Vec<Finding> {
    let with_finding = |record: Record| {
        let is_same = |found: &&Finding| {
            (found.kind, &found.name, &found.value) == (record.kind, &record.name, &record.value)
                && found.purpose == record.purpose
        };
        findings.iter().find(is_same).cloned().unwrap_or_else(|| record.unchecked())
    };
    records.into_iter().map(with_finding).collect()
}

/// The interval between checks of a verified domain.
const CHECK_INTERVAL: TimeDelta = TimeDelta::hours(6);
/// The interval between checks of a domain with a missing record.
pub const PENDING_CHECK_INTERVAL: TimeDelta = TimeDelta::minutes(5);
/// How long the record of a retiring key must stay published.
pub const RETIREMENT: TimeDelta = TimeDelta::days(7);

/// The result of a check of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The finding of each record.
    pub findings: Vec<Finding>,
    /// The selectors of the pending keys whose records are published: these keys may sign.
    pub published: Vec<String>,
    /// Whether the records of all signing keys are published; `None` if a query failed.
    pub is_verified: Option<bool>,
    /// The DMARC policy that applies, if any; the outer `Option` is `None` if the query failed.
    pub dmarc: Option<Option<DmarcPolicy>>,
    /// The alignments that this policy requires to be strict.
    pub strict: Strict,
}

impl Verdict {
    /// Derives the result from the findings.
    pub fn new(settings: &DnsSettings, domain: &str, keys: &[PublishedKey], findings: Vec<Finding>) -> Self {
        let status = |key: &PublishedKey| {
            let name = key.name(domain);
            findings.iter().find(|found| found.name == name).map_or(RecordStatus::Unchecked, |found| found.status)
        };
        let pending = keys.iter().filter(|key| key.state == KeyState::Pending);
        let published = pending.filter(|key| status(key) == RecordStatus::Ok).map(|key| key.selector.clone()).collect();
        let signing: Vec<RecordStatus> = keys.iter().filter(|key| key.is_required(settings)).map(status).collect();
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
        let strict = applying.flatten().map_or_else(Strict::default, |(record, _)| record.strict);
        let policy = |(record, is_parents): (dmarc::Dmarc, bool)| {
            if is_parents { record.subdomain_policy } else { record.policy }
        };
        Self { findings, published, is_verified, dmarc: applying.map(|applying| applying.map(policy)), strict }
    }

    /// Returns the time until the next check, which is short if a record is still missing. Ignores keys that will not
    /// sign.
    pub fn next_check(&self, settings: &DnsSettings, keys: &[PublishedKey]) -> TimeDelta {
        let mut pending = keys.iter().filter(|key| key.state == KeyState::Pending && key.is_in_use(settings));
        let are_published = pending.all(|key| self.published.contains(&key.selector));
        if self.is_verified == Some(true) && are_published { CHECK_INTERVAL } else { PENDING_CHECK_INTERVAL }
    }
}

/// How long a domain whose records are missing still counts as verified, so that a DNS mistake does not stop its
/// messages.
const GRACE: TimeDelta = TimeDelta::hours(72);

/// The status of a domain after its checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DomainStatus {
    /// No check has found the records of all signing keys yet.
    Pending,
    /// The last check found the records of all signing keys.
    Verified,
    /// The last check did not find them, but a check less than 72 hours earlier did. The domain still counts as
    /// verified.
    Failing,
    /// The records have been missing for 72 hours or more.
    Unverified,
}

impl DomainStatus {
    /// Derives the status from the times of the last completed check and of the last check that found all records.
    pub fn from_checks(checked_at: Option<DateTime<Utc>>, verified_at: Option<DateTime<Utc>>) -> Self {
        match (checked_at, verified_at) {
            (_, None) => Self::Pending,
            (Some(checked), Some(verified)) if checked - verified >= GRACE => Self::Unverified,
            (Some(checked), Some(verified)) if checked > verified => Self::Failing,
            _ => Self::Verified,
        }
    }

    /// Returns whether the domain counts as verified.
    pub fn counts_as_verified(self) -> bool {
        matches!(self, Self::Verified | Self::Failing)
    }
}

/// Returns whether a return path at `return_path` is SPF-aligned with `domain`: in DMARC's relaxed mode both must have
/// the same organisational domain, in strict mode they must be equal.
pub fn is_aligned(domain: &str, return_path: &str, strict: Strict) -> bool {
    domain == return_path || (!strict.spf && organisation(domain) == organisation(return_path))
}

/// Returns the organisational domain (RFC 7489 §3.2): the public suffix and one label. For a public suffix, returns the
/// domain itself.
pub fn organisation(domain: &str) -> &str {
    psl::domain_str(domain).unwrap_or(domain)
}

/// Returns a domain and its parent domains except the top-level domain, the nearest first.
pub fn with_parents(domain: &str) -> Vec<String> {
    std::iter::successors(Some(domain), |domain| {
        let (_, parent) = domain.split_once('.')?;
        parent.contains('.').then_some(parent)
    })
    .map(str::to_owned)
    .collect()
}
