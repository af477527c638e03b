//! What a domain's owner publishes in the DNS so that its mail authenticates, and what the DNS shows of it. Pure.
//!
//! Records: DKIM keys (RFC 6376 §3.6.1), SPF of the domain and of the return path (RFC 7208), DMARC (RFC 7489) and the
//! return path's MX. [`judge`] holds what was found against what is expected and says what would mend it; [`Verdict`]
//! is what follows for the domain as a whole.

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

/// What of the configuration goes into records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The name of this machine, or an address literal.
    pub hostname: String,
    /// What stands in SPF records for us, such as `a:mail.example.net`; separated by spaces.
    pub spf: String,
    /// The domain that bounces go to, where it is not the sender's own.
    pub return_path: Option<String>,
    /// Which keys sign.
    pub algorithms: Vec<Algorithm>,
    /// Whether some messages go to recipients' servers without a relay, which then see the hostname.
    pub is_direct: bool,
}

/// Types of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schema(as = DnsRecordType)]
pub enum RecordType {
    /// Text.
    Txt,
    /// A mail exchanger: preference and host.
    Mx,
}

/// What a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DnsRecordPurpose)]
pub enum Purpose {
    /// The public half of a key that signs, or will.
    Dkim,
    /// Who may send in the domain's name.
    Spf,
    /// What receivers do with mail that does not authenticate.
    Dmarc,
    /// Where bounces go.
    ReturnPath,
    /// Who may send in the name of the domain that bounces go to.
    ReturnPathSpf,
    /// Who may greet with the hostname, which receivers check where the return path is empty.
    HeloSpf,
}

/// What the DNS shows of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DnsRecordStatus)]
pub enum RecordStatus {
    /// It was not asked yet.
    Unchecked,
    /// It is as it should be.
    Ok,
    /// There is none.
    Missing,
    /// There is another, or several.
    Wrong,
    /// The DNS did not answer.
    Unanswered,
}

/// A record to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its type.
    pub kind: RecordType,
    /// Where it stands.
    pub name: String,
    /// What it says.
    pub value: String,
    /// What it is for.
    pub purpose: Purpose,
}

/// A record and what was found in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = DnsRecord)]
pub struct Finding {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: RecordType,
    /// Where it is to stand.
    #[schema(example = "pr-k7xq2m9a-rsa._domainkey.acme.test")]
    pub name: String,
    /// What it is to say. More than 255 characters are published as several strings.
    #[schema(example = "v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A…")]
    pub value: String,
    /// What it is for.
    pub purpose: Purpose,
    /// What the last check showed.
    pub status: RecordStatus,
    /// What was found in its place.
    pub found: Vec<String>,
    /// What is to be done, where something is.
    pub mend: Option<String>,
    /// What is hardly meant, though receivers take the record as it is.
    #[serde(default)]
    pub warning: Option<String>,
}

/// A key as far as its record goes.
#[derive(Debug, Clone)]
pub struct PublishedKey {
    /// Where its record is.
    pub selector: String,
    /// What it signs with.
    pub algorithm: Algorithm,
    /// What it does.
    pub state: KeyState,
    /// What its record says.
    pub public: Vec<u8>,
}

impl PublishedKey {
    /// Where its record stands.
    pub fn name(&self, domain: &str) -> String {
        format!("{}._domainkey.{domain}", self.selector)
    }

    /// Whether its record is one that verifies the domain: it signs by this configuration, or would where none does.
    fn verifies(&self, terms: &Terms) -> bool {
        self.state == KeyState::Active && self.is_in_use(terms)
    }

    /// Whether it signs by this configuration, or is to, or would where none does.
    pub fn is_in_use(&self, terms: &Terms) -> bool {
        let is_chosen = terms.algorithms.is_empty() || terms.algorithms.contains(&self.algorithm);
        self.state != KeyState::Retiring && is_chosen
    }
}

/// A policy of a domain for mail in its name that does not authenticate (RFC 7489 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DmarcPolicy {
    /// Deliver it, and report.
    None,
    /// Treat it as suspicious.
    Quarantine,
    /// Refuse it.
    Reject,
}

impl DmarcPolicy {
    /// The word in SQL, JSON and the record.
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

/// Every record that `domain` needs, its keys' first.
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
    // A literal or a bare name has no record of its own.
    if terms.is_direct && hostname.contains('.') && !hostname.starts_with('[') && !is_named(hostname) {
        records.push(txt(hostname.to_owned(), "v=spf1 a -all".into(), Purpose::HeloSpf));
    }
    records
}

impl Record {
    /// The names to ask, the next one where the one before has no such record: a DMARC policy may stand at the
    /// organisational domain (RFC 7489 §6.6.3), and nowhere between.
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

    /// As it is before the DNS was asked.
    pub fn unchecked(self) -> Finding {
        self.found(RecordStatus::Unchecked, Vec::new(), None)
    }

    fn found(self, status: RecordStatus, mut found: Vec<String>, mend: Option<String>) -> Finding {
        let Self { kind, name, value, purpose } = self;
        found.truncate(MOST_FOUND);
        for value in &mut found {
            if let Some((end, _)) = value.char_indices().nth(LONGEST_FOUND) {
                value.truncate(end);
            }
        }
        Finding { kind, name, value, purpose, status, found, mend, warning: None }
    }
}

/// Of what was found, so many records are kept.
const MOST_FOUND: usize = 10;
/// And so many characters of each.
const LONGEST_FOUND: usize = 1_000;

/// The records as they are to be published, each with what the last check found of it.
pub fn with_findings(records: Vec<Record>, findings: &[Finding]) -> Vec<Finding> {
    let of = |record: Record| {
        let same = |found: &&Finding| {
            (found.kind, &found.name, &found.value) == (record.kind, &record.name, &record.value)
                && found.purpose == record.purpose
        };
        findings.iter().find(same).cloned().unwrap_or_else(|| record.unchecked())
    };
    records.into_iter().map(of).collect()
}

/// Between two checks of a domain that is as it should be.
const SETTLED: TimeDelta = TimeDelta::hours(6);
/// The same where a record is missing.
pub const UNSETTLED: TimeDelta = TimeDelta::minutes(5);
/// How long the record of a key that signs no more is to stay.
pub const RETIRING: TimeDelta = TimeDelta::days(7);

/// What a check means for a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What was found for each record.
    pub findings: Vec<Finding>,
    /// The selectors of the pending keys whose records are seen, so that they may sign.
    pub seen: Vec<String>,
    /// Whether the records of all keys that sign are seen; `None` where the DNS did not say.
    pub is_verified: Option<bool>,
    /// The DMARC policy that applies, if one does; the outer `None` where the DNS did not say.
    pub dmarc: Option<Option<DmarcPolicy>>,
    /// Which alignment that policy wants exact.
    pub strict: Strict,
}

impl Verdict {
    /// Draws the conclusion.
    pub fn of(terms: &Terms, domain: &str, keys: &[PublishedKey], findings: Vec<Finding>) -> Self {
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

    /// How long a worker waits before it asks again: not long where something is still to be published.
    /// A key that will not sign is waited for by nobody.
    pub fn next_check(&self, terms: &Terms, keys: &[PublishedKey]) -> TimeDelta {
        let mut pending = keys.iter().filter(|key| key.state == KeyState::Pending && key.is_in_use(terms));
        let is_settled = pending.all(|key| self.seen.contains(&key.selector));
        if self.is_verified == Some(true) && is_settled { SETTLED } else { UNSETTLED }
    }
}

/// How long a domain whose records have vanished still counts as verified: an accident in the DNS must not stop its
/// mail.
const GRACE: TimeDelta = TimeDelta::hours(72);

/// How a domain stands after its checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DomainStatus {
    /// Its keys' records were never seen.
    Pending,
    /// The last check saw the record of every key that signs.
    Verified,
    /// The last check did not, an earlier one did, less than 72 hours before: it still counts as verified.
    Failing,
    /// Its records have been gone for longer.
    Unverified,
}

impl DomainStatus {
    /// Where the DNS was last heard at `checked_at`, and last showed all at `verified_at`.
    pub fn of(checked_at: Option<DateTime<Utc>>, verified_at: Option<DateTime<Utc>>) -> Self {
        match (checked_at, verified_at) {
            (_, None) => Self::Pending,
            (Some(checked), Some(verified)) if checked - verified >= GRACE => Self::Unverified,
            (Some(checked), Some(verified)) if checked > verified => Self::Failing,
            _ => Self::Verified,
        }
    }

    /// Whether mail is as good as it can be.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Verified | Self::Failing)
    }
}

/// Whether mail that `domain` signs for can be aligned with a return path at `return_path`: by DMARC's relaxed rule both are of
/// one organisation, by the strict one they are the same.
pub fn is_aligned(domain: &str, return_path: &str, strict: Strict) -> bool {
    domain == return_path || (!strict.spf && organisation(domain) == organisation(return_path))
}

/// The organisational domain (RFC 7489 §3.2): one label below the public suffix, or the domain itself where it is one.
pub fn organisation(domain: &str) -> &str {
    psl::domain_str(domain).unwrap_or(domain)
}

/// A domain and those above it that could have been registered, the nearest first; a top-level domain is none.
pub fn lineage(domain: &str) -> Vec<String> {
    std::iter::successors(Some(domain), |domain| {
        let (_, parent) = domain.split_once('.')?;
        parent.contains('.').then_some(parent)
    })
    .map(str::to_owned)
    .collect()
}
