//! Email addresses (RFC 5321 §4.1.2, RFC 6531) and mailboxes (RFC 5322 §3.4).
//!
//! A parsed address can be written to SMTP commands and headers unchanged: it has no control characters, its domain is
//! lower-case ASCII, and its lengths are within RFC 5321 §4.5.3.1. Source routes and comments are rejected.
//! Two addresses are equal if they name the same recipient to every server: local parts are compared case-sensitively
//! (only the recipient's server may ignore their case), domains in lower-case ASCII.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

mod mailbox;
pub mod return_path;
pub mod srs;
#[cfg(test)]
mod tests;

pub use mailbox::Mailbox;

/// The maximum length of an address in bytes: the path of RFC 5321 §4.5.3.1.3 (256) without its angle brackets.
pub const MAX_ADDRESS: usize = 254;
/// The maximum length of a local part in bytes (RFC 5321 §4.5.3.1.1).
pub const MAX_LOCAL: usize = 64;
/// The maximum length of a domain's label in bytes (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

const SEVERAL: &str = "a string must contain one address; use an array for several addresses";

/// An address valid in an SMTP envelope.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    local: String,
    domain: String,
}

/// The reason why a text is not an address, written for the sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(pub String);

impl AddressError {
    fn because<T>(reason: impl Into<String>) -> Result<T, Self> {
        Err(Self(reason.into()))
    }
}

impl Address {
    /// Returns the part before the `@`, as the sender wrote it, quotes included.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// Returns the part after the `@`: lower case, international names as A-labels, or an address literal such as
    /// `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns whether the address requires SMTPUTF8 (RFC 6531).
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.is_ascii()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return AddressError::because("the address is empty");
        }
        // An A-label is at least a quarter as long as its UTF-8 form, so a longer text cannot fit.
        if text.len() > 4 * MAX_ADDRESS {
            return too_long();
        }
        refuse_control(text)?;
        let (local, domain) = split(text)?;
        check_local(local)?;
        let domain = match domain.strip_prefix('[') {
            Some(literal) => parse_literal(literal)?,
            None => parse_domain(domain)?,
        };
        if local.len() + 1 + domain.len() > MAX_ADDRESS {
            return too_long();
        }
        Ok(Self { local: local.into(), domain })
    }
}

fn too_long<T>() -> Result<T, AddressError> {
    AddressError::because(format!("the address is longer than {MAX_ADDRESS} bytes"))
}

fn refuse_control(text: &str) -> Result<(), AddressError> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => AddressError::because(format!("the control character U+{:04X} is not allowed here", u32::from(c))),
        None => Ok(()),
    }
}

/// Splits the address at the `@` after a quoted local part, or at its only `@`.
fn split(text: &str) -> Result<(&str, &str), AddressError> {
    if text.starts_with('"') {
        let Some(close) = closing_quote(text) else {
            return AddressError::because("the quotes before the @ are not closed");
        };
        let (local, rest) = text.split_at(close + 1);
        return match rest.strip_prefix('@') {
            Some(domain) => Ok((local, domain)),
            None => AddressError::because("an @ must follow the closing quote"),
        };
    }
    let Some((local, domain)) = text.rsplit_once('@') else {
        return AddressError::because("an address must contain an @");
    };
    if local.contains('@') {
        let list = text.contains([',', ';', ' ']);
        return AddressError::because(if list { SEVERAL } else { "the address has more than one @" });
    }
    Ok((local, domain))
}

/// Returns the index of the closing quote of the quoted string at the start of the text.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(index),
            _ => {}
        }
    }
    None
}

fn check_local(local: &str) -> Result<(), AddressError> {
    if local.is_empty() {
        return AddressError::because("the part before the @ is empty");
    }
    if local.len() > MAX_LOCAL {
        return AddressError::because(format!("the part before the @ is longer than {MAX_LOCAL} bytes"));
    }
    if local.starts_with('"') {
        return check_quoted(local);
    }
    if local.starts_with('.') || local.ends_with('.') || local.contains("..") {
        return AddressError::because("the part before the @ has a dot at its start or end, or two in a row");
    }
    match local.chars().find(|&c| c != '.' && !is_atext(c)) {
        None => Ok(()),
        Some(',' | ';') => AddressError::because(SEVERAL),
        Some(' ') => AddressError::because("a space is not allowed before the @"),
        Some(c) => AddressError::because(format!("{} is not allowed before the @", display_char(c))),
    }
}

/// Checks an RFC 5321 `Quoted-string`, extended by RFC 6531. The caller has excluded control characters.
fn check_quoted(local: &str) -> Result<(), AddressError> {
    if local == "\"\"" {
        return AddressError::because("the quotes before the @ are empty");
    }
    let mut chars = local.chars();
    while let Some(c) = chars.next() {
        // A backslash escapes the next character, which must be ASCII (quoted-pairSMTP).
        let wrong =
            if c == '\\' { chars.next().filter(|c| !c.is_ascii()) } else { Some(c).filter(|&c| is_invisible(c)) };
        if let Some(c) = wrong {
            return AddressError::because(format!("{} is not allowed before the @", display_char(c)));
        }
    }
    Ok(())
}

/// Returns whether a character is `atext` (RFC 5322 §3.2.3) or a visible non-ASCII character (RFC 6531).
fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !is_invisible(c))
}

/// Returns whether a character is non-ASCII white space or a formatting character. Copy and paste adds them, and a
/// reader cannot see them. The joiners U+200C and U+200D are allowed, because some scripts need them.
fn is_invisible(c: char) -> bool {
    !c.is_ascii()
        && (c.is_whitespace()
            || matches!(c, '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{feff}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{fff9}'..='\u{fffd}'))
}

/// Formats a character for an error message; an invisible one by its code point.
fn display_char(c: char) -> Cow<'static, str> {
    if c.is_control() || is_invisible(c) {
        return format!("the invisible character U+{:04X}", u32::from(c)).into();
    }
    format!("`{c}`").into()
}

/// Parses an address literal (RFC 5321 §4.1.3) without its opening bracket into its canonical form.
fn parse_literal(literal: &str) -> Result<String, AddressError> {
    let wrong = || AddressError("an address literal must have the form [192.0.2.1] or [IPv6:2001:db8::1]".into());
    let inner = literal.strip_suffix(']').ok_or_else(wrong)?;
    match inner.split_at_checked(5) {
        Some((tag, ip)) if tag.eq_ignore_ascii_case("IPv6:") => {
            ip.parse::<Ipv6Addr>().map(|ip| format!("[IPv6:{ip}]")).map_err(|_| wrong())
        }
        _ => inner.parse::<Ipv4Addr>().map(|ip| format!("[{ip}]")).map_err(|_| wrong()),
    }
}

/// Converts a domain to lower-case ASCII. A single label is valid, because internal names such as `localhost` have one.
fn parse_domain(domain: &str) -> Result<String, AddressError> {
    if domain.is_empty() {
        return AddressError::because("the part after the @ is empty");
    }
    let plain = domain.is_ascii() && !domain.split('.').any(|label| label.as_bytes().get(2..4) == Some(b"--"));
    let ascii = if plain {
        domain.to_ascii_lowercase()
    } else {
        Uts46::new()
            .to_ascii(domain.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore)
            .map_err(|_| AddressError("the domain is not a valid international domain name".into()))?
            .into_owned()
    };
    check_labels(&ascii)?;
    Ok(ascii)
}

/// Checks that labels consist of letters, digits and hyphens (RFC 1123 §2.1). [`MAX_ADDRESS`] ensures that the domain
/// has at most 255 bytes.
fn check_labels(domain: &str) -> Result<(), AddressError> {
    for label in domain.split('.') {
        if label.is_empty() {
            return AddressError::because("the domain has a dot at its start or end, or two in a row");
        }
        if label.len() > MAX_LABEL {
            return AddressError::because(format!("a label of the domain is longer than {MAX_LABEL} bytes"));
        }
        if let Some(c) = label.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
            return match c {
                ',' | ';' => AddressError::because(SEVERAL),
                ' ' => AddressError::because("a space is not allowed in the domain"),
                _ => AddressError::because(format!("{} is not allowed in the domain", display_char(c))),
            };
        }
        if label.starts_with('-') || label.ends_with('-') {
            return AddressError::because("a label of the domain begins or ends with a hyphen");
        }
    }
    let last = domain.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return AddressError::because(
            "a domain must not end in a number; write an IP address in brackets: [192.0.2.1]",
        );
    }
    Ok(())
}
