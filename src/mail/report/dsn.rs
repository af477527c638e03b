//! Delivery status notifications (RFC 3464, RFC 6533): a part with a group of fields for the mail and one for each
//! recipient.

use std::collections::HashSet;
use std::fmt::Write as _;

use super::address;
use super::fields::{Fields, cut};
use super::notice;
use super::parts::Mail;
use super::returned::Returned;
use super::status;
use crate::domain::bounce;
use crate::domain::outcome::EnhancedCode;
use crate::domain::report::{Action, Report, ReportKind, ReportedRecipient};

const KINDS: [&str; 2] = ["message/delivery-status", "message/global-delivery-status"];

/// For so many recipients the text is searched; it is once for each.
const SOUGHT: usize = 100;

/// Reads a mail that has such a part, or the fields of one in its text.
pub(super) fn read(mail: &Mail<'_>) -> Option<Report> {
    let (rule, groups) = match mail.part(&KINDS) {
        Some(part) => ("rfc3464", Fields::groups(&part.text())),
        None => ("rfc3464-in-text", in_text(mail)?),
    };
    let returned = Returned::of(mail);
    let text = mail.text();
    let notice = Some(notice::split(&text).0);
    let mut recipients: Vec<ReportedRecipient> = groups
        .iter()
        .enumerate()
        .filter_map(|(number, group)| recipient(group, mail, &returned, notice.filter(|_| number < SOUGHT)))
        .collect();
    // A second answer for the same recipient is about another try.
    let mut seen = HashSet::new();
    recipients.retain(|recipient| seen.insert((recipient.recipient.clone(), recipient.action.as_str())));
    if recipients.is_empty() {
        return None;
    }
    let envelope_ids = groups.iter().filter_map(|group| group.get("original-envelope-id"));
    Some(Report {
        kind: ReportKind::Dsn,
        rule,
        references: returned.references(mail, envelope_ids),
        original_message_id: returned.message_id(),
        recipients,
    })
}

/// Some gateways turn the part into text.
fn in_text(mail: &Mail<'_>) -> Option<Vec<Fields>> {
    let is_status = |part: &&super::parts::Part<'_>| {
        matches!(part.kind.as_str(), "text/plain" | "text/delivery-status" | "application/octet-stream")
    };
    mail.parts.iter().filter(is_status).find_map(|part| {
        let text = part.text();
        if !text.contains("inal-Recipient:") || !text.contains("Action:") {
            return None;
        }
        let groups = Fields::groups(&text);
        groups.iter().any(|g| g.get("final-recipient").is_some() && g.get("action").is_some()).then_some(groups)
    })
}

fn recipient(group: &Fields, mail: &Mail<'_>, returned: &Returned, notice: Option<&str>) -> Option<ReportedRecipient> {
    let original = group.get("original-recipient").and_then(address::typed);
    let is_about_one =
        ["final-recipient", "original-recipient", "action", "status"].iter().filter(|f| group.get(f).is_some());
    let named = group.get("final-recipient").or_else(|| group.get("x-actual-recipient")).and_then(address::typed);
    // Some leave the address out, and name it in the header alone.
    let recipient = named.or_else(|| original.clone()).or_else(|| {
        let failed = mail.fields.get("x-failed-recipients").and_then(address::first_in).map(str::to_owned);
        (is_about_one.count() >= 2).then(|| failed.or_else(|| returned.only_recipient())).flatten()
    })?;
    let status = group.get("status").and_then(status::enhanced);
    let action = action(group.get("action"), status)?;
    let diagnostic = group.get("diagnostic-code").map(untyped).filter(|text| !text.is_empty());
    // Without a diagnostic the reason is in the text alone.
    let told = || {
        let named = original.iter().chain([&recipient]);
        let written = |name: &String| [Some(name.clone()), (!name.is_ascii()).then(|| octal(name))];
        named.flat_map(written).flatten().find_map(|name| notice::about(notice?, &name))
    };
    let text = diagnostic
        .map(|text| text.replace('\n', " "))
        .or_else(|| (action == Action::Failed || action == Action::Delayed).then(told).flatten());
    let reply = status::reply(&text.unwrap_or_default(), status);
    let judgement = (action == Action::Failed).then(|| bounce::judge(&reply));
    Some(ReportedRecipient { recipient, original, behind: None, action, reply, judgement })
}

/// The action, or what the status makes of it where it is missing or strange.
fn action(word: Option<&str>, status: Option<EnhancedCode>) -> Option<Action> {
    let word = word.map(|word| cut(word, 100).to_ascii_lowercase()).unwrap_or_default();
    match word.split(|c: char| !c.is_ascii_alphabetic()).find(|word| !word.is_empty()).unwrap_or_default() {
        "failed" | "failure" | "fail" => Some(Action::Failed),
        "delayed" => Some(Action::Delayed),
        "delivered" => Some(Action::Delivered),
        "relayed" => Some(Action::Relayed),
        "expanded" => Some(Action::Expanded),
        _ => match status?.class {
            2 => Some(Action::Delivered),
            4 => Some(Action::Delayed),
            _ => Some(Action::Failed),
        },
    }
}

/// As Exim writes an address that is not ASCII in its text.
fn octal(address: &str) -> String {
    let mut written = String::with_capacity(address.len());
    for octet in address.bytes() {
        match octet {
            0..=0x7f => written.push(octet.into()),
            _ => _ = write!(written, "\\{octet:03o}"),
        }
    }
    written
}

/// The text of `smtp; 550 …` and the like.
fn untyped(value: &str) -> &str {
    match value.split_once(';') {
        Some((kind, text)) if kind.len() <= 40 && !kind.contains([' ', '.']) => text.trim(),
        _ => value.trim(),
    }
}
