//! Finds the text about one recipient, by its position in the notice.

use super::whom::is_leading;
use super::{MAX_LINES, line_of};
use crate::domain::bounce;
use crate::domain::outcome::Reply;
use crate::mail::report::received::{address, status};

/// Maximum number of mentions of one recipient that are examined.
const MAX_MENTIONS: usize = 20;
/// Maximum lines between an address and the heading of its list.
const MAX_HEADING_DISTANCE: usize = 200;
/// Maximum number of paragraphs that are examined.
const MAX_PARAGRAPHS: usize = 50;

/// Returns the reply for a recipient. For the only recipient of a notice, the whole notice is searched, because it may
/// contain a transcript of the session.
pub(super) fn reply_about(notice: &str, recipient: &str, is_only: bool) -> Reply {
    let near = status::refusal(&lines_about(notice, recipient, is_only).unwrap_or_default(), None);
    if near.code.is_some() || near.enhanced.is_some() || !is_only {
        return near;
    }
    if let Some(reply) = first_coded_reply(notice) {
        return reply;
    }
    let enhanced = status::refusal(notice, None).enhanced;
    let is_classified = |reply: &Reply| bounce::judge(reply).rule != "none";
    if is_classified(&near) {
        return Reply { enhanced, ..near };
    }
    let classified = paragraphs(notice).map(|text| status::refusal(&text, None)).find(is_classified);
    let whole = || if near.text.is_empty() { status::refusal(notice, None) } else { near.clone() };
    Reply { enhanced, ..classified.unwrap_or_else(whole) }
}

/// Returns the first quoted reply with a code, with its continuation lines.
fn first_coded_reply(notice: &str) -> Option<Reply> {
    let mut lines = notice.lines().map(|line| line.trim().trim_start_matches(['<', '>', ' ', '['])).peekable();
    while let Some(line) = lines.next() {
        let reply = status::refusal(line, None);
        let Some(code) = reply.code else { continue };
        let continues = |line: &&str| line.starts_with(&code.to_string());
        let more: Vec<&str> = std::iter::from_fn(|| lines.next_if(continues)).take(MAX_LINES).collect();
        return Some(if more.is_empty() {
            reply
        } else {
            status::refusal(&[&[line], more.as_slice()].concat().join("\n"), None)
        });
    }
    None
}

fn paragraphs(notice: &str) -> impl Iterator<Item = String> {
    let lines: Vec<&str> = notice.lines().map(str::trim).collect();
    let texts = lines.split(|line| line.is_empty()).map(|lines| lines.join("\n")).filter(|text| !text.is_empty());
    texts.take(MAX_PARAGRAPHS).collect::<Vec<_>>().into_iter()
}

fn mentions<'a>(text: &'a str, recipient: &'a str) -> impl Iterator<Item = usize> + 'a {
    let found = address::all_in(text).filter(move |(_, found)| found.eq_ignore_ascii_case(recipient));
    found.map(|(at, _)| at).take(MAX_MENTIONS)
}

/// Returns the lines of a text that are about an address. At each mention of the address, these are:
///
/// 1. a reply that contains the address, with the server's lines above it;
/// 2. or else the text after the address, with the lines below up to an empty line or another address.
///
/// Returns the first of them that contain a code, or else the first that are not empty. If there are none, returns the first
/// of these that exists:
///
/// 1. the text before the address on its line, if it gives a known reason;
/// 2. the lines above the address;
/// 3. for the only recipient, the paragraph after the next empty line, if it quotes a code;
/// 4. the heading of the list that contains the address.
pub(in crate::mail::report) fn lines_about(text: &str, recipient: &str, is_only: bool) -> Option<String> {
    let mut all: Vec<usize> = mentions(text, recipient).collect();
    if all.is_empty() {
        all.extend(text.find(recipient));
    }
    let mut first = None;
    for at in all.iter().copied() {
        let own = quoted(text, at, recipient).unwrap_or_else(|| below(text, at, recipient));
        if own.is_empty() {
            continue;
        }
        let reply = status::refusal(&own, None);
        if reply.code.is_some() || reply.enhanced.is_some() {
            return Some(own);
        }
        first.get_or_insert(own);
    }
    let at = *all.first()?;
    let label = line_of(text, at, recipient).0.trim_matches([' ', '\t', '<', '"', ':']);
    let label = (bounce::judge(&Reply::local_error(label)).rule != "none").then(|| label.to_owned());
    first
        .or(label)
        .or_else(|| above(text, at))
        .or_else(|| is_only.then(|| next_paragraph(text, at, recipient)).flatten())
        .or_else(|| heading(text, at))
}

/// Returns the reply that contains the address, and the lines of a transcript (`<<<`) above it: `550 5.1.1 <ann@…>...
/// User unknown`.
fn quoted(text: &str, at: usize, recipient: &str) -> Option<String> {
    let (before, after) = line_of(text, at, recipient);
    leading_code(before)?;
    let start = at - before.len();
    let above: Vec<&str> =
        text[..start].lines().rev().take_while(|line| line.trim_start().starts_with("<<<")).take(MAX_LINES).collect();
    let above = above.into_iter().rev().map(|line| line.trim().trim_start_matches(['<', ' ']));
    let own = format!("{before}{recipient}{after}");
    let own = own.trim().trim_start_matches(['<', ' ']).to_owned();
    Some(above.chain([own.as_str()]).collect::<Vec<_>>().join("\n"))
}

/// Returns the code at the beginning of a line of a transcript.
fn leading_code(line: &str) -> Option<u16> {
    let line = line.trim_start_matches(['<', '>', ' ', '\t']);
    line.get(..3).and_then(|digits| status::refusal(digits, None).code)
}

/// Returns the text after the address on its line, and the lines below up to an empty line or another address.
fn below(text: &str, at: usize, recipient: &str) -> String {
    let after = text[at + recipient.len()..].trim_start_matches(['>', '"', '\'', ')', ']', ':', ',', ' ', '.', '\t']);
    let (first, below) = after.split_once('\n').unwrap_or((after, ""));
    // A reply to another command, or with another code, is about something else.
    let mut code = None;
    let is_own = |line: &&str| {
        let line_code = leading_code(line);
        code = code.or(line_code);
        let is_other = line_code.is_some() && line_code != code;
        !line.trim().is_empty() && !line.trim_start().starts_with(">>>") && !is_other
    };
    paragraph(std::iter::once(first).chain(below.lines().take_while(is_own)), recipient)
}

/// Returns the lines directly above the address, up to an empty one or another address.
fn above(text: &str, at: usize) -> Option<String> {
    let start = text[..at].rfind('\n')?;
    let is_own = |line: &&str| !line.trim().is_empty() && !line.contains('@') && !line.trim_end().ends_with(':');
    let mut lines: Vec<&str> = text[..start].lines().rev().take_while(is_own).take(MAX_LINES).map(str::trim).collect();
    lines.reverse();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Returns the line above a list of addresses, if it gives the reason: `The following recipients are unknown:`.
fn heading(text: &str, at: usize) -> Option<String> {
    let start = text[..at].rfind('\n')?;
    let is_item = |line: &&str| line.trim().is_empty() || address::all_in(line).next().is_some();
    let line = text[..start].lines().rev().take(MAX_HEADING_DISTANCE).find(|line| !is_item(line))?.trim();
    (line.ends_with(':') && bounce::judge(&Reply::local_error(line)).rule != "none").then(|| line.to_owned())
}

/// Returns the next paragraph, if it quotes a code.
fn next_paragraph(text: &str, at: usize, recipient: &str) -> Option<String> {
    let (_, below) = text[at..].split_once('\n')?;
    let lines = below.lines().skip_while(|line| line.trim().is_empty()).take_while(|line| !line.trim().is_empty());
    let next = paragraph(lines, recipient);
    let quoted = status::refusal(&next, None);
    (quoted.code.is_some() || quoted.enhanced.is_some()).then_some(next)
}

/// Joins lines, up to a line that begins with another address.
fn paragraph<'a>(lines: impl Iterator<Item = &'a str>, recipient: &str) -> String {
    let is_about_another = |line: &str| {
        let first = address::all_in(line).next().filter(|(start, _)| is_leading(line, *start));
        first.is_some_and(|(_, found)| !found.eq_ignore_ascii_case(recipient))
    };
    let lines = lines.take_while(|line| !is_about_another(line)).map(str::trim).filter(|line| !line.is_empty());
    lines.take(MAX_LINES).collect::<Vec<_>>().join("\n")
}

/// Returns the alias that was expanded to the address `member`: `(expanded from: list@…)`, `(generated from list@…)`.
pub(super) fn find_alias(notice: &str, member: &str) -> Option<String> {
    mentions(notice, member).find_map(|at| {
        let after = &notice[at + member.len()..];
        let after = super::super::received::fields::cut(after, 1_000);
        let until = after.split("\n\n").next().unwrap_or_default();
        let lower = until.to_ascii_lowercase();
        let from = ["expanded from", "generated from"].iter().filter_map(|words| lower.find(words)).min()?;
        // Ignores the alias of the next address.
        let is_own = address::all_in(&until[..from]).all(|(_, found)| found.eq_ignore_ascii_case(member));
        address::first_in(&until[from..])
            .filter(|alias| is_own && !alias.eq_ignore_ascii_case(member))
            .map(str::to_owned)
    })
}

/// Returns the member of an alias that failed: the address above the text that names the alias.
pub(in crate::mail::report) fn find_member(text: &str, alias: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    mentions(text, alias).find_map(|at| {
        let before = &lower[lower.floor_char_boundary(at.saturating_sub(40))..at];
        if !["expanded from", "generated from"].iter().any(|words| before.contains(words)) {
            return None;
        }
        let above = &text[text.floor_char_boundary(at.saturating_sub(1_000))..at];
        address::all_in(above).last().map(|(_, member)| member.to_owned())
    })
}
