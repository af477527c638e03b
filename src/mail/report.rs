//! Reads mail that came back: DSNs (RFC 3464), complaints (RFC 5965), automatic replies (RFC 3834).
//!
//! The standard forms alone: what a part of their type says in fields.

use mail_parser::{HeaderValue, Message, MessageParser, MimeHeaders as _};

use crate::domain::bounce;
use crate::domain::outcome::Reply;
use crate::domain::report::{Action, Report, ReportKind, ReportedRecipient};

/// Recipients that are looked at in one report.
const RECIPIENTS: usize = 1_000;

/// Reads a mail. Whatever the bytes, there is an answer.
pub fn read(mime: &[u8]) -> Report {
    let Some(message) = MessageParser::default().parse(mime) else { return Report::unknown() };
    let part = |kind: &str| {
        let is_it = |part: &&mail_parser::MessagePart<'_>| {
            part.content_type().is_some_and(|of| {
                of.ctype().eq_ignore_ascii_case("message")
                    && of.subtype().is_some_and(|sub| sub.eq_ignore_ascii_case(kind))
            })
        };
        message.parts.iter().find(is_it).map(|part| String::from_utf8_lossy(part.contents()).into_owned())
    };
    if let Some(text) = part("delivery-status") {
        return dsn(&message, &text);
    }
    if let Some(text) = part("feedback-report") {
        return complaint(&message, &text);
    }
    match message.header("Auto-Submitted").and_then(HeaderValue::as_text) {
        Some(word) if !word.eq_ignore_ascii_case("no") => {
            Report { kind: ReportKind::AutoReply, rule: "rfc3834", ..Report::unknown() }
        }
        _ => Report::unknown(),
    }
}

fn dsn(message: &Message<'_>, text: &str) -> Report {
    let mut groups = groups(text).into_iter();
    let whole = groups.next().unwrap_or_default();
    let recipients = groups.take(RECIPIENTS).filter_map(|group| recipient(&group)).collect();
    let mut references: Vec<String> = get(&whole, "original-envelope-id").into_iter().collect();
    references.extend(returned(message, "Return-Path"));
    references.extend(own(message, "To"));
    let original_message_id = returned(message, "Message-ID");
    Report { kind: ReportKind::Dsn, rule: "rfc3464", recipients, references, original_message_id }
}

fn recipient(group: &[(String, String)]) -> Option<ReportedRecipient> {
    let address = |name: &str| {
        let value = get(group, name)?;
        Some(value.split_once(';').map_or(value.as_str(), |(_, address)| address).trim().to_owned())
    };
    let action = match get(group, "action")?.to_ascii_lowercase().as_str() {
        "failed" => Action::Failed,
        "delayed" => Action::Delayed,
        "delivered" => Action::Delivered,
        "relayed" => Action::Relayed,
        "expanded" => Action::Expanded,
        _ => return None,
    };
    let said = address("diagnostic-code").unwrap_or_default();
    let (code, words) = said.split_at_checked(3).unwrap_or_default();
    let mut reply = match code.parse() {
        Ok(code) => Reply::from_lines(code, std::iter::once(words.trim_start_matches([' ', '-']))),
        Err(_) => Reply::ours(&*said),
    };
    reply.enhanced = reply.enhanced.or_else(|| get(group, "status")?.split_whitespace().next()?.parse().ok());
    let original = address("original-recipient");
    let recipient = address("final-recipient").or_else(|| original.clone())?;
    let judgement = (action == Action::Failed).then(|| bounce::judge(&reply));
    Some(ReportedRecipient { recipient, original, action, reply, judgement })
}

fn complaint(message: &Message<'_>, text: &str) -> Report {
    let fields = groups(text).into_iter().next().unwrap_or_default();
    let to = get(&fields, "original-rcpt-to").map(|to| ReportedRecipient {
        recipient: to.trim_matches(['<', '>']).to_owned(),
        original: None,
        action: Action::Complained,
        reply: Reply::ours(format!("called {}", get(&fields, "feedback-type").unwrap_or_else(|| "spam".into()))),
        judgement: None,
    });
    let mut references: Vec<String> = get(&fields, "original-mail-from").into_iter().collect();
    references.extend(returned(message, "Return-Path"));
    references.extend(own(message, "To"));
    Report {
        kind: ReportKind::Complaint,
        rule: "rfc5965",
        recipients: to.into_iter().collect(),
        references,
        original_message_id: returned(message, "Message-ID"),
    }
}

/// A field of the mail that was returned, or of its header.
fn returned(message: &Message<'_>, name: &str) -> Option<String> {
    let inner = message.parts.iter().find_map(|part| part.message())?;
    let value = inner.header_raw(name)?.trim();
    Some(value.trim_matches(['<', '>']).to_owned())
}

fn own(message: &Message<'_>, name: &str) -> Option<String> {
    message.header_raw(name).map(|value| value.trim().to_owned())
}

/// Groups of fields between empty lines, unfolded, names in lower case.
fn groups(text: &str) -> Vec<Vec<(String, String)>> {
    let (mut groups, mut group) = (Vec::new(), Vec::<(String, String)>::new());
    for line in text.lines() {
        if line.trim().is_empty() {
            if !group.is_empty() {
                groups.push(std::mem::take(&mut group));
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = group.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            group.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

fn get(group: &[(String, String)], name: &str) -> Option<String> {
    group.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}
