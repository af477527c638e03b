//! The returned message in a report: its header, complete, partial or quoted in a text.

use super::notice;
use super::received::address;
use super::received::fields::{Fields, cut};
use super::received::parts::ReceivedMessage;

/// Types of parts that contain a returned message or its header.
const KINDS: [&str; 7] = [
    "message/rfc822",
    "message/global",
    "text/rfc822-headers",
    "message/rfc822-headers",
    "message/global-headers",
    "text/rfc822-header",
    "message/partial",
];
/// Fields of the report that contain the recipient of the report.
const REPORT_RECIPIENT_FIELDS: [&str; 6] =
    ["x-original-to", "delivered-to", "envelope-to", "x-envelope-to", "x-rcpt-to", "to"];
/// Maximum Received fields that are examined.
const RECEIVED: usize = 20;
/// Maximum references returned.
const MAX_REFERENCES: usize = 32;

/// The header of the message that a report is about; empty if the report does not contain it.
#[derive(Debug, Default)]
pub(super) struct Returned(pub Fields);

impl Returned {
    /// Finds the header in the part with the returned message, or quoted below the text.
    pub fn find(message: &ReceivedMessage<'_>) -> Self {
        let part = message.part(&KINDS).map(|part| Fields::read(&part.text())).filter(|fields| fields.len() > 0);
        Self(part.unwrap_or_else(|| notice::split(&message.text()).1))
    }

    /// Returns the `Message-ID` without brackets.
    pub fn message_id(&self) -> Option<String> {
        let value = self.0.get("message-id")?;
        let id = value.trim().trim_start_matches('<').split(['>', ' ', '\n']).next().unwrap_or_default();
        let is_id = !id.is_empty() && id.len() <= 998 && !id.contains(char::is_control);
        is_id.then(|| id.to_owned())
    }

    /// Returns the texts that may contain the token of a return path: `first`, then the returned message's envelope
    /// sender, then the recipients of the report.
    pub fn references<'a>(&self, message: &ReceivedMessage<'_>, first: impl Iterator<Item = &'a str>) -> Vec<String> {
        let mut references: Vec<String> = Vec::new();
        let mut add = |reference: String| {
            if !reference.is_empty() && references.len() < MAX_REFERENCES && !references.contains(&reference) {
                references.push(reference);
            }
        };
        first.for_each(|id| add(address::decoded(cut(id.trim(), 500))));
        for name in ["return-path", "x-return-path", "x-envelope-from", "envelope-from"] {
            self.0.all(name).filter_map(address::first_in).for_each(|found| add(found.to_owned()));
        }
        for name in REPORT_RECIPIENT_FIELDS {
            for value in message.fields.all(name) {
                address::all_in(value).for_each(|(_, found)| add(found.to_owned()));
            }
        }
        references
    }

    /// Returns the message's recipient, if it is the only one: from its header, its recorded envelope, or the most
    /// recent Received field with one address (`for <ann@example.test>`, RFC 5321 §4.4).
    pub fn only_recipient(&self) -> Option<String> {
        const RECIPIENT_FIELDS: [&str; 7] = [
            "x-hmxmroriginalrecipient",
            "to",
            "x-original-to",
            "x-original-rcpt-to",
            "x-envelope-to",
            "x-rcpt-to",
            "envelope-to",
        ];
        let only = |value: &str| {
            let mut found = address::all_in(value);
            let (_, only) = found.next()?;
            found.all(|(_, other)| other.eq_ignore_ascii_case(only)).then(|| only.to_owned())
        };
        let in_field = RECIPIENT_FIELDS.iter().find_map(|name| self.0.get(name).and_then(only));
        let several = self.0.get("to").is_some_and(|to| address::all_in(to).nth(1).is_some());
        in_field.or_else(|| {
            let lines = self.0.all("received").filter(|_| !several).take(RECEIVED);
            lines.filter_map(|line| line.split_once(" for ").or_else(|| line.split_once("\nfor "))).find_map(
                |(_, to)| {
                    let to = to.split([';', '\n']).next().unwrap_or_default();
                    only(to)
                },
            )
        })
    }
}
