//! Complaints: feedback reports (RFC 5965), and Outlook's reports (JMRP) that return the message with a field of their own.
//!
//! Providers redact the recipient. Then what the returned header names counts, where that is one alone.

use std::collections::HashSet;

use super::address;
use super::fields::{Fields, cut};
use super::parts::Mail;
use super::returned::Returned;
use super::silent;
use crate::domain::bounce::{BounceType, Category, Judgement};
use crate::domain::outcome::Reply;
use crate::domain::report::{Action, Report, ReportKind, ReportedRecipient};

/// Feedback types that say that somebody did not want the message. `auth-failure` (RFC 6591) and `not-spam` do not.
const COMPLAINTS: [&str; 7] = ["abuse", "fraud", "virus", "other", "opt-out", "opt-out-list", "miscategorized"];

/// Reads a feedback report.
pub(super) fn read(mail: &Mail<'_>) -> Option<Report> {
    let returned = Returned::of(mail);
    let Some(part) = mail.part(&["message/feedback-report"]) else {
        return jmrp(mail, &returned);
    };
    let fields = Fields::groups(&part.text()).into_iter().next().unwrap_or_default();
    let kind = cut(fields.get("feedback-type").unwrap_or("abuse"), 100).to_ascii_lowercase();
    if !COMPLAINTS.contains(&kind.as_str()) {
        let rule = if kind == "not-spam" { "rfc5965-not-spam" } else { "rfc5965-no-complaint" };
        let recipients = named(&fields, &returned).into_iter().map(|recipient| no_complaint(recipient, &fields));
        return Some(Report { recipients: recipients.collect(), ..silent(ReportKind::Unknown, rule, mail) });
    }
    let recipients = named(&fields, &returned);
    let first =
        fields.all("original-envelope-id").chain(fields.all("original-mail-from").filter_map(address::first_in));
    Some(Report {
        kind: ReportKind::Complaint,
        rule: "rfc5965",
        recipients: recipients.into_iter().map(|recipient| complained(recipient, &kind)).collect(),
        references: returned.references(mail, first),
        original_message_id: returned.message_id(),
    })
}

/// Whom the report names, and where it names nobody, to whom the returned mail went.
fn named(fields: &Fields, returned: &Returned) -> Vec<String> {
    let known = ["original-rcpt-to", "removal-recipient", "original-recipient", "final-recipient"];
    let mut named: Vec<String> = known
        .iter()
        .flat_map(|name| fields.all(name))
        .filter_map(address::typed)
        .filter(|recipient| !is_redacted(recipient))
        .collect();
    // Many name it in several fields, and a return path speaks of one alone.
    let mut seen = HashSet::new();
    named.retain(|recipient| seen.insert(recipient.to_lowercase()));
    if named.is_empty() {
        named.extend(returned.only_recipient().filter(|recipient| !is_redacted(recipient)));
    }
    named
}

/// What a report says that is no complaint (RFC 6591): how the message fared.
fn no_complaint(recipient: String, fields: &Fields) -> ReportedRecipient {
    let fate = fields.get("delivery-result").map(|word| cut(word, 100).to_ascii_lowercase());
    let action = match fate.as_deref() {
        Some("delivered" | "spam") => Action::Delivered,
        Some("reject") => Action::Failed,
        _ => Action::Relayed,
    };
    let reply = Reply::ours(fields.get("auth-failure").or_else(|| fields.get("feedback-type")).unwrap_or_default());
    let kind = BounceType::Block;
    let judged = Judgement { kind, category: Category::Authentication, rule: "rfc6591" };
    let judgement = (action == Action::Failed).then_some(judged);
    ReportedRecipient { recipient, original: None, behind: None, action, reply, judgement }
}

fn jmrp(mail: &Mail<'_>, returned: &Returned) -> Option<Report> {
    let recipient = returned.0.get("x-hmxmroriginalrecipient").and_then(address::first_in)?.to_owned();
    Some(Report {
        kind: ReportKind::Complaint,
        rule: "jmrp",
        recipients: vec![complained(recipient, "abuse")],
        references: returned.references(mail, std::iter::empty()),
        original_message_id: returned.message_id(),
    })
}

pub(super) fn complained(recipient: String, kind: &str) -> ReportedRecipient {
    ReportedRecipient {
        recipient,
        original: None,
        behind: None,
        action: Action::Complained,
        reply: Reply::ours(kind),
        judgement: None,
    }
}

/// Whether the address was made unreadable.
fn is_redacted(address: &str) -> bool {
    let local = address.split('@').next().unwrap_or_default().to_ascii_lowercase();
    local.is_empty()
        || !address.contains('@')
        || local.contains("redacted")
        || local.chars().all(|c| "x*-_".contains(c))
}
