//! Reads the values of header fields: senders strictly, so that every mail client shows the sender that was checked;
//! recipients and texts as leniently as mail clients do.

use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;

use crate::domain::address::{Address, Mailbox};

/// The sender in a `From` or `Sender` field, or why there is none.
pub type Sender = Result<Mailbox, String>;

/// Returns the only sender in the value of a field: `a@b`, `<a@b>`, `Name <a@b>` or `"Quoted name" <a@b>`. Comments,
/// groups and source routes are refused, because mail clients disagree about them.
pub fn sender(value: &str) -> Sender {
    if addresses(value).len() > 1 {
        return Err("must name exactly one sender".into());
    }
    let (name, address) = split(value);
    let address: Address = address.parse().map_err(|error| format!("must be `Name <address>`: {error}"))?;
    Mailbox::new(address, &display_name(name)?).map_err(|error| error.to_string())
}

/// Splits a value at the first `<` outside quotes, if it ends with `>`.
fn split(value: &str) -> (&str, &str) {
    let Some(rest) = value.strip_suffix('>') else { return ("", value) };
    let (mut is_quoted, mut is_escaped) = (false, false);
    let start = rest.bytes().position(|byte| {
        let is_start = byte == b'<' && !is_quoted;
        if byte == b'"' && !is_escaped {
            is_quoted = !is_quoted;
        }
        is_escaped = byte == b'\\' && is_quoted && !is_escaped;
        is_start
    });
    match start {
        Some(start) => (rest[..start].trim(), rest[start + 1..].trim()),
        None => ("", value),
    }
}

/// Returns the decoded display name.
fn display_name(name: &str) -> Result<String, String> {
    let Some(inner) = name.strip_prefix('"') else {
        return match name.chars().find(|c| "\"(),:;<>@[\\]".contains(*c)) {
            Some(c) => Err(format!("the name contains `{c}`; put the whole name in quotes")),
            None => Ok(text(name)),
        };
    };
    let mut unquoted = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' if chars.as_str().is_empty() => return Ok(text(&unquoted)),
            '"' => break,
            '\\' => unquoted.extend(chars.next()),
            c => unquoted.push(c),
        }
    }
    Err("the quotes around the name must contain the whole name".into())
}

/// Returns the addresses in the value of a field with their names, including the members of groups. A text without an
/// `@` is returned as an address.
pub fn addresses(value: &str) -> Vec<(Option<String>, String)> {
    let line = format!("{value}\n");
    let HeaderValue::Address(parsed) = MessageStream::new(line.as_bytes()).parse_address() else { return Vec::new() };
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let each = parsed.iter().filter_map(|one| match (owned(one.name()), owned(one.address())) {
        (name, Some(address)) => Some((name, address)),
        (text, None) => Some((None, text?)),
    });
    each.collect()
}

/// Returns a text with its encoded-words decoded. Control characters become spaces.
pub fn text(value: &str) -> String {
    let line = format!("{value}\n");
    let parsed = MessageStream::new(line.as_bytes()).parse_unstructured();
    parsed.as_text().unwrap_or_default().replace(char::is_control, " ")
}
