//! Parses DMARC records as receivers do (RFC 7489 §6.3 and §6.6.3).

use super::DmarcPolicy;

/// A DMARC record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dmarc {
    /// The policy for the domain.
    pub policy: DmarcPolicy,
    /// The policy for its subdomains.
    pub subdomain_policy: DmarcPolicy,
    /// The alignments that must be strict.
    pub strict: Strict,
}

/// The alignments that are strict: the domain that DKIM or SPF authenticates must equal the domain in `From`, and not only
/// belong to the same organisational domain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Strict {
    /// DKIM alignment is strict (`adkim=s`).
    pub dkim: bool,
    /// SPF alignment is strict (`aspf=s`).
    pub spf: bool,
}

/// Returns whether a TXT record is a DMARC record: it begins with `v=DMARC1` (case-sensitive, with optional spaces around
/// `=`), followed by a semicolon or the end.
pub fn is_dmarc(record: &str) -> bool {
    let rest = record.strip_prefix('v').and_then(|rest| rest.trim_start().strip_prefix('='));
    let rest = rest.and_then(|rest| rest.trim_start().strip_prefix("DMARC1")).map(str::trim_start);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(';'))
}

/// Returns whether a TXT record looks like a DMARC record but is malformed.
pub fn is_malformed(record: &str) -> bool {
    let start: String = record.chars().filter(|c| !c.is_whitespace() && *c != '"').take(8).collect();
    start.eq_ignore_ascii_case("v=DMARC1") && !is_dmarc(record)
}

/// Parses a record for which [`is_dmarc`] is true. Returns the record, and its first fault. A returned record applies
/// even if it has a fault; if none is returned, receivers ignore the TXT record.
pub fn parse(record: &str) -> (Option<Dmarc>, Option<String>) {
    let mut fault = None;
    let mut note = |why: String| fault = fault.take().or(Some(why));
    let mut tags: Vec<(String, &str)> = Vec::new();
    for tag in record.split(';').map(str::trim).filter(|tag| !tag.is_empty()) {
        match tag.split_once('=') {
            None => note(format!("`{tag}` is not a tag: tags are written name=value")),
            Some((name, value)) => {
                let name = name.trim().to_ascii_lowercase();
                if tags.iter().any(|(known, _)| *known == name) {
                    note(format!("there is more than one {name}="));
                } else {
                    tags.push((name, value.trim()));
                }
            }
        }
    }
    let tag = |wanted: &str| tags.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
    let has_report_address = tag("rua").is_some_and(|uris| uris.split(',').any(is_report_address));
    let mut policy = |name: &str| match tag(name).map(|word| (word, word.parse().ok())) {
        Some((word, None)) => {
            note(format!("its {name}={word} is not none, quarantine or reject, or a semicolon is missing"));
            Err(())
        }
        Some((_, policy)) => Ok(policy),
        None => Ok(None),
    };
    let (own, for_subdomains): (Result<Option<DmarcPolicy>, ()>, _) = (policy("p"), policy("sp"));
    if own == Ok(None) {
        note("it has no p= tag with the policy".into());
    }
    let mut is_strict = |name: &str| match tag(name) {
        Some(mode) if mode.eq_ignore_ascii_case("s") => true,
        Some(mode) if !mode.eq_ignore_ascii_case("r") => {
            note(format!("its {name}={mode} is neither r nor s, or a semicolon is missing"));
            false
        }
        _ => false,
    };
    let strict = Strict { dkim: is_strict("adkim"), spf: is_strict("aspf") };
    if let Some(percent) = tag("pct").filter(|percent| !percent.parse().is_ok_and(|percent: u8| percent <= 100)) {
        note(format!("its pct={percent} is not a number from 0 to 100, so the policy applies to all messages"));
    }
    let record = match (own, for_subdomains) {
        (Ok(Some(policy)), Ok(other)) => Some(Dmarc { policy, subdomain_policy: other.unwrap_or(policy), strict }),
        // If there is a report address, receivers apply p=none (§6.6.3).
        _ if has_report_address => {
            Some(Dmarc { policy: DmarcPolicy::None, subdomain_policy: DmarcPolicy::None, strict })
        }
        _ => None,
    };
    (record, fault)
}

fn is_report_address(uri: &str) -> bool {
    uri.trim().get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("mailto:")) && uri.contains('@')
}
