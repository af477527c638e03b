//! Parses bounces in plain text: the recipients that they name, and the reply for each, by its position in the text.

mod delays;
pub(super) mod formats;
mod receipts;
mod said;
mod whom;

use super::auto_reply;
use super::received::fields::{Fields, cut, split_field};
use super::received::parts::ReceivedMessage;
use super::received::status;
use super::returned::Returned;
use crate::domain::bounce::report::{Action, Report, ReportKind, ReportedRecipient};
use crate::domain::bounce::{self, BounceType};
use crate::domain::outcome::Reply;
use delays::is_delay;
use formats::{SENDERS, SEPARATORS, SUBJECTS, format, states_failure};
use receipts::is_receipt;

pub(super) use said::{find_member, lines_about};

/// Maximum bytes of a notice that are examined.
const LIMIT: usize = 32 * 1_024;
/// Maximum recipients of one notice.
const MAX_RECIPIENTS: usize = 100;
/// Maximum bytes of a notice that are examined for the text of a refusal.
const REFUSAL: usize = 500;
/// Maximum lines of text per recipient.
const MAX_LINES: usize = 14;

/// Evidence that a message is a bounce. The parser tries the kinds in this order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// A phrase or a header field that only servers write.
    Format,
    /// The address of a server as sender, and a phrase or a subject of a failure; or no sender, and the text of a
    /// refusal.
    Server,
    /// A known format from any sender; or a server as sender, or none, and one more sign of a bounce: an address at the
    /// start of a line, or a subject of a failure.
    Sender,
}

/// Parses a bounce without a status part.
pub(super) fn read(message: &ReceivedMessage<'_>, evidence: Evidence) -> Option<Report> {
    let text = message.text();
    let (notice, quoted) = split(&text);
    let lower = one_line(notice);
    let rule = rule(message, evidence, &lower, notice)?;
    let returned = Returned(if quoted.len() > 0 { quoted } else { Returned::find(message).0 });
    let action = if is_delay(&message.subject, &lower) { Action::Delayed } else { Action::Failed };
    let recipients = recipients(message, &returned, notice, rule, action);
    if recipients.is_empty() {
        return None;
    }
    Some(Report {
        kind: ReportKind::Dsn,
        rule,
        recipients,
        references: returned.references(message, std::iter::empty()),
        original_message_id: returned.message_id(),
    })
}

/// Returns a notice in lower case and on one line. Quoted lines are ignored: people quote bounces, servers do not.
pub(super) fn one_line(notice: &str) -> String {
    let lines = notice.lines().filter(|line| !line.starts_with('>'));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Returns the rule that identifies a message as a bounce.
fn rule(message: &ReceivedMessage<'_>, evidence: Evidence, lower: &str, notice: &str) -> Option<&'static str> {
    if is_receipt(message, notice, lower) || evidence != Evidence::Format && auto_reply::is_vacation(&message.subject) {
        return None;
    }
    let failed = message.fields.get("x-failed-recipients");
    let is_stated = has_subject(message) || states_failure(lower) || is_delay(&message.subject, lower);
    // A phrase that only introduces the program is not sufficient.
    let format = format(lower).filter(|(_, fails)| *fails || is_stated || quotes_reply(notice)).map(|(name, _)| name);
    let by_daemon = || {
        let is_about_failure = is_stated || format.is_some();
        let is_bounce = is_daemon(message) && is_about_failure && (whom::has_leading(notice) || has_subject(message));
        (is_bounce || has_null_sender(message) && is_refusal(notice)).then_some("text")
    };
    match (evidence, format) {
        (Evidence::Format, Some(name)) if is_from_server(message) || failed.is_some() || has_subject(message) => {
            Some(name)
        }
        (Evidence::Format, _) => failed.map(|_| "x-failed-recipients"),
        (Evidence::Server, name) => by_daemon().map(|rule| name.unwrap_or(rule)),
        (Evidence::Sender, Some(name)) => Some(name),
        (Evidence::Sender, None) => {
            let is_bare = is_daemon(message) && whom::has_leading(notice);
            (is_bare || is_from_server(message) && has_subject(message)).then_some("text")
        }
    }
}

fn recipients(
    message: &ReceivedMessage<'_>,
    returned: &Returned,
    notice: &str,
    rule: &str,
    action: Action,
) -> Vec<ReportedRecipient> {
    let named = whom::recipients(message, returned, notice, rule);
    let is_only = named.len() == 1;
    let reported = named.into_iter().map(|named| {
        let reply = said::reply_about(notice, &named, is_only);
        let judgement = (action == Action::Failed).then(|| bounce::judge(&reply));
        let (recipient, behind) = match said::find_alias(notice, &named) {
            Some(alias) => (alias, Some(named)),
            None => (named, None),
        };
        ReportedRecipient { recipient, original: None, behind, action, reply, judgement }
    });
    reported.collect()
}

/// Returns whether a text quotes a server's reply, or states a known reason.
fn quotes_reply(notice: &str) -> bool {
    let reply = status::refusal(notice, None);
    reply.code.is_some() || reply.enhanced.is_some() || bounce::judge(&Reply::local_error(notice)).rule != "none"
}

/// Returns whether the sender is a mail server.
fn is_daemon(message: &ReceivedMessage<'_>) -> bool {
    let names = ["from", "return-path"].into_iter().filter_map(|name| message.fields.get(name)).map(str::to_lowercase);
    names.into_iter().any(|from| SENDERS.iter().any(|name| from.contains(name)))
}

/// Returns whether `From` and `Return-Path` are both `<>`: the message has no sender and expects no reply.
fn has_null_sender(message: &ReceivedMessage<'_>) -> bool {
    let is_null = |name: &str| message.fields.get(name).is_some_and(|value| value.trim() == "<>");
    is_null("from") && is_null("return-path")
}

/// Returns whether the text describes the permanent failure of an address.
fn is_refusal(notice: &str) -> bool {
    bounce::judge(&Reply::local_error(cut(notice.trim(), REFUSAL))).kind == BounceType::Hard
}

fn is_from_server(message: &ReceivedMessage<'_>) -> bool {
    let is_null = message.fields.get("return-path").is_some_and(|path| path.trim() == "<>");
    let from = message.fields.get("from").unwrap_or_default().to_lowercase();
    is_null
        || is_daemon(message)
        || from.contains("mail delivery s")
        || from.ends_with("<>")
        || message.fields.get("x-mlserver").is_some()
}

fn has_subject(message: &ReceivedMessage<'_>) -> bool {
    let subject = message.subject.to_lowercase();
    SUBJECTS.iter().any(|words| subject.contains(words))
}

/// Returns the text before and after the address at this position, on its line.
fn line_of<'a>(text: &'a str, at: usize, address: &str) -> (&'a str, &'a str) {
    let before = text[..at].rsplit('\n').next().unwrap_or_default();
    let after = text[at + address.len()..].split('\n').next().unwrap_or_default();
    (before, after)
}

/// Splits a text into the notice and the header of the returned message, which begins at the first line that announces
/// it, or where three consecutive lines are header fields.
pub(super) fn split(text: &str) -> (&str, Fields) {
    let text = cut(text, LIMIT * 2);
    let mut starts = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        starts.push((at, line));
        at += line.len();
    }
    let is_field = |line: &str| {
        split_field(line.trim_start_matches(['>', ' '])).is_some_and(|(name, _)| {
            let name = name.to_ascii_lowercase();
            name.starts_with("x-") || HEADER_FIELDS.contains(&name.as_str())
        })
    };
    for (index, (start, line)) in starts.iter().enumerate() {
        let lower = line.trim_start().to_lowercase();
        let rest = &starts[index..];
        let fields = || rest.iter().take(12).filter(|(_, line)| is_field(line)).count();
        let announced = SEPARATORS.iter().any(|words| lower.starts_with(words));
        let in_a_row = || is_field(line) && rest.iter().skip(1).take(4).filter(|(_, line)| is_field(line)).count() >= 2;
        // A separator line is sufficient.
        let is_drawn = announced && (lower.starts_with(['-', '|']) || lower.starts_with("original message details:"));
        if is_drawn || announced && fields() > 0 || in_a_row() {
            return (cut(&text[..*start], LIMIT), quoted(&text[*start..], is_field));
        }
    }
    (cut(text, LIMIT), Fields::default())
}

/// Names of fields that occur in message headers and not in notices.
const HEADER_FIELDS: [&str; 14] = [
    "return-path",
    "received",
    "message-id",
    "dkim-signature",
    "mime-version",
    "date",
    "from",
    "to",
    "subject",
    "content-type",
    "list-unsubscribe",
    "reply-to",
    "content-transfer-encoding",
    "authentication-results",
];

/// Returns the header at or near the start of a text, without quote prefixes.
fn quoted(text: &str, is_field: impl Fn(&str) -> bool) -> Fields {
    let lines: Vec<&str> = text.lines().skip_while(|line| !is_field(line)).take(500).collect();
    let is_quoted = lines.first().is_some_and(|line| line.starts_with('>'));
    let indent = lines.first().map_or(0, |line| line.len() - line.trim_start_matches([' ', '\t']).len());
    let plain = |line: &str| {
        if is_quoted {
            line.trim_start_matches('>').strip_prefix(' ').unwrap_or(line.trim_start_matches('>')).to_owned()
        } else {
            line.get(indent..).unwrap_or_default().to_owned()
        }
    };
    Fields::read(&lines.into_iter().map(plain).collect::<Vec<_>>().join("\n"))
}
