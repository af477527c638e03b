//! Delivery status notifications (RFC 3464, RFC 6533): a part with a group of fields for the message and one for each
//! recipient.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write as _;

use mail_parser::decoders::base64::base64_decode;

use super::received::fields::{Fields, cut, split_field};
use super::received::parts::ReceivedMessage;
use super::received::{address, status};
use super::returned::Returned;
use super::{notice, silent};
use crate::domain::bounce;
use crate::domain::bounce::report::{Action, Report, ReportKind, ReportedRecipient};
use crate::domain::outcome::{EnhancedCode, Reply};

const KINDS: [&str; 2] = ["message/delivery-status", "message/global-delivery-status"];

/// Maximum number of recipients for which the text is searched.
const MAX_SEARCHES: usize = 100;

/// Parses a message that has a delivery-status part, or the fields of one in its text.
pub(super) fn read(message: &ReceivedMessage<'_>) -> Option<Report> {
    let (rule, groups) = match message.part(&KINDS) {
        Some(part) => {
            let groups = Fields::groups(&decoded(&part.text()));
            if groups.iter().all(|group| !is_about_recipient(group)) && !groups.is_empty() {
                // Sendmail writes such a receipt for an alias. Its text is ignored.
                return Some(silent(ReportKind::Unknown, "rfc3464-no-recipient", message));
            }
            ("rfc3464", groups)
        }
        None => ("rfc3464-in-text", in_text(message)?),
    };
    let returned = Returned::find(message);
    let text = message.text();
    let notice = notice::split(&text).0;
    let notice = Some(if rule == "rfc3464-in-text" { before_fields(notice) } else { notice });
    let is_only = groups.iter().filter(|group| is_about_recipient(group)).count() == 1;
    let mut recipients: Vec<ReportedRecipient> = groups
        .iter()
        .enumerate()
        .filter_map(|(number, group)| {
            recipient(group, message, &returned, notice.filter(|_| number < MAX_SEARCHES), is_only)
        })
        .collect();
    // A second group with the same recipient and action is about another attempt.
    let mut seen = HashSet::new();
    recipients.retain(|recipient| seen.insert((recipient.recipient.clone(), recipient.action.as_str())));
    if recipients.is_empty() {
        return None;
    }
    let envelope_ids = groups.iter().filter_map(|group| group.get("original-envelope-id"));
    Some(Report {
        kind: ReportKind::Dsn,
        rule,
        references: returned.references(message, envelope_ids),
        original_message_id: returned.message_id(),
        recipients,
    })
}

/// Decodes the groups after the first one if the first group declares base64: Proofpoint rewrites the part as if
/// its first group were a header.
fn decoded(text: &str) -> Cow<'_, str> {
    let encoding = Fields::read(text).get("content-transfer-encoding").map(str::to_ascii_lowercase);
    let body = text.trim_start();
    let end = ["\n\n", "\r\n\r\n"].iter().filter_map(|line| body.find(line)).min();
    let Some((first, rest)) = end.filter(|_| encoding.as_deref() == Some("base64")).map(|end| body.split_at(end))
    else {
        return Cow::Borrowed(text);
    };
    let groups = base64_decode(rest.trim().as_bytes());
    groups.map_or(Cow::Borrowed(text), |groups| format!("{first}\n\n{}", String::from_utf8_lossy(&groups)).into())
}

/// Returns whether a group has a field that is only used for recipients.
fn is_about_recipient(group: &Fields) -> bool {
    const FIELDS: [&str; 7] = [
        "final-recipient",
        "original-recipient",
        "x-actual-recipient",
        "action",
        "status",
        "diagnostic-code",
        "remote-mta",
    ];
    FIELDS.iter().any(|field| group.get(field).is_some())
}

/// Parses the fields from the text, because some gateways convert the part to text.
fn in_text(message: &ReceivedMessage<'_>) -> Option<Vec<Fields>> {
    let is_status = |part: &&super::received::parts::Part<'_>| {
        matches!(part.kind.as_str(), "text/plain" | "text/delivery-status" | "application/octet-stream")
    };
    message.parts.iter().filter(is_status).find_map(|part| {
        let text = part.text();
        if !text.contains("inal-Recipient:") || !text.contains("Action:") {
            return None;
        }
        let groups = Fields::groups(&text);
        groups.iter().any(|g| g.get("final-recipient").is_some() && g.get("action").is_some()).then_some(groups)
    })
}

/// Returns the text before the fields of a report, because a field below an address would be mistaken for the text about
/// that address.
fn before_fields(text: &str) -> &str {
    const FIELDS: [&str; 4] = ["reporting-mta", "original-envelope-id", "original-recipient", "final-recipient"];
    let is_field = |line: &str| {
        split_field(line).is_some_and(|(name, _)| FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field)))
    };
    let before = text.split_inclusive('\n').take_while(|line| !is_field(line)).map(str::len).sum();
    &text[..before]
}

fn recipient(
    group: &Fields,
    message: &ReceivedMessage<'_>,
    returned: &Returned,
    notice: Option<&str>,
    is_only: bool,
) -> Option<ReportedRecipient> {
    let original = group.get("original-recipient").and_then(address::typed);
    let is_about_one =
        ["final-recipient", "original-recipient", "action", "status"].iter().filter(|f| group.get(f).is_some());
    let named = ["final-recipient", "x-actual-recipient"].iter().find_map(|name| address::typed(group.get(name)?));
    // Some servers name the address only in the header of the report.
    let recipient = named.or_else(|| original.clone()).or_else(|| {
        let failed = message.fields.get("x-failed-recipients").and_then(address::first_in).map(str::to_owned);
        (is_about_one.count() >= 2).then(|| failed.or_else(|| returned.only_recipient())).flatten()
    })?;
    let status = group.get("status").and_then(|text| status::enhanced(text, true));
    let mut action = action(group.get("action"), status)?;
    let from_notice = || {
        let named = original.iter().chain([&recipient]);
        let written = |name: &String| [Some(name.clone()), (!name.is_ascii()).then(|| octal(name))];
        named.flat_map(written).flatten().find_map(|name| notice::lines_about(notice?, &name, is_only))
    };
    let from_notice = if matches!(action, Action::Failed | Action::Delayed) { from_notice() } else { None };
    if action == Action::Delayed
        && from_notice.as_deref().is_some_and(is_expired)
        && group.get("will-retry-until").is_none()
    {
        // OpenSMTPD reports its final failure as a delay.
        action = Action::Failed;
    }
    let reply = reply(group, action, status, from_notice.clone());
    let judgement = (action == Action::Failed).then(|| bounce::judge_with_notice(&reply, from_notice.as_deref()));
    let behind = (action == Action::Failed).then(|| behind(group, message, notice, &recipient, &reply.text)).flatten();
    Some(ReportedRecipient { recipient, original, behind, action, reply, judgement })
}

/// Returns the reply: the diagnostic, or the text of the notice if there is no diagnostic or it is uninformative.
fn reply(group: &Fields, action: Action, status: Option<EnhancedCode>, from_notice: Option<String>) -> Reply {
    if !matches!(action, Action::Failed | Action::Delayed) {
        return status::reply(
            &group.get("diagnostic-code").map(untyped).unwrap_or_default().replace('\n', " "),
            status,
        );
    }
    let diagnostic = ["diagnostic-code", "x-supplementary-info"].into_iter().filter_map(|name| group.get(name));
    let diagnostic = diagnostic.map(untyped).find(|text| !text.is_empty()).map(|text| text.replace('\n', " "));
    let comment =
        group.get("status").and_then(|text| text.split_once('(')).map(|(_, comment)| comment.trim_end_matches(')'));
    let texts = diagnostic.into_iter().chain(from_notice).chain(comment.map(str::to_owned));
    let mut replies = texts.filter(|text| !text.trim().is_empty()).map(|text| status::refusal(&text, status));
    let Some(first) = replies.next() else { return status::refusal("", status) };
    if action == Action::Failed && bounce::judge(&first).rule == "none" {
        return replies.find(|reply| bounce::judge(reply).rule != "none").unwrap_or(first);
    }
    first
}

fn is_expired(text: &str) -> bool {
    let text = text.to_lowercase();
    ["envelope expired", "message expired"].iter().any(|words| text.contains(words))
}

/// Returns the member of an alias that failed: Exim and Sendmail report the alias, and the member in another field.
fn behind(
    group: &Fields,
    message: &ReceivedMessage<'_>,
    notice: Option<&str>,
    recipient: &str,
    reply: &str,
) -> Option<String> {
    let original = group.get("original-recipient").and_then(address::typed);
    let is_other = |found: &String| {
        let is = |known: &str| known.eq_ignore_ascii_case(found);
        !is(recipient) && !original.as_deref().is_some_and(is) && found.contains('@')
    };
    let actual = group.get("x-actual-recipient").and_then(address::typed).filter(is_other);
    let by_text = || notice.and_then(|notice| notice::find_member(notice, recipient)).filter(is_other);
    let by_header = || {
        let failed = || {
            message
                .fields
                .all("x-failed-recipients")
                .filter(|value| !value.contains('\\'))
                .flat_map(address::all_in)
                .map(|(_, found)| found.to_owned())
        };
        let is_named = failed().any(|found| !is_other(&found));
        if is_named { None } else { failed().next() }
    };
    actual.or_else(by_text).or_else(by_header).or_else(|| refused(reply).filter(is_other))
}

/// Returns the refused address in a reply, which servers write in brackets: `<ann@example.test>: Recipient address
/// rejected`.
fn refused(reply: &str) -> Option<String> {
    let (at, found) = address::all_in(reply).next()?;
    let is_bracketed = reply[..at].ends_with('<') && reply[at + found.len()..].starts_with('>');
    // Other addresses in a reply are contacts or senders.
    let before = reply[..at].to_ascii_lowercase();
    let is_sender =
        ["mail from", "sender", "from:", "contact", "report", "mailto"].iter().any(|words| before.contains(words));
    (is_bracketed && !is_sender).then(|| found.to_owned())
}

/// Returns the action, or derives it from the status if it is missing or unknown.
fn action(word: Option<&str>, status: Option<EnhancedCode>) -> Option<Action> {
    let word = word.map(|word| cut(word, 100).to_ascii_lowercase()).unwrap_or_default();
    match word.split(|c: char| !c.is_ascii_alphabetic()).find(|word| !word.is_empty()).unwrap_or_default() {
        "failed" | "failure" | "fail" | "expired" => Some(Action::Failed),
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

/// Encodes a non-ASCII address with octal escapes, as Exim does in its text.
fn octal(address: &str) -> String {
    let mut written = String::with_capacity(address.len());
    for byte in address.bytes() {
        match byte {
            0..=0x7f => written.push(byte.into()),
            _ => _ = write!(written, "\\{byte:03o}"),
        }
    }
    written
}

/// Returns the text of `smtp; 550 …` and similar values, and of `<192.0.2.1 #5.0.0 smtp; 550 "…">`.
fn untyped(value: &str) -> &str {
    let value = value.trim();
    let inner = value.strip_prefix('<').and_then(|inner| inner.strip_suffix('>'));
    if let Some((before, text)) =
        inner.and_then(|inner| inner.split_once("smtp;")).filter(|(before, _)| before.len() < 100)
    {
        // If the part before `smtp;` has another code than 5.0.0, the whole value is returned.
        return if before.contains("#5.0.0") || !before.contains('#') { text.trim() } else { value };
    }
    match value.split_once(';') {
        Some((kind, text)) if kind.len() <= 40 && !kind.contains([' ', '.']) => text.trim(),
        _ => value,
    }
}
