//! Parses incoming reports: DSNs, complaints, automatic replies.
//!
//! [`read`] returns a report for any bytes in bounded time and memory: the parts of a message that it examines are
//! limited in size, number and depth (`parts`). Its result is not trusted: `feedback` identifies the message that a
//! report is about by the signed token in [`Report::references`]. [`read`] recognizes, in this order: a DSN by its
//! status part (RFC 3464, 6533), a complaint (RFC 5965 and Outlook's form), a notification in JSON (Amazon SES), a DSN
//! or complaint that was forwarded as an attachment, a read receipt (RFC 8098), a challenge to the sender, a bounce
//! with the standard text of a mail server, an automatic reply (RFC 3834), and finally any text that looks like a
//! bounce.

mod arf;
pub(in crate::mail) mod auto_reply;
mod challenge;
mod dsn;
mod notice;
mod provider;
pub(in crate::mail) mod received;
mod returned;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use crate::domain::bounce::report::{Report, ReportKind};
use received::fields;
use received::parts::ReceivedMessage;

/// Parses a message. Returns a report for any bytes.
pub fn read(mime: &[u8]) -> Report {
    let mime = with_line_feeds(mime);
    let message = ReceivedMessage::read(&mime);
    dsn::read(&message)
        .or_else(|| arf::read(&message))
        .or_else(|| provider::read(&message))
        .or_else(|| nested(&message))
        .or_else(|| auto_reply::receipt(&message))
        .or_else(|| challenge::read(&message))
        .or_else(|| notice::read(&message, notice::Evidence::Format))
        .or_else(|| notice::read(&message, notice::Evidence::Server))
        .or_else(|| auto_reply::read(&message))
        .or_else(|| notice::read(&message, notice::Evidence::Sender))
        .unwrap_or_else(Report::unknown)
}

/// Converts line ends to LF if all lines end with CR alone, as in files of old systems.
fn with_line_feeds(mime: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\n', mime).is_some() {
        return Cow::Borrowed(mime);
    }
    mime.iter().map(|byte| if *byte == b'\r' { b'\n' } else { *byte }).collect()
}

/// The summary of a message for a log line.
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
    let message = ReceivedMessage::read(mime);
    let from = fields::cut(message.fields.get("from").unwrap_or_default(), MAX_SUMMARY_FIELD).to_owned();
    let subject = fields::cut(&message.subject, MAX_SUMMARY_FIELD).to_owned();
    Summary { from, subject, text: message.text().trim().chars().take(characters).collect() }
}

/// Maximum bytes of a field in a summary.
const MAX_SUMMARY_FIELD: usize = 500;

/// Parses a report that was forwarded as an attachment: one level deep, and only if it has the parts of a report.
fn nested(message: &ReceivedMessage<'_>) -> Option<Report> {
    let inner = ReceivedMessage::read(message.part(&["message/rfc822"])?.body());
    let report = dsn::read(&inner).or_else(|| arf::read(&inner))?;
    let is_report = matches!(report.kind, ReportKind::Dsn | ReportKind::Complaint);
    (is_report && report.rule.starts_with("rfc")).then_some(report)
}

/// Returns a report without recipients.
fn silent(kind: ReportKind, rule: &'static str, message: &ReceivedMessage<'_>) -> Report {
    let returned = returned::Returned::find(message);
    Report {
        kind,
        rule,
        recipients: Vec::new(),
        references: returned.references(message, std::iter::empty()),
        original_message_id: returned.message_id(),
    }
}
