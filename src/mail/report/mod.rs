//! Parses incoming reports: DSNs, complaints, automatic replies.
//!
//! [`read`] returns a report for any bytes in bounded time and memory: the parts of a message that it examines are
//! limited in size, number and depth (`parts`). It trusts nothing: the message that a report is about is determined
//! elsewhere, by our token in [`Report::references`]. It recognizes, in this order: a DSN by its status part (RFC 3464,
//! 6533), a complaint (RFC 5965 and older forms), a read receipt (RFC 8098), a bounce in the known text of a mail
//! server, an automatic reply (RFC 3834), and finally anything that reads like a bounce.

mod address;
mod arf;
mod auto_reply;
#[cfg(test)]
mod corpus;
mod dsn;
mod fields;
mod formats;
mod notice;
mod parts;
mod provider;
mod returned;
mod status;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use crate::domain::report::{Report, ReportKind};
use parts::Mail;

/// Parses a message. Any bytes give a report.
pub fn read(mime: &[u8]) -> Report {
    let mime = with_line_feeds(mime);
    let mail = Mail::read(&mime);
    dsn::read(&mail)
        .or_else(|| arf::read(&mail))
        .or_else(|| provider::read(&mail))
        .or_else(|| nested(&mail))
        .or_else(|| auto_reply::receipt(&mail))
        .or_else(|| notice::read(&mail, notice::Evidence::Format))
        .or_else(|| notice::read(&mail, notice::Evidence::Server))
        .or_else(|| auto_reply::read(&mail))
        .or_else(|| notice::read(&mail, notice::Evidence::Sender))
        .unwrap_or_else(Report::unknown)
}

/// Converts files of old systems, whose lines end with CR alone.
fn with_line_feeds(mime: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\n', mime).is_some() {
        return Cow::Borrowed(mime);
    }
    mime.iter().map(|byte| if *byte == b'\r' { b'\n' } else { *byte }).collect()
}

/// Summary of a message, for a log.
#[derive(Debug)]
pub struct Summary {
    /// The `From` field.
    pub from: String,
    /// The decoded `Subject`.
    pub subject: String,
    /// The beginning of the text.
    pub text: String,
}

/// Summarizes a message, with at most `characters` characters of its text.
pub fn summary(mime: &[u8], characters: usize) -> Summary {
    let mail = Mail::read(mime);
    let from = fields::cut(mail.fields.get("from").unwrap_or_default(), SHOWN).to_owned();
    let subject = fields::cut(&mail.subject, SHOWN).to_owned();
    Summary { from, subject, text: mail.text().trim().chars().take(characters).collect() }
}

/// Maximum bytes of a field in a summary.
const SHOWN: usize = 500;

/// Parses a report that was forwarded as an attachment: one level deep, and only if it has the parts of a report.
fn nested(mail: &Mail<'_>) -> Option<Report> {
    let inner = Mail::read(mail.part(&["message/rfc822"])?.body());
    let report = dsn::read(&inner).or_else(|| arf::read(&inner))?;
    let is_report = matches!(report.kind, ReportKind::Dsn | ReportKind::Complaint);
    (is_report && report.rule.starts_with("rfc")).then_some(report)
}

/// Returns a report without recipients.
fn silent(kind: ReportKind, rule: &'static str, mail: &Mail<'_>) -> Report {
    let returned = returned::Returned::find(mail);
    Report {
        kind,
        rule,
        recipients: Vec::new(),
        references: returned.references(mail, std::iter::empty()),
        original_message_id: returned.message_id(),
    }
}
