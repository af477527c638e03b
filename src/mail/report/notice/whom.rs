//! Finds the recipients that a plain-text bounce is about.

use super::{MAX_RECIPIENTS, line_of};
use crate::mail::report::notice::formats::{ANNOUNCEMENTS, LABELS, NOT_ABOUT, SENDERS};
use crate::mail::report::notice::receipts;
use crate::mail::report::received::address;
use crate::mail::report::received::fields::cut;
use crate::mail::report::received::parts::ReceivedMessage;
use crate::mail::report::returned::Returned;

/// Maximum bytes examined of a line before and after an address.
const LINE: usize = 200;
/// Maximum lines between an address and the heading of its list.
const MAX_HEADING_DISTANCE: usize = 200;
/// Maximum lines of a heading.
const MAX_HEADING_LINES: usize = 3;
/// Types that may precede an address: `[SMTP:ann@example.test]`.
const TYPES: [&str; 2] = ["smtp", "mailto"];

/// Returns the failed recipients, from the first of these sources that has any: `X-Failed-Recipients`; below an
/// announcement, addresses at the beginning of lines, then addresses with the same label; addresses at the beginning of
/// any line; in a notice of Sendmail, addresses with a final result; in a notice of AOL, users without a domain;
/// addresses at the end of lines, after a colon; the first address anywhere; the only recipient of the returned
/// message; an address in the subject.
pub(super) fn recipients(message: &ReceivedMessage<'_>, returned: &Returned, notice: &str, rule: &str) -> Vec<String> {
    let failed =
        message.fields.all("x-failed-recipients").flat_map(|value| address::all_in(value).map(|(_, found)| found));
    let failed = distinct(failed);
    if !failed.is_empty() {
        return failed;
    }
    let own = own(message, returned);
    let is_candidate = |found: &str| {
        let lower = found.to_lowercase();
        !own.contains(&lower) && !SENDERS.contains(&lower.split('@').next().unwrap_or_default())
    };
    let all: Vec<(usize, &str)> =
        address::all_in(notice).filter(|(at, found)| is_candidate(found) && !is_success(notice, *at, found)).collect();
    let leading: Vec<(usize, &str)> = all.iter().copied().filter(|(at, _)| is_leading(notice, *at)).collect();
    let announced = announcement(notice).map(|from| leading.iter().filter(move |(at, _)| *at >= from));
    let announced = announced.map(|found| distinct(found.map(|(_, found)| *found))).unwrap_or_default();
    if !announced.is_empty() {
        return announced;
    }
    let below = announcement(notice).map(|from| all.iter().copied().filter(move |(at, _)| *at >= from));
    let below = below.map(|found| same_label(notice, found)).unwrap_or_default();
    if !below.is_empty() {
        return below;
    }
    if !leading.is_empty() {
        return distinct(leading.iter().map(|(_, found)| *found));
    }
    if rule == "sendmail" {
        let refused = all.iter().filter(|(at, found)| is_refused(notice, *at, found));
        let refused = distinct(refused.map(|(_, found)| *found));
        if !refused.is_empty() {
            return refused;
        }
    }
    if rule == "aol" {
        let names = bare_names(message, notice);
        if !names.is_empty() {
            return names;
        }
    }
    let trailing = distinct(all.iter().filter(|(at, found)| is_trailing(notice, *at, found)).map(|(_, found)| *found));
    if !trailing.is_empty() {
        return trailing;
    }
    let first = all.first().map(|(_, first)| (*first).to_owned()).or_else(|| returned.only_recipient());
    let in_subject =
        || address::all_in(&message.subject).find(|(_, found)| is_candidate(found)).map(|(_, to)| to.to_owned());
    first.or_else(in_subject).into_iter().collect()
}

/// Returns whether the line of the address reports that the message arrived, was forwarded or was expanded to several
/// addresses: a transcript may list successful recipients.
fn is_success(notice: &str, at: usize, found: &str) -> bool {
    let (before, after) = line_of(notice, at, found);
    let line = format!("{} {}", cut(before, LINE), cut(after, LINE));
    receipts::is_success(&line) || receipts::is_success(&heading(notice, at))
}

/// Returns the lines above the list that contains the address, if they end with a colon: `The message was delivered to
/// the following:`.
fn heading(notice: &str, at: usize) -> String {
    let above = notice[..at].rfind('\n').map_or("", |start| &notice[..start]);
    let lines = above.lines().rev().take(MAX_HEADING_DISTANCE).map(|line| cut(line, LINE).trim());
    let lines = lines.skip_while(|line| line.is_empty() || line.contains('@'));
    let mut heading: Vec<&str> =
        lines.take_while(|line| !line.is_empty() && !line.contains('@')).take(MAX_HEADING_LINES).collect();
    heading.reverse();
    Some(heading.join(" ")).filter(|heading| heading.ends_with(':')).unwrap_or_default()
}

/// Returns the addresses that have the same text before them on their lines as the first one.
fn same_label<'a>(notice: &str, found: impl Iterator<Item = (usize, &'a str)>) -> Vec<String> {
    let mut found = found.map(|(at, address)| (line_of(notice, at, address).0.trim(), address));
    let Some((label, first)) = found.next() else { return Vec::new() };
    let others = found.filter(|(other, _)| !label.is_empty() && label.len() <= LINE && *other == label);
    distinct(std::iter::once(first).chain(others.map(|(_, address)| address)))
}

/// Returns whether any line begins with an address.
pub(super) fn has_leading(notice: &str) -> bool {
    address::all_in(notice).any(|(at, _)| is_leading(notice, at))
}

/// Returns the position of the phrase that announces recipients.
fn announcement(notice: &str) -> Option<usize> {
    let plain = notice.to_ascii_lowercase().replace(['\n', '\r', '\t'], " ");
    ANNOUNCEMENTS.iter().filter_map(|words| plain.find(words)).min()
}

/// Returns the distinct addresses, at most [`MAX_RECIPIENTS`].
fn distinct<'a>(found: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut distinct: Vec<String> = Vec::new();
    for address in found {
        if !distinct.iter().any(|other| other.eq_ignore_ascii_case(address)) {
            distinct.push(address.to_owned());
        }
        if distinct.len() >= MAX_RECIPIENTS {
            break;
        }
    }
    distinct
}

/// Returns the sender and the recipients of the report, in lower case: the report is not about them.
fn own(message: &ReceivedMessage<'_>, returned: &Returned) -> Vec<String> {
    let fields = ["to", "delivered-to", "from"].into_iter().flat_map(|name| message.fields.all(name));
    let sender = returned.0.get("from").into_iter();
    fields.chain(sender).flat_map(|value| address::all_in(value).map(|(_, found)| found.to_lowercase())).collect()
}

/// Returns whether the address begins its line, except for a label and brackets.
pub(super) fn is_leading(notice: &str, at: usize) -> bool {
    let line = notice[..at].rsplit('\n').next().unwrap_or_default();
    let is_transcript = line.trim_start().starts_with(">>>") || line.trim_start().starts_with("<<<");
    let enclosing = |c: char| c.is_whitespace() || "<\"'-*(>:[・■●※【".contains(c);
    let line = line.trim_matches(enclosing).to_lowercase();
    let label = TYPES.iter().find_map(|kind| line.strip_suffix(*kind));
    let line = label.map_or(line.as_str(), |label| label.trim_end_matches(enclosing));
    // A transcript lists all recipients of the session, including successful ones.
    line.is_empty() || !is_transcript && LABELS.contains(&line)
}

/// Returns whether the line of the address is Sendmail's final result for it in a transcript, such as `550
/// <ann@example.test>... User unknown`.
fn is_refused(notice: &str, at: usize, found: &str) -> bool {
    let (before, after) = line_of(notice, at, found);
    let code = before.trim_end_matches(['<', ' ']).split(' ').next().unwrap_or_default();
    let is_code = code.len() == 3 && code.starts_with(['4', '5']) && code.bytes().all(|byte| byte.is_ascii_digit());
    is_code && after.trim_start_matches('>').starts_with("...")
}

/// Returns whether the address ends its line, after text and a colon: `Unknown user: ann@example.test`.
fn is_trailing(notice: &str, at: usize, found: &str) -> bool {
    let (before, after) = line_of(notice, at, found);
    let Some(words) = before.trim_end_matches(['<', ' ', '"', '\t']).strip_suffix(':') else { return false };
    let last = words.rsplit(|c: char| !c.is_alphanumeric() && c != '-').next().unwrap_or_default().to_lowercase();
    !last.is_empty() && !NOT_ABOUT.contains(&last.as_str()) && after.trim_matches(['>', '"', '.', ' ', '\r']).is_empty()
}

/// Returns the addresses of users that are written without a domain, each alone on a line. Their domain is that of the
/// report's sender.
fn bare_names(message: &ReceivedMessage<'_>, notice: &str) -> Vec<String> {
    let from = message.fields.get("from").and_then(address::first_in).and_then(|from| from.split_once('@'));
    let Some((_, domain)) = from else { return Vec::new() };
    let is_name = |line: &&str| {
        (2..=64).contains(&line.len()) && line.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let lines = notice.lines().skip_while(|line| !line.trim_end().ends_with(':')).skip(1).map(str::trim);
    let names = lines.skip_while(|line| line.is_empty()).take_while(is_name).take(MAX_RECIPIENTS);
    names.map(|name| format!("{name}@{domain}")).collect()
}
