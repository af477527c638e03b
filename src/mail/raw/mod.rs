//! Finished MIME: messages that the application has already rendered.
//!
//! [`RawMessage::read`] checks that a message can be sent as it is: a header of valid fields in ASCII (UTF-8 is allowed
//! in fields of addresses, and in others if an address needs SMTPUTF8), each field at most as often as RFC 5322 §3.6 allows, and lines of at most 998 bytes without
//! NUL and without CR in them. Line ends become CRLF. Nothing else of the body is changed, so that signatures inside it
//! (S/MIME, PGP) stay valid, and bytes above 127 stay.
//!
//! [`RawMessage::into_sendable`] removes the fields that must not be sent; the result is stored. For every attempt,
//! `complete` adds the fields that the message lacks, the same ones each time.

mod complete;
mod fields;
mod instructions;
mod lines;
mod values;

use std::ops::Range;

use crate::domain::api::fault::{Code, Faults};

pub(super) use complete::complete;
pub use instructions::{Instructed, comparable, take};
pub use values::{Sender, addresses, sender, text};

/// A finished message with CRLF line ends.
#[derive(Debug)]
pub struct RawMessage {
    bytes: Vec<u8>,
    fields: Vec<FieldRange>,
    /// Where the empty line after the header begins, or the end of the message if it has none.
    header_end: usize,
    needs_smtputf8: bool,
}

/// The position of a header field.
#[derive(Debug, Clone)]
struct FieldRange {
    name: Range<usize>,
    /// The end of the field, after its line end.
    end: usize,
}

/// A header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name, printable ASCII.
    pub name: &'a str,
    /// The value on one line, without white space at its ends. It is ASCII, except in fields of addresses, and if the message needs
    /// SMTPUTF8.
    pub value: String,
}

impl RawMessage {
    /// Reads a message. Adds a fault for everything that prevents it from being sent: the pointer is the name of the
    /// field, or empty for a fault in a line. Returns `None` if the message or its header is too large to be examined.
    /// With CRLF line ends, the message may have at most `max` bytes. `is_utf8` says whether an address of the envelope
    /// needs SMTPUTF8.
    pub fn read(message: Vec<u8>, max: u64, is_utf8: bool, faults: &mut Faults) -> Option<Self> {
        let bytes = lines::normalise(message, max, faults)?;
        let (fields, header_end) = fields::read(&bytes, faults)?;
        let needs_smtputf8 = is_utf8 || fields::need_smtputf8(&bytes, &fields);
        fields::check_text(&bytes, &fields, needs_smtputf8, faults);
        Some(Self { bytes, fields, header_end, needs_smtputf8 })
    }

    /// Returns whether an address of the envelope or the header needs SMTPUTF8, so that the header may be UTF-8 (RFC 6532).
    pub fn needs_smtputf8(&self) -> bool {
        self.needs_smtputf8
    }

    /// Returns the header fields, in their order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields.iter().map(|field| Field { name: self.name(field), value: self.value(field) })
    }

    /// Returns the values of all fields with this name.
    pub fn values(&self, name: &str) -> impl Iterator<Item = String> {
        let named = self.fields.iter().filter(|field| self.name(field).eq_ignore_ascii_case(name));
        named.map(|field| self.value(field)).collect::<Vec<_>>().into_iter()
    }

    /// Returns the value of a field that occurs at most once.
    pub fn value_of(&self, name: &str) -> Option<String> {
        self.values(name).next()
    }

    /// Returns the message as it is stored: without the fields that must not be sent, and with a line end at its end.
    pub fn into_sendable(mut self) -> Vec<u8> {
        self.remove_fields(is_removed);
        if self.header_end == self.bytes.len() {
            self.bytes.extend_from_slice(b"\r\n");
        }
        self.bytes
    }

    /// Removes fields by their names, and the lines of the header that belong to no field. The positions of the other fields
    /// are no longer valid.
    fn remove_fields(&mut self, is_removed: impl Fn(&str) -> bool) {
        let kept: Vec<&FieldRange> = self.fields.iter().filter(|field| !is_removed(self.name(field))).collect();
        if kept.len() < self.fields.len() {
            let mut header = Vec::with_capacity(self.header_end);
            for field in kept {
                header.extend_from_slice(&self.bytes[field.name.start..field.end]);
            }
            let end = self.header_end;
            self.header_end = header.len();
            self.bytes.splice(..end, header);
        }
    }

    fn name(&self, field: &FieldRange) -> &str {
        std::str::from_utf8(&self.bytes[field.name.clone()]).unwrap_or_default()
    }

    fn value(&self, field: &FieldRange) -> String {
        value(&self.bytes, field)
    }
}

/// Returns the value of a field on one line.
fn value(message: &[u8], field: &FieldRange) -> String {
    let value = message.get(field.name.end + 1..field.end).unwrap_or_default();
    String::from_utf8_lossy(value).replace("\r\n", "").trim().to_owned()
}

/// Returns whether a field is removed: it reveals recipients, belongs to the receiving server, or is for Postrider.
fn is_removed(name: &str) -> bool {
    const REMOVED: [&str; 3] = ["Bcc", "Resent-Bcc", "Return-Path"];
    const INTERNAL: &str = "X-Postrider-";
    let is_internal = name.get(..INTERNAL.len()).is_some_and(|start| start.eq_ignore_ascii_case(INTERNAL));
    is_internal || REMOVED.iter().any(|removed| removed.eq_ignore_ascii_case(name))
}

/// Adds a fault in one line.
fn line_fault(faults: &mut Faults, code: Code, line: usize, what: &str) {
    faults.push("", code, format!("line {line} of the message {what}"));
}

#[cfg(test)]
mod tests;
