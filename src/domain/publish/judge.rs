//! Holds what the DNS answered against what is expected. Says in words what would mend it.

use std::collections::BTreeMap;

use super::{DmarcPolicy, Finding, Purpose, Record, RecordStatus};

/// What the DNS answered: the records under the first of the names that has such a record, none where there is none, or
/// why there is no answer. An MX is `preference host`.
pub type Answer = Result<Vec<String>, String>;

/// What was found for a record. `at` is the name that was asked last.
pub fn judge(record: Record, at: &str, answer: Answer) -> Finding {
    let values = match answer {
        Ok(values) => values,
        Err(why) => {
            let mend =
                format!("The DNS did not answer for {at} ({why}). What was known before stays; check again later.");
            return record.found(RecordStatus::Unanswered, Vec::new(), Some(mend));
        }
    };
    let found: Vec<String> = values.into_iter().filter(|value| is_meant(record.purpose, value)).collect();
    let (status, mend) = match record.purpose {
        Purpose::Dkim => dkim(&record, &found),
        Purpose::Spf | Purpose::ReturnPathSpf => spf(&record, &found),
        Purpose::Dmarc => dmarc(&record, at, &found),
        Purpose::ReturnPath => exchanger(&record, &found),
    };
    let mut finding = record.found(status, found, mend);
    if at != finding.name && !finding.found.is_empty() {
        finding.found.iter_mut().for_each(|value| *value = format!("{value} (at {at})"));
    }
    finding
}

/// Whether a record under the name is of this kind: others, such as those that prove ownership to somebody, do not
/// matter.
pub fn is_meant(purpose: Purpose, value: &str) -> bool {
    let begins = |start: &str| {
        let begin = value.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start));
        begin && value.as_bytes().get(start.len()).is_none_or(|next| matches!(next, b' ' | b';' | b'\t'))
    };
    match purpose {
        Purpose::Spf | Purpose::ReturnPathSpf => begins("v=spf1"),
        Purpose::Dmarc => begins("v=DMARC1"),
        Purpose::Dkim | Purpose::ReturnPath => true,
    }
}

type Judged = (RecordStatus, Option<String>);

const OK: Judged = (RecordStatus::Ok, None);

fn missing(record: &Record) -> Judged {
    let kind = if record.purpose == Purpose::ReturnPath { "MX" } else { "TXT" };
    (RecordStatus::Missing, Some(format!("Publish a {kind} record at {}: {}", record.name, record.value)))
}

fn wrong(mend: impl Into<String>) -> Judged {
    (RecordStatus::Wrong, Some(mend.into()))
}

/// The tags of `a=b; c=d` (RFC 6376 §3.2), names in lower case, without white space in the values.
fn tags(text: &str) -> BTreeMap<String, String> {
    let pair = |tag: &str| {
        let (name, value) = tag.split_once('=')?;
        Some((name.trim().to_ascii_lowercase(), value.split_whitespace().collect::<String>()))
    };
    text.split(';').filter_map(pair).collect()
}

fn dkim(record: &Record, found: &[String]) -> Judged {
    let [only] = found else {
        return match found {
            [] => missing(record),
            _ => wrong(format!("There are {} TXT records at {}; leave only this one.", found.len(), record.name)),
        };
    };
    let (ours, theirs) = (tags(&record.value), tags(only.trim().trim_matches('"')));
    let is = |tag: &str, default: &str| theirs.get(tag).map_or(default, String::as_str).to_owned();
    let (expected, key) = (ours.get("p").cloned().unwrap_or_default(), is("p", ""));
    let lists = |tag: &str, one_of: &[&str]| {
        theirs.get(tag).is_none_or(|list| list.split(':').any(|word| one_of.contains(&word)))
    };
    if key.is_empty() {
        wrong(
            "The record has no key in p=, which means that the key is withdrawn. Publish the value as it stands here.",
        )
    } else if key != expected && expected.starts_with(&key) {
        wrong(
            "The key is cut off. A string in a TXT record holds at most 255 characters: publish the value as several strings, \
             \"…\" \"…\", in one record.",
        )
    } else if key != expected || is("k", "rsa") != ours["k"] {
        wrong("The record holds another key. Replace it by the value as it stands here.")
    } else if is("v", "DKIM1") != "DKIM1" {
        wrong("The record does not begin with v=DKIM1. Publish the value as it stands here.")
    } else if !lists("h", &["sha256"]) || !lists("s", &["*", "email"]) {
        wrong("Its h= or s= tag keeps the key from being used for mail with SHA-256: leave these tags out.")
    } else {
        OK
    }
}

fn spf(record: &Record, found: &[String]) -> Judged {
    let [only] = found else {
        return match found {
            [] => missing(record),
            _ => wrong(format!(
                "There are {} SPF records at {}, and receivers take that for none: make one of them.",
                found.len(),
                record.name
            )),
        };
    };
    let plain = |term: &str| term.strip_prefix('+').unwrap_or(term).to_ascii_lowercase();
    let is_end = |term: &str| {
        let term = plain(term);
        matches!(term.trim_start_matches(['-', '~', '?']), "all") || term.starts_with("redirect=")
    };
    let present: Vec<String> = only.split_whitespace().skip(1).take_while(|term| !is_end(term)).map(plain).collect();
    let wanted = record.value.split_whitespace().skip(1).filter(|term| !is_end(term));
    let absent: Vec<&str> = wanted.filter(|term| !present.contains(&plain(term))).collect();
    if absent.is_empty() {
        return OK;
    }
    let rest = only.split_once(char::is_whitespace).map_or("~all", |(_, rest)| rest.trim());
    wrong(format!(
        "It does not name this server. Make it: v=spf1 {} {rest}. (Another of its mechanisms may cover the server already; then \
         name that one in domains.spf.)",
        absent.join(" ")
    ))
}

fn dmarc(record: &Record, at: &str, found: &[String]) -> Judged {
    match found {
        [] => missing(record),
        [only] if read_policy(only, at != record.name).is_some() => OK,
        [_] => wrong("Its p= is none of none, quarantine and reject. Begin with p=none."),
        _ => wrong(format!(
            "There are {} DMARC records at {at}, and receivers take that for none: leave one.",
            found.len()
        )),
    }
}

fn exchanger(record: &Record, found: &[String]) -> Judged {
    let host = |value: &str| {
        let host = value.split_whitespace().last().unwrap_or_default();
        host.trim_end_matches('.').to_ascii_lowercase()
    };
    let ours = host(&record.value);
    if found.is_empty() {
        missing(record)
    } else if found.iter().all(|value| host(value) == ours) {
        OK
    } else {
        wrong(format!(
            "Bounces go elsewhere, too: let {ours} be the only mail exchanger of {}, or choose another domain in \
             return_path.domain.",
            record.name
        ))
    }
}

/// The policy that a found record asks for.
pub(super) fn policy(found: &Finding) -> Option<DmarcPolicy> {
    let [only] = found.found.as_slice() else { return None };
    // That it stands at a parent is told behind it.
    match only.rsplit_once(" (at ") {
        Some((value, _)) => read_policy(value, true),
        None => read_policy(only, false),
    }
}

/// The policy of a record; at a parent that for subdomains.
fn read_policy(value: &str, is_parents: bool) -> Option<DmarcPolicy> {
    let tags = tags(value);
    let policy = tags.get("p")?.parse().ok()?;
    match tags.get("sp") {
        Some(of_subdomains) if is_parents => Some(of_subdomains.parse().unwrap_or(policy)),
        _ => Some(policy),
    }
}
