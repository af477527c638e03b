//! Compares published DNS records with the expected ones, as receivers would, and describes how to fix them.

use std::net::IpAddr;

use super::dmarc::{self, Dmarc};
use super::spf::{SpfResult, is_spf, parse};
use super::{Finding, Purpose, Record, RecordStatus, dkim_record};

/// The result of a DNS query: the records at the first name that has such a record (empty if there are none), or the
/// reason why the query failed. An MX record has the form `preference host`.
pub type Answer = Result<Vec<String>, String>;

/// The results of further queries that judging a record needs.
#[derive(Debug, Default)]
pub enum Evidence {
    /// No further queries were needed.
    #[default]
    None,
    /// The evaluation of the SPF record, if there is exactly one.
    Spf(SpfEvidence),
    /// The target of each mail exchanger, in the order of the records.
    Exchangers(Vec<MxTarget>),
}

/// How receivers evaluate an SPF record.
#[derive(Debug)]
pub enum SpfEvidence {
    /// The sending addresses cannot be determined, for this reason.
    NoAddress(String),
    /// The record was evaluated.
    Evaluated {
        /// The sending address with the worst result.
        address: IpAddr,
        /// The result for that address.
        result: SpfResult,
        /// The reason for that result.
        reason: String,
        /// The result for an address that is unrelated to the domain, and its reason.
        unrelated: (SpfResult, String),
        /// A replacement record that was tested and passes.
        repair: Option<String>,
    },
}

/// The addresses of a mail exchanger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MxTarget {
    /// It has only addresses of this server.
    ThisServer,
    /// It has other addresses.
    OtherServer,
    /// It has no address.
    NoAddress,
    /// The DNS query failed.
    Unanswered,
}

/// Returns the finding for a record. `at` is the last name that was queried.
pub fn judge(record: Record, at: &str, answer: Answer, evidence: &Evidence) -> Finding {
    let values = match answer {
        Ok(values) => values,
        Err(why) => return unanswered(record, &format!("the DNS query for {at} failed ({why})")),
    };
    let (mut found, others): (Vec<String>, Vec<String>) =
        values.into_iter().partition(|value| has_purpose(record.purpose, value));
    let mut judged = match record.purpose {
        Purpose::Dkim => dkim(&record, &found),
        Purpose::Spf | Purpose::ReturnPathSpf | Purpose::HeloSpf => spf(&record, &found, evidence),
        Purpose::Dmarc => dmarc(&record, at, &found),
        Purpose::ReturnPath => exchanger(&record, &found, evidence),
    };
    if found.is_empty()
        && let Some(near) = others.iter().find(|value| is_malformed(record.purpose, value))
    {
        let (start, separator) = match record.purpose {
            Purpose::Dmarc => ("v=DMARC1;", " Semicolons separate its tags."),
            _ => ("v=spf1 ", ""),
        };
        judged = Judged::wrong(format!(
            "Receivers do not recognise it: it must begin with exactly `{start}`, without quotation marks.{separator}"
        ));
        found.push(near.clone());
    }
    if judged.status == RecordStatus::Unanswered {
        return unanswered(record, judged.fix.as_deref().unwrap_or_default());
    }
    let mut finding = record.found(judged.status, found, judged.fix);
    finding.warning = judged.warning;
    if at != finding.name && !finding.found.is_empty() {
        finding.found.iter_mut().for_each(|value| *value = format!("{value} (at {at})"));
    }
    finding
}

fn unanswered(record: Record, why: &str) -> Finding {
    let fix = format!(
        "This record could not be checked: {why}. The result of the last successful check still applies; check again \
         later."
    );
    record.found(RecordStatus::Unanswered, Vec::new(), Some(fix))
}

/// Returns whether a published record has this purpose. Other records at the name, such as proofs of ownership, are
/// ignored.
pub fn has_purpose(purpose: Purpose, value: &str) -> bool {
    match purpose {
        Purpose::Spf | Purpose::ReturnPathSpf | Purpose::HeloSpf => is_spf(value),
        Purpose::Dmarc => dmarc::is_dmarc(value),
        Purpose::Dkim | Purpose::ReturnPath => true,
    }
}

/// Returns whether a record looks like one for this purpose but is malformed.
fn is_malformed(purpose: Purpose, value: &str) -> bool {
    match purpose {
        Purpose::Spf | Purpose::ReturnPathSpf | Purpose::HeloSpf => {
            let bare = value.trim_matches(|c: char| c == '"' || c.is_whitespace());
            let rest = bare.get(..6).filter(|start| start.eq_ignore_ascii_case("v=spf1")).map(|_| &bare[6..]);
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
        }
        Purpose::Dmarc => dmarc::is_malformed(value),
        Purpose::Dkim | Purpose::ReturnPath => false,
    }
}

/// A status with its fix and warning.
struct Judged {
    status: RecordStatus,
    /// The fix; for [`RecordStatus::Unanswered`], the reason why the record could not be judged.
    fix: Option<String>,
    warning: Option<String>,
}

impl Judged {
    const OK: Self = Self { status: RecordStatus::Ok, fix: None, warning: None };

    fn ok_but(warning: Option<String>) -> Self {
        Self { warning, ..Self::OK }
    }

    fn wrong(fix: impl Into<String>) -> Self {
        Self { status: RecordStatus::Wrong, fix: Some(fix.into()), warning: None }
    }

    fn missing(record: &Record) -> Self {
        Self { status: RecordStatus::Missing, fix: Some(publish(record)), warning: None }
    }
}

fn publish(record: &Record) -> String {
    let kind = if record.purpose == Purpose::ReturnPath { "MX" } else { "TXT" };
    format!("Publish a {kind} record at {}: {}", record.name, record.value)
}

fn dkim(record: &Record, found: &[String]) -> Judged {
    match found {
        [] => Judged::missing(record),
        [only] => dkim_record::fault(&record.value, only).map_or(Judged::OK, Judged::wrong),
        _ => Judged::wrong(format!("There are {} TXT records at {}; keep only this one.", found.len(), record.name)),
    }
}

fn spf(record: &Record, found: &[String], evidence: &Evidence) -> Judged {
    if let Err(why) = parse(&record.value) {
        let fix = format!(
            "The record to publish is itself not valid SPF: {why}. Set `hostname` to this machine's full name, or set \
             `domains.spf` to the terms of this installation."
        );
        let status = if found.is_empty() { RecordStatus::Missing } else { RecordStatus::Wrong };
        return Judged { status, ..Judged::wrong(fix) };
    }
    match (found, evidence) {
        ([], _) => Judged::missing(record),
        ([_], Evidence::Spf(evidence)) => evaluated(evidence),
        ([_], _) => Judged { status: RecordStatus::Unanswered, ..Judged::wrong("it was not evaluated") },
        _ => Judged::wrong(format!(
            "There are {} SPF records at {}, which is a permanent error for receivers. Merge them into one.",
            found.len(),
            record.name
        )),
    }
}

fn evaluated(evidence: &SpfEvidence) -> Judged {
    let (address, result, reason, unrelated, repair) = match evidence {
        SpfEvidence::NoAddress(why) => {
            return Judged::wrong(format!(
                "The addresses that messages are sent from are unknown: {why}. Publish an A record for the hostname, or set \
                 `domains.spf` to the terms of this installation."
            ));
        }
        SpfEvidence::Evaluated { address, result, reason, unrelated, repair } => {
            (address, result, reason, unrelated, repair)
        }
    };
    match result {
        SpfResult::Pass => Judged::ok_but(match unrelated {
            (SpfResult::Pass, why) => {
                Some(format!("It lets every address send for the domain ({why}): end it with ~all or -all."))
            }
            (SpfResult::PermError, why) => {
                Some(format!("For addresses that reach its later terms, it is a permanent error: {why}."))
            }
            _ => None,
        }),
        SpfResult::TempError => Judged { status: RecordStatus::Unanswered, ..Judged::wrong(reason) },
        _ => {
            let advice = match repair {
                Some(record) => format!(" Replace it with: {record}"),
                None => " Remove terms until this server passes: each include, a, mx and redirect costs a lookup, ip4 and ip6 \
                         cost none."
                    .to_owned(),
            };
            Judged::wrong(format!("For messages from {address} it is evaluated as {result}: {reason}.{advice}"))
        }
    }
}

fn dmarc(record: &Record, at: &str, found: &[String]) -> Judged {
    match found {
        [] => Judged::missing(record),
        [only] => match dmarc::parse(only) {
            (Some(dmarc), None) => Judged::ok_but(strict(record, at, dmarc)),
            (Some(_), Some(why)) => Judged::wrong(format!("Receivers ignore part of it: {why}. Fix that.")),
            (None, why) => Judged::wrong(format!(
                "Receivers ignore it: {}. A valid record is v=DMARC1; p=none, or with p=quarantine or p=reject.",
                why.unwrap_or_default()
            )),
        },
        _ => Judged::wrong(format!(
            "There are {} DMARC records at {at}, so receivers ignore all of them. Keep one.",
            found.len()
        )),
    }
}

/// Returns a warning about strict alignment, if the record requires it.
fn strict(record: &Record, at: &str, dmarc: Dmarc) -> Option<String> {
    let domain = record.name.strip_prefix("_dmarc.").unwrap_or(&record.name);
    let dkim = "a message from a subdomain that is not registered is signed with d=";
    match (dmarc.strict.dkim, dmarc.strict.spf) {
        (true, _) if at == record.name => {
            Some(format!("adkim=s: {dkim}{domain}, which does not count for DMARC. Register each domain that sends."))
        }
        (_, true) => Some(format!("aspf=s: SPF counts for DMARC only if bounces go to {domain} itself.")),
        _ => None,
    }
}

fn exchanger(record: &Record, found: &[String], evidence: &Evidence) -> Judged {
    let host = |value: &str| {
        let host = value.split_whitespace().last().unwrap_or_default();
        host.trim_end_matches('.').to_ascii_lowercase()
    };
    let own = host(&record.value);
    let Evidence::Exchangers(targets) = evidence else { return Judged::missing(record) };
    let exchangers: Vec<(String, MxTarget)> =
        found.iter().map(|value| host(value)).zip(targets.iter().copied()).collect();
    if exchangers.is_empty() {
        return Judged::missing(record);
    }
    if let Some((name, _)) = exchangers.iter().find(|(_, target)| *target == MxTarget::NoAddress) {
        return Judged::wrong(format!("{name} has no address, so bounces do not arrive: publish an A record for it."));
    }
    if exchangers.iter().any(|(name, target)| *target == MxTarget::Unanswered && *name != own) {
        let why = "the address of a mail exchanger could not be looked up";
        return Judged { status: RecordStatus::Unanswered, ..Judged::wrong(why) };
    }
    if exchangers.iter().all(|(name, target)| *target == MxTarget::ThisServer || *name == own) {
        return Judged::OK;
    }
    Judged::wrong(format!(
        "Some bounces go to other servers: make {own} the only mail exchanger of {}, or choose another domain in \
         `return_path.domain`.",
        record.name
    ))
}

/// Returns the DMARC record that applies, if it can be parsed, and whether it is the record of a parent domain.
pub(super) fn applying(found: &Finding) -> Option<(Dmarc, bool)> {
    let [only] = found.found.as_slice() else { return None };
    // `judge` appends the name of a parent domain to its record.
    let (value, is_parents) = only.rsplit_once(" (at ").map_or((only.as_str(), false), |(value, _)| (value, true));
    let dmarc = dmarc::is_dmarc(value).then(|| dmarc::parse(value).0)??;
    Some((dmarc, is_parents))
}
