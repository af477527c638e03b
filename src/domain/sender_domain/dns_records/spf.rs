//! Parses SPF records strictly by RFC 7208 §12: a syntax error makes the whole record a permanent error (§4.6).
//!
//! mail-auth parses records more leniently: it skips an unknown mechanism, and reads a number over 255 in an IPv4
//! address as 255. A receiver may do that, but a check for valid records must not. `dns/spf.rs` evaluates records.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An SPF record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spf {
    /// The record's mechanisms, in their order.
    pub directives: Vec<Directive>,
    /// The domain whose record applies if no mechanism matches.
    pub redirect: Option<String>,
}

/// A mechanism with its qualifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// The term as written in the record.
    pub text: String,
    /// The result if the mechanism matches.
    pub result: SpfResult,
    /// The mechanism.
    pub mechanism: Mechanism,
}

/// A mechanism. The domain name in it may contain macros; `None` stands for the record's own domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mechanism {
    /// Every address.
    All,
    /// Addresses that pass another domain's record.
    Include(String),
    /// A host's addresses, with prefix lengths.
    A(Option<String>, u8, u8),
    /// The addresses of a domain's mail exchangers, with prefix lengths.
    Mx(Option<String>, u8, u8),
    /// Addresses whose PTR name is in a domain.
    Ptr(Option<String>),
    /// A network.
    Ip(IpAddr, u8),
    /// Every address, if the name has an A record.
    Exists(String),
}

/// The result of an evaluation (RFC 7208 §2.6), from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpfResult {
    /// The record cannot be evaluated.
    PermError,
    /// A DNS query failed.
    TempError,
    /// The address may not send.
    Fail,
    /// The address probably may not send.
    SoftFail,
    /// The record makes no statement about the address.
    Neutral,
    /// There is no record.
    None,
    /// The address may send.
    Pass,
}

impl fmt::Display for SpfResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PermError => "permerror",
            Self::TempError => "temperror",
            Self::Fail => "fail",
            Self::SoftFail => "softfail",
            Self::Neutral => "neutral",
            Self::None => "none",
            Self::Pass => "pass",
        })
    }
}

/// Returns whether a TXT record is an SPF record: `v=spf1` followed by a space or the end (§4.5).
pub fn is_spf(record: &str) -> bool {
    let has_version = record.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("v=spf1"));
    has_version && record.as_bytes().get(6).is_none_or(|next| *next == b' ')
}

/// Parses a record for which [`is_spf`] is true. The error names the invalid term and the reason.
pub fn parse(record: &str) -> Result<Spf, String> {
    let mut spf = Spf { directives: Vec::new(), redirect: None };
    let mut has_explanation = false;
    for text in record.split(' ').skip(1).filter(|term| !term.is_empty()) {
        match term(text).map_err(|why| format!("`{text}` {why}"))? {
            Term::Directive(directive) => spf.directives.push(directive),
            Term::Redirect(_) if spf.redirect.is_some() => return Err("there is more than one redirect=".into()),
            Term::Redirect(to) => spf.redirect = Some(to),
            Term::Explanation if has_explanation => return Err("there is more than one exp=".into()),
            Term::Explanation => has_explanation = true,
            Term::Unknown => {}
        }
    }
    Ok(spf)
}

/// A term of a record.
enum Term {
    Directive(Directive),
    Redirect(String),
    Explanation,
    /// An unknown modifier.
    Unknown,
}

fn term(text: &str) -> Result<Term, String> {
    let name_end = text.bytes().position(|byte| !(byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
    // A modifier is a name that begins with a letter, followed by `=`.
    if let Some(end) = name_end.filter(|end| text.as_bytes()[*end] == b'=' && text.as_bytes()[0].is_ascii_alphabetic())
    {
        let (name, value) = (&text[..end], &text[end + 1..]);
        return match name.to_ascii_lowercase().as_str() {
            "redirect" => domain_spec(value).map(Term::Redirect),
            "exp" => domain_spec(value).map(|_| Term::Explanation),
            _ => check_macros(value).map(|()| Term::Unknown),
        };
    }
    let result = match text.as_bytes().first() {
        Some(b'-') => SpfResult::Fail,
        Some(b'~') => SpfResult::SoftFail,
        Some(b'?') => SpfResult::Neutral,
        _ => SpfResult::Pass,
    };
    let bare = text.strip_prefix(['+', '-', '~', '?']).unwrap_or(text);
    let mechanism = mechanism(bare)?;
    Ok(Term::Directive(Directive { text: text.to_owned(), result, mechanism }))
}

fn mechanism(text: &str) -> Result<Mechanism, String> {
    let end = text.find([':', '/']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let required = || rest.strip_prefix(':').ok_or_else(|| "needs a value after a colon".to_owned());
    match name.to_ascii_lowercase().as_str() {
        "all" if rest.is_empty() => Ok(Mechanism::All),
        "all" => Err("takes no value".into()),
        "include" => domain_spec(required()?).map(Mechanism::Include),
        "exists" => domain_spec(required()?).map(Mechanism::Exists),
        "a" => host(rest).map(|(name, v4, v6)| Mechanism::A(name, v4, v6)),
        "mx" => host(rest).map(|(name, v4, v6)| Mechanism::Mx(name, v4, v6)),
        "ptr" if rest.is_empty() => Ok(Mechanism::Ptr(None)),
        "ptr" => domain_spec(required()?).map(|name| Mechanism::Ptr(Some(name))),
        "ip4" => network::<Ipv4Addr>(required()?, 32),
        "ip6" => network::<Ipv6Addr>(required()?, 128),
        _ => Err("is not an SPF mechanism".into()),
    }
}

fn network<A: std::str::FromStr + Into<IpAddr>>(text: &str, longest: u8) -> Result<Mechanism, String> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, length(prefix, longest)?),
        None => (text, longest),
    };
    let address =
        address.parse::<A>().map_err(|_| format!("has no valid IPv{} address", if longest == 32 { 4 } else { 6 }))?;
    Ok(Mechanism::Ip(address.into(), prefix))
}

/// Parses `[":" domain-spec] [dual-cidr-length]`.
fn host(rest: &str) -> Result<(Option<String>, u8, u8), String> {
    // A slash inside a macro is one of the macro's delimiters.
    let is_outside_macro =
        |(index, _): &(usize, &str)| rest[..*index].matches("%{").count() == rest[..*index].matches('}').count();
    let name_end = rest.match_indices('/').find(is_outside_macro).map_or(rest.len(), |(index, _)| index);
    let (name, lengths) = rest.split_at(name_end);
    let name = match name.strip_prefix(':') {
        Some(name) => Some(domain_spec(name)?),
        None => None,
    };
    let (v4, v6) = match lengths.split_once("//") {
        Some((v4, v6)) => (v4, length(v6, 128)?),
        None => (lengths, 128),
    };
    let v4 = if v4.is_empty() { 32 } else { length(v4.strip_prefix('/').unwrap_or(v4), 32)? };
    Ok((name, v4, v6))
}

/// Parses a prefix length, which has no leading zeros.
fn length(text: &str, longest: u8) -> Result<u8, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let length = text.parse::<u8>().ok().filter(|length| is_number && *length <= longest);
    length.ok_or_else(|| format!("has a prefix that is not a number from 0 to {longest}"))
}

/// Parses a name that may contain macros and ends in a top-level domain or a macro (§7.1).
fn domain_spec(text: &str) -> Result<String, String> {
    check_macros(text)?;
    let last = text.strip_suffix('.').unwrap_or(text).rsplit_once('.').map(|(_, last)| last);
    let is_top_level = |label: &str| {
        label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && label.bytes().any(|byte| byte.is_ascii_alphabetic() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
            && !label.is_empty()
    };
    if text.ends_with('}') || last.is_some_and(is_top_level) {
        return Ok(text.to_owned());
    }
    Err(if text.is_empty() { "needs a domain" } else { "has no domain name with a dot" }.into())
}

/// Checks that macros are valid (§7.1) and all other characters are visible ASCII.
fn check_macros(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let width = match c {
            '%' => macro_width(rest).ok_or("has a % that does not start a macro")?,
            '!'..='~' => 1,
            _ => return Err("has a character that is not allowed there".into()),
        };
        rest = &rest[width..];
    }
    Ok(())
}

/// Returns the length of the macro at the start of the text.
fn macro_width(text: &str) -> Option<usize> {
    match text.as_bytes().get(1)? {
        b'%' | b'_' | b'-' => return Some(2),
        b'{' => {}
        _ => return None,
    }
    let end = text.find('}')?;
    let inner = &text[2..end];
    let letter = *inner.as_bytes().first()?;
    let transformers = inner.get(1..)?.trim_start_matches(|c: char| c.is_ascii_digit());
    let transformers = transformers.strip_prefix(['r', 'R']).unwrap_or(transformers);
    let is_letter = b"slodiphv".contains(&letter.to_ascii_lowercase());
    let digits = &inner[1..inner.len() - inner[1..].trim_start_matches(|c: char| c.is_ascii_digit()).len()];
    let is_count = digits.is_empty() || digits.bytes().any(|digit| digit != b'0');
    (is_letter && is_count && transformers.bytes().all(|byte| b".-+,/_=".contains(&byte))).then_some(end + 1)
}

/// Returns candidates to replace a record that does not let `addresses` pass, in the order in which the caller should
/// evaluate them: one with the mechanisms of the record `wanted`, and one with the addresses. Both keep the terms of
/// the record that are valid or can be corrected, except those that refer to a domain in `without_record`: these have no
/// SPF record.
pub fn repairs(record: &str, wanted: &str, addresses: &[IpAddr], without_record: &[String]) -> Vec<String> {
    let mut new_terms: Vec<String> = Vec::new();
    let (mut has_all, mut has_redirect) = (false, false);
    for (text, term) in record.split_whitespace().skip(1).filter_map(parse_corrected) {
        if has_all {
            break;
        }
        match term {
            // A record must not let every address pass.
            Term::Directive(Directive { mechanism: Mechanism::All, result, .. }) => {
                new_terms.push(if result == SpfResult::Pass { "~all".to_owned() } else { text });
                has_all = true;
            }
            Term::Directive(Directive { mechanism: Mechanism::Include(target), .. })
                if without_record.contains(&target) => {}
            Term::Redirect(target) if has_redirect || without_record.contains(&target) => {}
            Term::Redirect(_) => {
                has_redirect = true;
                new_terms.push(text);
            }
            _ => new_terms.push(text),
        }
    }
    if !has_all && !has_redirect {
        new_terms.push("~all".into());
    }
    let wanted: Vec<String> =
        wanted.split_whitespace().skip(1).filter(|term| !term.ends_with("all")).map(str::to_owned).collect();
    let first = |terms: &[String]| {
        let rest = new_terms.iter().filter(|term| !terms.contains(term)).cloned();
        ["v=spf1".to_owned()].into_iter().chain(terms.iter().cloned()).chain(rest).collect::<Vec<_>>().join(" ")
    };
    let literal: Vec<String> = addresses
        .iter()
        .map(|address| match address {
            IpAddr::V4(address) => format!("ip4:{address}"),
            IpAddr::V6(address) => format!("ip6:{address}"),
        })
        .collect();
    let mut records = vec![first(&wanted), first(&literal)];
    records.dedup();
    records.retain(|candidate| candidate != record);
    records
}

/// Returns the domains that a record includes or redirects to. Skips terms that cannot be corrected.
pub fn targets(record: &str) -> Vec<String> {
    let target = |(_, term): (String, Term)| match term {
        Term::Directive(Directive { mechanism: Mechanism::Include(target), .. }) | Term::Redirect(target) => {
            Some(target)
        }
        _ => None,
    };
    record.split_whitespace().skip(1).filter_map(parse_corrected).filter_map(target).collect()
}

/// Parses a term and corrects a misspelt name, such as `inlude:` for `include:`.
fn parse_corrected(text: &str) -> Option<(String, Term)> {
    if let Ok(read) = term(text) {
        return Some((text.to_owned(), read));
    }
    let end = text.find([':', '/', '=']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let qualifier = name.len() - name.trim_start_matches(['+', '-', '~', '?']).len();
    let (qualifier, name) = name.split_at(qualifier);
    let known = ["include", "exists", "redirect", "ip4", "ip6"].into_iter().find(|known| is_misspelt(name, known))?;
    let value = rest.strip_prefix([':', '=']).unwrap_or(rest);
    let fixed = if known == "redirect" { format!("redirect={value}") } else { format!("{qualifier}{known}:{value}") };
    term(&fixed).ok().map(|read| (fixed.clone(), read))
}

/// Returns whether `name` is `known`, is one edit or transposition away from it, or is another frequent spelling of it.
fn is_misspelt(name: &str, known: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // Short names are too similar to each other to be corrected.
    name == known
        || (known.len() > 3 && strsim::osa_distance(&name, known) == 1)
        || matches!((name.as_str(), known), ("ipv4" | "ip", "ip4") | ("ipv6", "ip6") | ("inc", "include"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_records_of_rfc_7208_are_parsed() {
        for good in [
            "v=spf1",
            "V=SPF1 +mx a:colo.example.com/28 -all",
            "v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ?all",
            "v=spf1 a//64 mx/24//48 a:example.com./0 ~ALL",
            "v=spf1 exists:%{ir}.%{l1r+-}._spf.%{d} include:_spf.%{d2} redirect=_spf.example.com",
            "v=spf1 ptr ptr:example.com exp=explain.%{d} moo.cow-far_out=man:dog/cat",
            "v=spf1 a:%{d} include:%%x%_.%-.example.com  -all ",
        ] {
            assert!(is_spf(good) && parse(good).is_ok(), "{good}: {:?}", parse(good));
        }
    }

    #[test]
    fn invalid_term_is_named() {
        for (bad, why) in [
            ("inlude:x.test", "not an SPF mechanism"),
            ("ip4:192.0.2.256", "no valid IPv4 address"),
            ("ip4:192.0.2.1/33", "0 to 32"),
            ("ip4:192.0.2.1/024", "0 to 32"),
            ("ip4:", "no valid IPv4 address"),
            ("ip6:192.0.2.1", "no valid IPv6 address"),
            ("a:192.0.2.1", "with a dot"),
            ("a:localhost", "with a dot"),
            ("a:", "needs a domain"),
            ("a/", "0 to 32"),
            ("include", "after a colon"),
            ("include:", "needs a domain"),
            ("all:x.test", "takes no value"),
            ("mx=x.test", ""),
            ("-all;", "not an SPF mechanism"),
            ("\"-all", "not an SPF mechanism"),
            ("exists:%{z}.x.test", "does not start a macro"),
            ("exists:%{d0}.x.test", "does not start a macro"),
            ("exists:%x.test", "does not start a macro"),
            ("redirect=", "needs a domain"),
            ("a:b\u{fc}cher.test", "not allowed there"),
            ("include=x.test", ""),
        ] {
            let read = parse(&format!("v=spf1 {bad} -all"));
            match read {
                // A name and `=` are an unknown modifier, which is ignored (§6).
                Ok(_) => assert_eq!(why, "", "{bad}"),
                Err(error) => assert!(!why.is_empty() && error.contains(why), "{bad}: {error}"),
            }
        }
        assert!(parse("v=spf1 redirect=a.test redirect=b.test").is_err());
        assert!(!is_spf("v=spf10 a") && !is_spf("v=spf1; a") && !is_spf(" v=spf1") && !is_spf("\"v=spf1\""));
    }

    #[test]
    fn repair_makes_the_smallest_change() {
        let (addresses, without_record) = (["192.0.2.1".parse().unwrap()], ["gone.test".to_owned()]);
        let repair =
            |record: &str| repairs(record, "v=spf1 a:mail.acme.test ~all", &addresses, &without_record).remove(0);
        assert_eq!(repair("v=spf1 include:x.test -all"), "v=spf1 a:mail.acme.test include:x.test -all");
        assert_eq!(repair("v=spf1 mx +all"), "v=spf1 a:mail.acme.test mx ~all");
        assert_eq!(repair("v=spf1 inlude:x.test -all"), "v=spf1 a:mail.acme.test include:x.test -all");
        assert_eq!(repair("v=spf1 ipv4:192.0.2.9 ip4:192.0.2.999"), "v=spf1 a:mail.acme.test ip4:192.0.2.9 ~all");
        assert_eq!(repair("v=spf1 redirect=x.test"), "v=spf1 a:mail.acme.test redirect=x.test");
        assert_eq!(repair("v=spf1 include:gone.test mx -all"), "v=spf1 a:mail.acme.test mx -all");
        assert_eq!(repair("v=spf1"), "v=spf1 a:mail.acme.test ~all");
        assert_eq!(repair("v=spf1 -all a:mail.acme.test"), "v=spf1 a:mail.acme.test -all");
        for (name, known) in
            [("inlude", "include"), ("incldue", "include"), ("redirct", "redirect"), ("exist", "exists")]
        {
            assert!(is_misspelt(name, known), "{name}");
        }
        assert!(!is_misspelt("mx", "include") && !is_misspelt("a", "ip4"));
    }
}
