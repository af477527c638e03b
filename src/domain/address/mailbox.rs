//! Mailboxes: an address with a display name, as in `Ann Lee <ann@example.test>`.
//!
//! Parsing is lenient, because people type mailboxes: a name with commas and dots needs no quotes, and white space
//! around name and address is dropped. Formatting is strict (RFC 5322 §3.4), and its output parses to the same mailbox.

use std::fmt;
use std::str::FromStr;

use super::{Address, AddressError, SEVERAL, closing_quote, refuse_control};

/// An address with a display name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    /// The address.
    pub address: Address,
    /// The display name, without control characters, not blank, at most [`Mailbox::MAX_NAME`] characters.
    pub name: Option<String>,
}

impl Mailbox {
    /// The maximum length of a display name, in characters.
    pub const MAX_NAME: usize = 256;

    /// Creates a mailbox. Drops white space around the name; a blank name becomes `None`.
    pub fn new(address: Address, name: &str) -> Result<Self, AddressError> {
        let name = name.trim();
        refuse_control(name)?;
        if name.chars().nth(Self::MAX_NAME).is_some() {
            return AddressError::because(format!("the name is longer than {} characters", Self::MAX_NAME));
        }
        Ok(Self { address, name: (!name.is_empty()).then(|| name.into()) })
    }
}

impl FromStr for Mailbox {
    type Err = AddressError;

    /// Parses `a@b`, `<a@b>`, `Name <a@b>` and `"Quoted, Name" <a@b>`.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        refuse_control(text)?;
        let text = text.trim();
        if text.starts_with('"') {
            return parse_quoted(text);
        }
        match text.split_once('<') {
            None if text.ends_with('>') => AddressError::because("the < before the address is missing"),
            None => Ok(Self { address: text.parse()?, name: None }),
            Some((name, rest)) => Self::new(parse_angled(rest)?, check_bare(name)?),
        }
    }
}

/// Parses a text that begins with a quote: a quoted name, or an address with a quoted local part.
fn parse_quoted(text: &str) -> Result<Mailbox, AddressError> {
    let Some(close) = closing_quote(text) else {
        return AddressError::because("the quotes are not closed");
    };
    let rest = text[close + 1..].trim_start();
    match rest.strip_prefix('<') {
        Some(rest) => Mailbox::new(parse_angled(rest)?, &unquoted(&text[1..close])),
        None if rest.starts_with('@') => Ok(Mailbox { address: text.parse()?, name: None }),
        None => AddressError::because("a quoted name must be followed by the address in angle brackets"),
    }
}

/// Parses the text after the `<`: an address and its `>`.
fn parse_angled(rest: &str) -> Result<Address, AddressError> {
    // A quoted local part may contain a `>`.
    let from = if rest.starts_with('"') { closing_quote(rest).unwrap_or(0) } else { 0 };
    let Some(end) = rest[from..].find('>').map(|index| from + index) else {
        return AddressError::because("the > after the address is missing");
    };
    let after = &rest[end + 1..];
    if after.contains('@') {
        return AddressError::because(SEVERAL);
    }
    if !after.is_empty() {
        return AddressError::because("nothing may follow the >");
    }
    if rest.starts_with('@') {
        return AddressError::because("source routes are not supported");
    }
    rest[..end].trim().parse()
}

/// Checks an unquoted name. Commas are allowed, unless the text is a list of addresses.
fn check_bare(name: &str) -> Result<&str, AddressError> {
    if name.contains('@') && name.contains([',', ';']) {
        return AddressError::because(SEVERAL);
    }
    match name.chars().find(|c| matches!(c, '"' | '>')) {
        Some(c) => AddressError::because(format!("the name contains `{c}`; put the whole name in quotes")),
        None => Ok(name),
    }
}

fn unquoted(inner: &str) -> String {
    let mut chars = inner.chars();
    let mut name = String::with_capacity(inner.len());
    while let Some(c) = chars.next() {
        name.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    name
}

/// Returns whether every word of the name is an atom, so that it needs no quotes.
fn is_plain(name: &str) -> bool {
    name.chars().all(|c| c == ' ' || !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c))
}

impl fmt::Display for Mailbox {
    /// Formats `a@b` or `Name <a@b>`, with the name quoted if necessary.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            None => self.address.fmt(f),
            Some(name) if is_plain(name) => write!(f, "{name} <{}>", self.address),
            Some(name) => {
                let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
                write!(f, "\"{escaped}\" <{}>", self.address)
            }
        }
    }
}
