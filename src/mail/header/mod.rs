//! The header of a message (RFC 5322 §3.6), up to the fields that describe its body.

pub(super) mod encoded_word;
pub(super) mod field;
pub(super) mod mailboxes;
pub(super) mod parameter;
pub(super) mod structured;

use std::slice::from_ref;

use crate::domain::address::Mailbox;
use crate::domain::message::header_syntax::{Syntax, syntax};
use crate::domain::message::{Draft, Header, message_id};
use field::{unstructured, write_field};

/// Returns the `Message-ID` of a generated message (RFC 5322 §3.6.4). It is the same for every attempt.
pub(super) fn message_id(draft: &Draft) -> String {
    message_id::derived(draft.id, draft.from.address.domain())
}

/// Returns the value of `Date`.
pub(super) fn date(draft: &Draft) -> String {
    draft.date.format("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

/// Writes every field except those that describe the body.
pub(super) fn write(out: &mut Vec<u8>, draft: &Draft) {
    write_field(out, "Date", &date(draft));
    mailboxes::write(out, "From", from_ref(&draft.from));
    if draft.to.is_empty() && draft.cc.is_empty() {
        // All recipients are in `Bcc`. An empty group replaces `To`, because spam filters count a missing field against
        // a message.
        write_field(out, "To", "undisclosed-recipients:;");
    }
    mailboxes::write(out, "To", &draft.to);
    mailboxes::write(out, "Cc", &draft.cc);
    mailboxes::write(out, "Reply-To", &draft.reply_to);
    unstructured(out, "Subject", &draft.subject);
    write_field(out, "Message-ID", &message_id(draft));
    write_field(out, "MIME-Version", "1.0");
    for Header { name, value } in draft.content.headers.iter().filter(|header| is_custom(&header.name)) {
        match syntax(name) {
            Syntax::Text => unstructured(out, name, value),
            // An empty value is not a valid id or URL.
            _ if value.trim().is_empty() => {}
            Syntax::Phrase => structured::write_with_phrase(out, name, value),
            Syntax::Structured => structured::write(out, name, value),
        }
    }
}

/// Returns an upper bound of the bytes written.
pub(super) fn size_limit(draft: &Draft) -> usize {
    let mailbox = |mailbox: &Mailbox| {
        8 + mailbox.address.local().len()
            + mailbox.address.domain().len()
            + text_limit(mailbox.name.as_deref().unwrap_or_default())
    };
    let lists = [from_ref(&draft.from), &draft.to, &draft.cc, &draft.reply_to];
    let mailboxes: usize = lists.into_iter().flatten().map(mailbox).sum();
    let headers: usize = draft.content.headers.iter().map(|header| header.name.len() + text_limit(&header.value)).sum();
    512 + draft.from.address.domain().len() + text_limit(&draft.subject) + mailboxes + headers
}

/// Returns an upper bound of the bytes written for a text. A line of at most 78 bytes, with its CRLF, encodes at least 26
/// bytes of text, even if half of them are escaped; the constant covers one more fold.
fn text_limit(text: &str) -> usize {
    32 + text.len() * 3
}

/// Returns whether `name` is a header name (RFC 5322 §3.6.8) that the sender may set.
fn is_custom(name: &str) -> bool {
    const RESERVED: [&str; 10] =
        ["Date", "From", "To", "Cc", "Bcc", "Reply-To", "Subject", "Message-ID", "MIME-Version", "Resent-Bcc"];
    let describes_body = name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("Content-"));
    (1..=76).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
        && !describes_body
        && !RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_sender_may_set_are_custom() {
        for name in ["X-Entity-Ref", "References", "List-Unsubscribe", "Sender", "x"] {
            assert!(is_custom(name), "{name}");
        }
        let long = "X".repeat(77);
        for name in ["", "a b", "a:", "a\r\nBcc", "ä", "bcc", "FROM", "content-type", "Resent-Bcc", &long] {
            assert!(!is_custom(name), "{name}");
        }
    }
}
