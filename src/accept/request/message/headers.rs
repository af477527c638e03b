//! Parses custom headers. Headers that the service sets itself, or that other servers use for authentication or
//! routing, are refused.

use crate::accept::request::json::pointer::{Pointer, cut};
use crate::accept::request::json::walk::Node;
use crate::domain::api::fault::{Code, Faults};
use crate::domain::message::Header;
use crate::domain::message::header_syntax::{self, Syntax};

/// Maximum length of a header name, in characters: with a colon and a space it fits a line of 78 (RFC 5322 §2.1.1).
const MAX_NAME: usize = 76;
/// Maximum length of a value, in characters.
const MAX_VALUE: usize = 998;
/// Maximum length of a value that is folded between its parts, such as `References` of a long thread.
const MAX_STRUCTURED: usize = 8_000;

/// A header that a request may not set.
#[derive(Debug, Clone, Copy)]
pub struct Denied {
    /// Lower-case name; a `*` at its end matches any suffix.
    pub name: &'static str,
    /// What to do instead, or why the header cannot be set.
    pub instead: &'static str,
}

/// The deny list, which is also part of the API documentation.
pub const DENIED: &[Denied] = &[
    Denied { name: "from", instead: "use the field `from`" },
    Denied { name: "sender", instead: "use the field `from`" },
    Denied { name: "to", instead: "use the field `to`" },
    Denied { name: "cc", instead: "use the field `cc`" },
    Denied { name: "bcc", instead: "use the field `bcc`" },
    Denied { name: "reply-to", instead: "use the field `reply_to`" },
    Denied { name: "subject", instead: "use the field `subject`" },
    Denied { name: "date", instead: "it is set when the message is accepted; use `scheduled_at` to send later" },
    Denied { name: "message-id", instead: "it is derived from the message's id and is the same in every attempt" },
    Denied { name: "mime-version", instead: "it is set with the body" },
    Denied { name: "content-*", instead: "it is set with the body; use `text`, `html` and `attachments`" },
    Denied { name: "return-path", instead: "it is written by the receiving server" },
    Denied { name: "received", instead: "it is written by the servers that forward the message" },
    Denied { name: "received-*", instead: "it is written by the servers that forward the message" },
    Denied { name: "delivered-to", instead: "it is written by the receiving server, which would detect a mail loop" },
    Denied { name: "apparently-to", instead: "use the field `to`" },
    Denied { name: "resent-*", instead: "it is for messages that a person resends" },
    Denied { name: "dkim-signature", instead: "the service signs messages itself" },
    Denied { name: "domainkey-signature", instead: "the service signs messages itself" },
    Denied { name: "arc-*", instead: "it is written by the servers that forward the message" },
    Denied { name: "authentication-results", instead: "it is written by the receiving server" },
];

impl Denied {
    /// Returns the entry that matches a header name, ignoring case.
    pub fn find(name: &str) -> Option<&'static Self> {
        DENIED.iter().find(|denied| match denied.name.strip_suffix('*') {
            Some(prefix) => {
                name.len() > prefix.len() && name.as_bytes()[..prefix.len()].eq_ignore_ascii_case(prefix.as_bytes())
            }
            None => name.eq_ignore_ascii_case(denied.name),
        })
    }
}

/// Parses `headers`, an object of strings, and returns the headers in the order of the object.
pub fn headers(node: Option<Node<'_, '_>>, limit: usize, faults: &mut Faults) -> Vec<Header> {
    let mut list: Vec<Header> = Vec::new();
    let Some(node) = node else { return list };
    node.each_entry(limit, format_args!("at most {limit} headers are allowed"), faults, |name, node, faults| {
        let at = node.at;
        let is_valid_name = check_name(name, &at, faults);
        // Header names are case-insensitive, so `X-A` and `x-a` are duplicates.
        let is_duplicate = list.iter().any(|earlier| earlier.name.eq_ignore_ascii_case(name));
        if is_duplicate {
            at.fault(faults, Code::DuplicateField, "duplicate header; header names are case-insensitive");
        }
        let max_length = if header_syntax::syntax(name) == Syntax::Text { MAX_VALUE } else { MAX_STRUCTURED };
        let Some(value) = node.line(0..=max_length, faults).filter(|_| is_valid_name && !is_duplicate) else { return };
        match header_syntax::fault(name, &value) {
            Some(why) => at.fault(faults, Code::InvalidHeader, why),
            None => list.push(Header { name: name.into(), value: value.into_owned() }),
        }
    });
    list
}

fn check_name(name: &str, at: &Pointer<'_>, faults: &mut Faults) -> bool {
    if name.chars().any(char::is_control) {
        at.fault(faults, Code::ControlCharacter, "a header name must not contain control characters");
    } else if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
        let message = "a header name must be printable ASCII characters without spaces and colons";
        at.fault(faults, Code::InvalidHeader, message);
    } else if name.len() > MAX_NAME {
        at.fault(faults, Code::TooLong, format_args!("a header name must have at most {MAX_NAME} characters"));
    } else if let Some(denied) = Denied::find(name) {
        let message = format_args!("`{}` cannot be set here: {}", cut(name), denied.instead);
        at.fault(faults, Code::ForbiddenHeader, message);
    } else {
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deny_list_ignores_case_and_matches_whole_names() {
        for name in ["From", "BCC", "Content-Type", "content-x", "Resent-To", "ARC-Seal", "Received-SPF", "Message-ID"]
        {
            assert!(Denied::find(name).is_some(), "{name}");
        }
        for name in ["X-From", "Content", "List-Unsubscribe", "References", "In-Reply-To", "Precedence", "To-Do", "é"]
        {
            assert!(Denied::find(name).is_none(), "{name}");
        }
    }
}
