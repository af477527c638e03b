//! Complaints: feedback reports (RFC 5965), and Outlook's reports (JMRP), which return the message with an additional
//! field.
//!
//! If a provider redacts the recipient, the recipient of the returned message is used, if there is only one.

use std::collections::HashSet;

use super::received::address;
use super::received::fields::{Fields, cut};
use super::received::parts::ReceivedMessage;
use super::returned::Returned;
use super::silent;
use crate::domain::bounce::report::{Action, Report, ReportKind, ReportedRecipient};
use crate::domain::bounce::{BounceType, Category, Judgement};
use crate::domain::outcome::Reply;

/// Feedback types of an unwanted message. `auth-failure` (RFC 6591) and `not-spam` are not among them.
const COMPLAINTS: [&str; 7] = ["abuse", "fraud", "virus", "other", "opt-out", "opt-out-list", "miscategorized"];

/// Parses a feedback report.
pub(super) fn read(message: &ReceivedMessage<'_>) -> Option<Report> {
    let returned = Returned::find(message);
    let Some(part) = message.part(&["message/feedback-report"]) else {
        return jmrp(message, &returned);
    };
    let fields = Fields::groups(&part.text()).into_iter().next().unwrap_or_default();
    let kind = cut(fields.get("feedback-type").unwrap_or("abuse"), 100).to_ascii_lowercase();
    if !COMPLAINTS.contains(&kind.as_str()) {
        let rule = if kind == "not-spam" { "rfc5965-not-spam" } else { "rfc5965-no-complaint" };
        let recipients = named(&fields, &returned).into_iter().map(|recipient| not_a_complaint(recipient, &fields));
        return Some(Report { recipients: recipients.collect(), ..silent(ReportKind::Unknown, rule, message) });
    }
    let recipients = named(&fields, &returned);
    let first =
        fields.all("original-envelope-id").chain(fields.all("original-mail-from").filter_map(address::first_in));
    Some(Report {
        kind: ReportKind::Complaint,
        rule: "rfc5965",
        recipients: recipients.into_iter().map(|recipient| complained(recipient, &kind)).collect(),
        references: returned.references(message, first),
        original_message_id: returned.message_id(),
    })
}

/// Returns the recipients that the report names; if it names none, the only recipient of the returned message.
fn named(fields: &Fields, returned: &Returned) -> Vec<String> {
    let names = ["original-rcpt-to", "removal-recipient", "original-recipient", "final-recipient"];
    let mut named: Vec<String> = names
        .iter()
        .flat_map(|name| fields.all(name))
        .filter_map(address::typed)
        .filter(|recipient| !is_redacted(recipient))
        .collect();
    // Many reports name the same recipient in several fields.
    let mut seen = HashSet::new();
    named.retain(|recipient| seen.insert(recipient.to_lowercase()));
    if named.is_empty() {
        named.extend(returned.only_recipient().filter(|recipient| !is_redacted(recipient)));
    }
    named
}

/// Returns the result of a report that is not a complaint (RFC 6591): whether the message was delivered.
fn not_a_complaint(recipient: String, fields: &Fields) -> ReportedRecipient {
    let result = fields.get("delivery-result").map(|value| cut(value, 100).to_ascii_lowercase());
    let action = match result.as_deref() {
        Some("delivered" | "spam") => Action::Delivered,
        Some("reject") => Action::Failed,
        _ => Action::Relayed,
    };
    let reply =
        Reply::local_error(fields.get("auth-failure").or_else(|| fields.get("feedback-type")).unwrap_or_default());
    let kind = BounceType::Block;
    let judged = Judgement { kind, category: Category::Authentication, rule: "rfc6591" };
    let judgement = (action == Action::Failed).then_some(judged);
    ReportedRecipient { recipient, original: None, behind: None, action, reply, judgement }
}

fn jmrp(message: &ReceivedMessage<'_>, returned: &Returned) -> Option<Report> {
    let recipient = returned.0.get("x-hmxmroriginalrecipient").and_then(address::first_in)?.to_owned();
    Some(Report {
        kind: ReportKind::Complaint,
        rule: "jmrp",
        recipients: vec![complained(recipient, "abuse")],
        references: returned.references(message, std::iter::empty()),
        original_message_id: returned.message_id(),
    })
}

pub(super) fn complained(recipient: String, kind: &str) -> ReportedRecipient {
    ReportedRecipient {
        recipient,
        original: None,
        behind: None,
        action: Action::Complained,
        reply: Reply::local_error(kind),
        judgement: None,
    }
}

/// Returns whether the address was redacted.
fn is_redacted(address: &str) -> bool {
    let local = address.split('@').next().unwrap_or_default().to_ascii_lowercase();
    local.is_empty()
        || !address.contains('@')
        || local.contains("redacted")
        || local.chars().all(|c| "x*-_".contains(c))
}
