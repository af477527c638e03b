//! Bounces in words: whom they name, and what was said of each, by where it stands in the text.

use super::address;
use super::fields::{Fields, named};
use super::formats::{DELAYS, FORMATS, LABELS, SENDERS, SEPARATORS, SUBJECTS};
use super::parts::Mail;
use super::returned::Returned;
use super::status;
use crate::domain::bounce;
use crate::domain::outcome::Reply;
use crate::domain::report::{Action, Report, ReportKind, ReportedRecipient};

/// Octets of a notice that are looked at.
const LIMIT: usize = 32 * 1_024;
/// Recipients of one notice.
const MOST: usize = 100;
/// Lines of what is said of one recipient.
const LINES: usize = 14;

/// What must speak for a bounce.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Words or a header field that servers alone write.
    Format,
    /// A server's name as sender, or no sender at all.
    Sender,
}

/// Reads a bounce that has no status part.
pub(super) fn read(mail: &Mail<'_>, evidence: Evidence) -> Option<Report> {
    let text = mail.text();
    let (notice, quoted) = split(&text);
    // A person quotes a bounce; a server says that it is one.
    // A person quotes a bounce; a server says that it is one.
    let lines = notice.lines().filter(|line| !line.starts_with('>'));
    let lower = lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ").to_lowercase();
    let from_server = is_from_server(mail);
    let failed = mail.fields.get("x-failed-recipients");
    let format =
        FORMATS.iter().find(|(_, words)| words.iter().any(|words| lower.contains(words))).map(|(name, _)| *name);
    let rule = match (evidence, format) {
        (Evidence::Format, Some(name)) if from_server || failed.is_some() || has_subject(mail) => name,
        (Evidence::Format, _) => failed.map(|_| "x-failed-recipients")?,
        (Evidence::Sender, name) => name.or((from_server && has_subject(mail)).then_some("text"))?,
    };
    let returned = Returned(if quoted.len() > 0 { quoted } else { Returned::of(mail).0 });
    let recipients = recipients(mail, &returned, notice);
    if recipients.is_empty() {
        return None;
    }
    let is_delay = DELAYS.iter().any(|words| lower.contains(words)) || mail.subject.to_lowercase().contains("delayed");
    let action = if is_delay { Action::Delayed } else { Action::Failed };
    let is_only = recipients.len() == 1;
    let recipients = recipients.into_iter().map(|recipient| {
        let reply = said(notice, &recipient, is_only);
        let judgement = (action == Action::Failed).then(|| bounce::judge(&reply));
        ReportedRecipient { recipient, original: None, behind: None, action, reply, judgement }
    });
    Some(Report {
        kind: ReportKind::Dsn,
        rule,
        recipients: recipients.collect(),
        references: returned.references(mail, std::iter::empty()),
        original_message_id: returned.message_id(),
    })
}

fn is_from_server(mail: &Mail<'_>) -> bool {
    let from = mail.fields.get("from").unwrap_or_default().to_lowercase();
    let is_null = mail.fields.get("return-path").is_some_and(|path| path.trim() == "<>");
    is_null || SENDERS.iter().any(|name| from.contains(name)) || from.contains("mail delivery s")
}

fn has_subject(mail: &Mail<'_>) -> bool {
    let subject = mail.subject.to_lowercase();
    SUBJECTS.iter().any(|words| subject.contains(words))
}

/// A text without the mail that it returns, and that mail's header: at the first line that announces it, or where three
/// lines in a row are fields of a header.
pub(super) fn split(text: &str) -> (&str, Fields) {
    let text = super::fields::cut(text, LIMIT * 2);
    let mut starts = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        starts.push((at, line));
        at += line.len();
    }
    let is_field = |line: &str| {
        named(line.trim_start_matches(['>', ' '])).is_some_and(|(name, _)| {
            let name = name.to_ascii_lowercase();
            name.starts_with("x-") || KNOWN.contains(&name.as_str())
        })
    };
    for (index, (start, line)) in starts.iter().enumerate() {
        let lower = line.trim_start().to_lowercase();
        let rest = &starts[index..];
        let fields = || rest.iter().take(12).filter(|(_, line)| is_field(line)).count();
        let announced = SEPARATORS.iter().any(|words| lower.starts_with(words));
        let in_a_row = || is_field(line) && rest.iter().skip(1).take(4).filter(|(_, line)| is_field(line)).count() >= 2;
        if announced && fields() > 0 || in_a_row() {
            return (super::fields::cut(&text[..*start], LIMIT), quoted(&text[*start..], is_field));
        }
    }
    (super::fields::cut(text, LIMIT), Fields::default())
}

/// Names of fields that a header has and a notice has not.
const KNOWN: [&str; 14] = [
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

/// The header at or soon below the start of a text, without the quoting of lines.
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

/// Whom a notice is about: those of the header field for it; those that lines begin with; any other; or whom the returned
/// mail was for.
fn recipients(mail: &Mail<'_>, returned: &Returned, notice: &str) -> Vec<String> {
    let failed =
        mail.fields.all("x-failed-recipients").flat_map(|value| address::all_in(value).map(|(_, found)| found));
    let failed = distinct(failed);
    if !failed.is_empty() {
        return failed;
    }
    let own = own(mail, returned);
    let is_theirs = |found: &str| {
        let lower = found.to_lowercase();
        !own.contains(&lower) && !SENDERS.contains(&lower.split('@').next().unwrap_or_default())
    };
    let all: Vec<(usize, &str)> = address::all_in(notice).filter(|(_, found)| is_theirs(found)).collect();
    let leading = distinct(all.iter().filter(|(at, _)| is_leading(notice, *at)).map(|(_, found)| *found));
    match all.first() {
        Some(_) if !leading.is_empty() => leading,
        Some((_, first)) => vec![(*first).to_owned()],
        None => returned.only_recipient().into_iter().collect(),
    }
}

fn distinct<'a>(found: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut distinct: Vec<String> = Vec::new();
    for address in found {
        if !distinct.iter().any(|known| known.eq_ignore_ascii_case(address)) {
            distinct.push(address.to_owned());
        }
        if distinct.len() >= MOST {
            break;
        }
    }
    distinct
}

/// Addresses of the mail that came back itself, in lower case: it is not about them.
fn own(mail: &Mail<'_>, returned: &Returned) -> Vec<String> {
    let fields = ["to", "delivered-to", "from"].into_iter().flat_map(|name| mail.fields.all(name));
    let sender = returned.0.get("from").into_iter();
    fields.chain(sender).flat_map(|value| address::all_in(value).map(|(_, found)| found.to_lowercase())).collect()
}

/// Whether the address there begins its line, but for a label and what encloses it.
fn is_leading(notice: &str, at: usize) -> bool {
    let line = notice[..at].rsplit('\n').next().unwrap_or_default();
    let line = line.trim_matches([' ', '\t', '<', '"', '\'', '-', '*', '(', '>', '\r', ':']).to_lowercase();
    line.is_empty() || LABELS.contains(&line.as_str())
}

/// What a notice says of a recipient as a reply. Of the only one the rest of it is said as well: a transcript of the session
/// may stand below.
fn said(notice: &str, recipient: &str, is_only: bool) -> Reply {
    let near = status::reply(&about(notice, recipient).unwrap_or_default(), None);
    if near.code.is_some() || near.enhanced.is_some() || !is_only {
        return near;
    }
    let coded = notice.lines().map(|line| line.trim().trim_start_matches(['<', '>', ' ']));
    let coded = coded.map(|line| status::reply(line, None)).find(|reply| reply.code.is_some());
    coded.unwrap_or_else(|| {
        let whole = status::reply(notice, None);
        Reply { enhanced: whole.enhanced, ..if near.text.is_empty() { whole } else { near } }
    })
}

/// The lines of a text that are about an address: behind it on its line, and those below up to an empty line or another
/// address. Where there are none, those below the empty line, if they quote a code.
pub(super) fn about(text: &str, recipient: &str) -> Option<String> {
    let found = address::all_in(text).find(|(_, found)| found.eq_ignore_ascii_case(recipient)).map(|(at, _)| at);
    let at = found.or_else(|| text.find(recipient))?;
    let after = text[at + recipient.len()..].trim_start_matches(['>', '"', '\'', ')', ':', ',', ' ', '.', '\t']);
    let (first, below) = after.split_once('\n').unwrap_or((after, ""));
    let own =
        paragraph(std::iter::once(first).chain(below.lines().take_while(|line| !line.trim().is_empty())), recipient);
    if !own.is_empty() {
        return Some(own);
    }
    let next = paragraph(below.lines().skip(1).take_while(|line| !line.trim().is_empty()), recipient);
    let quoted = status::reply(&next, None);
    (quoted.code.is_some() || quoted.enhanced.is_some()).then_some(next)
}

/// Lines up to one that begins with another address.
fn paragraph<'a>(lines: impl Iterator<Item = &'a str>, recipient: &str) -> String {
    let is_about_another = |line: &str| {
        let first = address::all_in(line).next().filter(|(start, _)| is_leading(line, *start));
        first.is_some_and(|(_, found)| !found.eq_ignore_ascii_case(recipient))
    };
    let lines = lines.take_while(|line| !is_about_another(line)).map(str::trim).filter(|line| !line.is_empty());
    lines.take(LINES).collect::<Vec<_>>().join("\n")
}
