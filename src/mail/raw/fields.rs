//! Splits the header of a finished message into its fields and checks them (RFC 5322 §2.2, §3.6).

use super::{FieldRange, addresses, line_fault, value};
use crate::domain::address::Address;
use crate::domain::api::fault::{Code, Faults};

/// Maximum size of a header, in bytes. Large providers accept about as much.
const MAX_HEADER_BYTES: usize = 256 << 10;

/// Fields that a message may have at most once. Receivers disagree about which of two fields counts, and some refuse
/// such messages.
const ONCE: [&str; 17] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Id",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "Auto-Submitted",
];

/// Fields of addresses, which may contain a local part in UTF-8 (RFC 6532).
const ADDRESSES: [&str; 6] = ["From", "Sender", "Reply-To", "To", "Cc", "Bcc"];

/// Fields that are always ASCII: others compare their ids, or open their URLs.
const ASCII_ONLY: [&str; 5] = ["Message-ID", "In-Reply-To", "References", "List-Unsubscribe", "List-Unsubscribe-Post"];

/// Returns the fields of a message with CRLF line ends, and the end of its header. Adds a fault for every invalid line
/// or field. Returns `None` if the header is too long, or the list of faults is full.
pub(super) fn read(message: &[u8], faults: &mut Faults) -> Option<(Vec<FieldRange>, usize)> {
    let mut fields: Vec<FieldRange> = Vec::new();
    let (mut at, mut number) = (0, 0);
    while let Some(length) = memchr::memmem::find(&message[at..], b"\r\n").filter(|length| *length > 0) {
        let (line, end) = (&message[at..at + length], at + length + 2);
        number += 1;
        if end > MAX_HEADER_BYTES {
            let message = format!("the header is longer than {} KiB", MAX_HEADER_BYTES >> 10);
            faults.push("", Code::TooLarge, message);
            return None;
        }
        if matches!(line[0], b' ' | b'\t') {
            match fields.last_mut() {
                _ if line.trim_ascii().is_empty() => {
                    line_fault(faults, Code::InvalidHeader, number, "has only white space, but is in the header");
                }
                Some(field) => field.end = end,
                None => line_fault(faults, Code::InvalidHeader, number, "continues a header field, but is the first"),
            }
        } else if let Some(length) = name_length(line) {
            fields.push(FieldRange { name: at..at + length, end });
        } else {
            let what = "is not a header field, such as `From: billing@acme.test`; an empty line must follow the header";
            line_fault(faults, Code::InvalidHeader, number, what);
        }
        if faults.is_full() {
            return None;
        }
        at = end;
    }
    check_counts(message, &fields, faults);
    Some((fields, at))
}

/// Returns the length of the field's name at the start of a line.
fn name_length(line: &[u8]) -> Option<usize> {
    let length = memchr::memchr(b':', line)?;
    (length > 0 && line[..length].iter().all(u8::is_ascii_graphic)).then_some(length)
}

/// Adds a fault for each field that occurs too often.
fn check_counts(message: &[u8], fields: &[FieldRange], faults: &mut Faults) {
    for once in ONCE {
        let count = fields.iter().filter(|field| name(message, field).eq_ignore_ascii_case(once)).count();
        if count > 1 {
            let message = format!("the message has {count} fields `{once}`; only one is allowed");
            faults.push(once, Code::DuplicateField, message);
        }
    }
}

/// Returns whether an address in the header needs SMTPUTF8.
pub(super) fn need_smtputf8(message: &[u8], fields: &[FieldRange]) -> bool {
    let needs = |(_, text): &(_, String)| text.parse().is_ok_and(|address: Address| address.needs_smtputf8());
    let named = fields.iter().filter(|field| is_one_of(name(message, field), &ADDRESSES));
    named.map(|field| value(message, field)).any(|value| !value.is_ascii() && addresses(&value).iter().any(needs))
}

/// Adds a fault for each field that is not ASCII. If the message needs SMTPUTF8, fields may be UTF-8. Fields of addresses may be in any
/// case: whether that is necessary is for the caller to decide.
pub(super) fn check_text(message: &[u8], fields: &[FieldRange], needs_smtputf8: bool, faults: &mut Faults) {
    for field in fields {
        let (name, text) = (name(message, field), &message[field.name.start..field.end]);
        let may_be_utf8 = is_one_of(name, &ADDRESSES) || (needs_smtputf8 && !is_one_of(name, &ASCII_ONLY));
        let is_allowed = text.is_ascii() || (may_be_utf8 && std::str::from_utf8(text).is_ok());
        if !is_allowed {
            let message =
                format!("the field `{name}` must be ASCII; write other characters as encoded-words (RFC 2047)");
            faults.push(name, Code::InvalidHeader, message);
        }
    }
}

fn name<'a>(message: &'a [u8], field: &FieldRange) -> &'a str {
    std::str::from_utf8(&message[field.name.clone()]).unwrap_or_default()
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}
