//! Splits the header of a finished message into its fields and checks them (RFC 5322 §2.2, §3.6).

use super::{FieldRange, line_fault};
use crate::domain::fault::{Code, Faults};

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
    check(message, &fields, faults);
    Some((fields, at))
}

/// Returns the length of the field's name at the start of a line.
fn name_length(line: &[u8]) -> Option<usize> {
    let length = memchr::memchr(b':', line)?;
    (length > 0 && line[..length].iter().all(u8::is_ascii_graphic)).then_some(length)
}

/// Adds a fault for each field that occurs too often or is not ASCII.
fn check(message: &[u8], fields: &[FieldRange], faults: &mut Faults) {
    let name = |field: &FieldRange| std::str::from_utf8(&message[field.name.clone()]).unwrap_or_default();
    for once in ONCE {
        let count = fields.iter().filter(|field| name(field).eq_ignore_ascii_case(once)).count();
        if count > 1 {
            let message = format!("the message has {count} fields `{once}`; only one is allowed");
            faults.push(once, Code::DuplicateField, message);
        }
    }
    for field in fields {
        let (name, text) = (name(field), &message[field.name.start..field.end]);
        let may_be_utf8 = ADDRESSES.iter().any(|known| known.eq_ignore_ascii_case(name));
        let is_allowed = text.is_ascii() || (may_be_utf8 && std::str::from_utf8(text).is_ok());
        if !is_allowed {
            let message =
                format!("the field `{name}` must be ASCII; write other characters as encoded-words (RFC 2047)");
            faults.push(name, Code::InvalidHeader, message);
        }
    }
}
