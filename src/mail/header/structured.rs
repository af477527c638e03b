//! Structured header fields: ids, URLs, addresses and keywords (RFC 2047 §5, RFC 2369, RFC 5322 §3.6).
//!
//! They are folded where white space is present or allowed, and never encoded; runs of white space become one space.
//! The API refuses a value with a part that is not ASCII or is longer than a line (`domain/message/header_syntax.rs`). In
//! values that were stored before that rule existed, non-ASCII characters are percent-encoded, and a part that is too
//! long is broken at the end of the line.

use std::borrow::Cow;

use super::field::{Field, is_printable};
use super::mailboxes;
use super::parameter::percent_encoded;
use crate::domain::message::header_syntax::{MAX_LINE, phrase_and_rest, unbreakable_parts};
use crate::mail::encoding::normalise::single_line;

/// Writes a field of ids, URLs or keywords.
pub(in crate::mail) fn write(out: &mut Vec<u8>, name: &str, value: &str) {
    let mut field = Field::new(out, name);
    parts(&mut field, &single_line(value));
    field.end();
}

/// Writes a field whose value is a phrase and text in angle brackets; only the phrase may be encoded.
pub(in crate::mail) fn write_with_phrase(out: &mut Vec<u8>, name: &str, value: &str) {
    let value = single_line(value);
    let (phrase, rest) = phrase_and_rest(&value);
    let mut field = Field::new(out, name);
    if is_printable(phrase) {
        parts(&mut field, phrase);
    } else {
        // Quotes have no meaning in an encoded phrase.
        let bare = phrase.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(phrase);
        mailboxes::phrase(&mut field, bare);
    }
    parts(&mut field, rest);
    field.end();
}

fn parts(field: &mut Field<'_>, value: &str) {
    for word in value.split(char::is_whitespace).filter(|word| !word.is_empty()) {
        let word = ascii(word);
        if word.len() <= Field::max_word() {
            field.word(&[&word]);
        } else {
            unbreakable_parts(&word).for_each(|part| write_part(field, part));
        }
    }
}

/// Writes a part; a part that does not fit on a line continues on the next one.
fn write_part(field: &mut Field<'_>, part: &str) {
    let mut rest = part;
    // It is ASCII, so it can be split anywhere.
    while let Some((line, after)) =
        rest.split_at_checked(field.max_next_word(MAX_LINE)).filter(|(_, after)| !after.is_empty())
    {
        field.word(&[line]);
        rest = after;
    }
    field.word(&[rest]);
}

/// Returns a word with non-ASCII and control characters percent-encoded.
fn ascii(word: &str) -> Cow<'_, str> {
    if is_printable(word) {
        return Cow::Borrowed(word);
    }
    let mut ascii = String::with_capacity(word.len() * 3);
    for c in word.chars() {
        let mut buffer = [0; 4];
        let text: &str = c.encode_utf8(&mut buffer);
        if is_printable(text) { ascii.push(c) } else { ascii.push_str(&percent_encoded(text)) }
    }
    Cow::Owned(ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, value: &str) -> String {
        let mut out = Vec::new();
        write(&mut out, name, value);
        String::from_utf8(out).unwrap()
    }

    fn with_phrase(value: &str) -> String {
        let mut out = Vec::new();
        write_with_phrase(&mut out, "List-Id", value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn urls_are_never_encoded() {
        for length in [50, 75, 76, 77, 500, 900, 901, 962] {
            let url = format!("<https://a.test/{}>", "u".repeat(length));
            assert_eq!(written("List-Unsubscribe", &url), format!("List-Unsubscribe: {url}\r\n"));
        }
        let two = format!("<https://a.test/{}>,<mailto:u@a.test>", "u".repeat(901));
        let folded = written("List-Unsubscribe", &two);
        assert_eq!(folded, format!("List-Unsubscribe: {}\r\n", two.replace(",<", ",\r\n <")));
    }

    #[test]
    fn runs_of_white_space_become_one_space() {
        assert_eq!(written("References", "  <a@b>   <c@d>\t<e@f> "), "References: <a@b> <c@d> <e@f>\r\n");
        assert_eq!(written("Auto-Submitted", "auto-generated "), "Auto-Submitted: auto-generated\r\n");
        assert_eq!(written("In-Reply-To", ""), "In-Reply-To:\r\n");
    }

    #[test]
    fn text_that_looks_encoded_is_not_changed() {
        assert_eq!(written("In-Reply-To", "<=?utf-8?q?x?=@b>"), "In-Reply-To: <=?utf-8?q?x?=@b>\r\n");
        assert_eq!(with_phrase("=?utf-8?q?x?= <l.a.test>"), "List-Id: =?utf-8?q?x?= <l.a.test>\r\n");
    }

    #[test]
    fn only_the_phrase_of_a_list_id_is_encoded() {
        assert_eq!(
            with_phrase("Neue B\u{fc}cher <books.a.test>"),
            "List-Id: =?utf-8?q?Neue_B=C3=BCcher?= <books.a.test>\r\n"
        );
        assert_eq!(
            with_phrase("\"B\u{fc}cher, neu\" <b.a.test>"),
            "List-Id: =?utf-8?q?B=C3=BCcher=2C_neu?= <b.a.test>\r\n"
        );
        assert_eq!(with_phrase("books.a.test"), "List-Id: books.a.test\r\n");
    }

    #[test]
    fn values_stored_by_older_versions_fit_lines() {
        assert_eq!(written("References", "<\u{e9}@b>"), "References: <%C3%A9@b>\r\n");
        for name in ["References", "List-Unsubscribe"] {
            let folded = written(name, &"x".repeat(2_500));
            assert!(folded.lines().all(|line| line.len() <= MAX_LINE), "{folded}");
            assert_eq!(folded.matches('x').count(), 2_500);
        }
    }
}
