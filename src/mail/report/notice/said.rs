//! Finds what a text says of one recipient, by its position.

use super::whom::is_leading;
use super::{LINES, line_of};
use crate::domain::bounce;
use crate::domain::outcome::Reply;
use crate::mail::report::address;
use crate::mail::report::status;

/// Maximum mentions of one recipient that are examined.
const MENTIONS: usize = 20;
/// Maximum paragraphs that are examined.
const PARAGRAPHS: usize = 50;

/// Returns what a notice says of a recipient, as a reply. For the only recipient this includes the rest of the notice,
/// which may contain a transcript of the session.
pub(super) fn said(notice: &str, recipient: &str, is_only: bool) -> Reply {
    let near = status::refusal(&about(notice, recipient, is_only).unwrap_or_default(), None);
    if near.code.is_some() || near.enhanced.is_some() || !is_only {
        return near;
    }
    if let Some(coded) = coded(notice) {
        return coded;
    }
    let enhanced = status::refusal(notice, None).enhanced;
    let is_telling = |reply: &Reply| bounce::judge(reply).rule != "none";
    if is_telling(&near) {
        return Reply { enhanced, ..near };
    }
    let telling = paragraphs(notice).map(|text| status::refusal(&text, None)).find(is_telling);
    let whole = || if near.text.is_empty() { status::refusal(notice, None) } else { near.clone() };
    Reply { enhanced, ..telling.unwrap_or_else(whole) }
}

/// Returns the first quoted reply, with its continuation lines.
fn coded(notice: &str) -> Option<Reply> {
    let mut lines = notice.lines().map(|line| line.trim().trim_start_matches(['<', '>', ' ', '['])).peekable();
    while let Some(line) = lines.next() {
        let reply = status::refusal(line, None);
        let Some(code) = reply.code else { continue };
        let goes_on = |line: &&str| line.starts_with(&code.to_string());
        let more: Vec<&str> = std::iter::from_fn(|| lines.next_if(goes_on)).take(LINES).collect();
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
    texts.take(PARAGRAPHS).collect::<Vec<_>>().into_iter()
}

fn mentions<'a>(text: &'a str, recipient: &'a str) -> impl Iterator<Item = usize> + 'a {
    let found = address::all_in(text).filter(move |(_, found)| found.eq_ignore_ascii_case(recipient));
    found.map(|(at, _)| at).take(MENTIONS)
}

/// Returns the lines of a text that are about an address: a reply that contains it, with the server's lines above; the
/// text after it on its line, and the lines below up to an empty line or another address; and finally the text before
/// it on its line, or above it. For the only recipient also the paragraph below the empty line, if that quotes a code.
pub(in crate::mail::report) fn about(text: &str, recipient: &str, is_only: bool) -> Option<String> {
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
    let label = (bounce::judge(&Reply::ours(label)).rule != "none").then(|| label.to_owned());
    first.or(label).or_else(|| above(text, at)).or_else(|| is_only.then(|| next(text, at, recipient)).flatten())
}

/// Returns the reply that contains the address, and the lines of a transcript (`<<<`) above it: `550 5.1.1 <ann@…>...
/// User unknown`.
fn quoted(text: &str, at: usize, recipient: &str) -> Option<String> {
    let (before, after) = line_of(text, at, recipient);
    leading_code(before)?;
    let start = at - before.len();
    let above: Vec<&str> =
        text[..start].lines().rev().take_while(|line| line.trim_start().starts_with("<<<")).take(LINES).collect();
    let above = above.into_iter().rev().map(|line| line.trim().trim_start_matches(['<', ' ']));
    let own = format!("{before}{recipient}{after}");
    let own = own.trim().trim_start_matches(['<', ' ']).to_owned();
    Some(above.chain([own.as_str()]).collect::<Vec<_>>().join("\n"))
}

/// Returns the code at the beginning of a transcript's line.
fn leading_code(line: &str) -> Option<u16> {
    let line = line.trim_start_matches(['<', '>', ' ', '\t']);
    line.get(..3).and_then(|digits| status::refusal(digits, None).code)
}

fn below(text: &str, at: usize, recipient: &str) -> String {
    let after = text[at + recipient.len()..].trim_start_matches(['>', '"', '\'', ')', ']', ':', ',', ' ', '.', '\t']);
    let (first, below) = after.split_once('\n').unwrap_or((after, ""));
    // A reply to another command, or with another code, is about something else.
    let mut code = None;
    let is_own = |line: &&str| {
        let its = leading_code(line);
        code = code.or(its);
        let is_other = its.is_some() && its != code;
        !line.trim().is_empty() && !line.trim_start().starts_with(">>>") && !is_other
    };
    paragraph(std::iter::once(first).chain(below.lines().take_while(is_own)), recipient)
}

/// Returns the lines directly above the address, up to an empty one or another address.
fn above(text: &str, at: usize) -> Option<String> {
    let start = text[..at].rfind('\n')?;
    let is_own = |line: &&str| !line.trim().is_empty() && !line.contains('@') && !line.trim_end().ends_with(':');
    let mut lines: Vec<&str> = text[..start].lines().rev().take_while(is_own).take(LINES).map(str::trim).collect();
    lines.reverse();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Returns the next paragraph, if it quotes a code.
fn next(text: &str, at: usize, recipient: &str) -> Option<String> {
    let (_, below) = text[at..].split_once('\n')?;
    let lines = below.lines().skip_while(|line| line.trim().is_empty()).take_while(|line| !line.trim().is_empty());
    let next = paragraph(lines, recipient);
    let quoted = status::refusal(&next, None);
    (quoted.code.is_some() || quoted.enhanced.is_some()).then_some(next)
}

/// Returns lines up to one that begins with another address.
fn paragraph<'a>(lines: impl Iterator<Item = &'a str>, recipient: &str) -> String {
    let is_about_another = |line: &str| {
        let first = address::all_in(line).next().filter(|(start, _)| is_leading(line, *start));
        first.is_some_and(|(_, found)| !found.eq_ignore_ascii_case(recipient))
    };
    let lines = lines.take_while(|line| !is_about_another(line)).map(str::trim).filter(|line| !line.is_empty());
    lines.take(LINES).collect::<Vec<_>>().join("\n")
}

/// Returns the alias that was sent to, for an address it was expanded to: `(expanded from: list@…)`, `(generated from
/// list@…)`.
pub(super) fn alias_of(notice: &str, member: &str) -> Option<String> {
    mentions(notice, member).find_map(|at| {
        let after = &notice[at + member.len()..];
        let after = super::super::fields::cut(after, 1_000);
        let until = after.split("\n\n").next().unwrap_or_default();
        let lower = until.to_ascii_lowercase();
        let from = ["expanded from", "generated from"].iter().filter_map(|words| lower.find(words)).min()?;
        // Not the alias of the next address.
        let is_own = address::all_in(&until[..from]).all(|(_, found)| found.eq_ignore_ascii_case(member));
        address::first_in(&until[from..])
            .filter(|alias| is_own && !alias.eq_ignore_ascii_case(member))
            .map(str::to_owned)
    })
}

/// Returns the address that failed behind an alias: the one above the text that names the alias.
pub(in crate::mail::report) fn member_of(text: &str, alias: &str) -> Option<String> {
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
