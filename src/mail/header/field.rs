//! One header field, folded as it is written (RFC 5322 §2.2.3).
//!
//! lettre's `HeaderValue` is not used: it does not encode leading and doubled spaces, which some readers drop, never
//! folds between addresses without names, and accepts words of any length.

use super::encoded_word::{self, Scheme};
use crate::mail::encoding::normalise::single_line;

/// Maximum line length in bytes if the text has a space to fold at. RFC 5322 recommends 78, RFC 2047 requires 76 for
/// lines with an encoded-word.
const LINE: usize = 76;

/// Maximum length of a word in a header line: with a name of 76 bytes, the line stays below 998 bytes.
pub(in crate::mail) const LONGEST_WORD: usize = 900;

/// A header field that is being written.
pub(in crate::mail) struct Field<'a> {
    out: &'a mut Vec<u8>,
    /// Bytes on the current line.
    column: usize,
    /// Whether no word has been written after the colon yet.
    is_empty: bool,
}

impl<'a> Field<'a> {
    /// Begins a field with `name`, which is printable ASCII of at most 76 bytes.
    pub(in crate::mail) fn new(out: &'a mut Vec<u8>, name: &str) -> Self {
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        Self { out, column: name.len() + 1, is_empty: true }
    }

    /// Writes a space and one unbreakable word made of `pieces`, on a new line if it does not fit on this one. The
    /// first word always stays on the line of the name: some readers treat a line `Name:` as an empty field, others
    /// include the space of the fold in the value.
    pub(in crate::mail) fn word(&mut self, pieces: &[&str]) {
        let width: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.space(!self.is_empty && self.column + 1 + width > LINE);
        for piece in pieces {
            self.out.extend_from_slice(piece.as_bytes());
        }
        self.column += width;
    }

    /// Appends `piece` to the last word.
    pub(in crate::mail) fn push(&mut self, piece: &str) {
        self.out.extend_from_slice(piece.as_bytes());
        self.column += piece.len();
    }

    /// Writes the words of `text`, which is printable ASCII with single spaces.
    pub(in crate::mail) fn words(&mut self, text: &str) {
        text.split(' ').filter(|word| !word.is_empty()).for_each(|word| self.word(&[word]));
    }

    /// Writes `text` as encoded-words.
    pub(in crate::mail) fn encoded(&mut self, text: &str) {
        let scheme = Scheme::choose(text);
        let mut rest = text;
        while !rest.is_empty() {
            self.space(!self.is_empty && self.column + 1 + encoded_word::SHORTEST > LINE);
            let start = self.out.len();
            rest = scheme.write_one(self.out, rest, LINE.saturating_sub(self.column));
            self.column += self.out.len() - start;
        }
    }

    /// Returns the maximum length of a word on a separate line.
    pub(in crate::mail) const fn max_word() -> usize {
        LINE - 1
    }

    /// Returns the maximum length of the next word in lines of at most `line` bytes: the first word follows the name.
    pub(in crate::mail) fn max_next_word(&self, line: usize) -> usize {
        if self.is_empty { line - self.column - 1 } else { line - 1 }
    }

    /// Ends the field.
    pub(in crate::mail) fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }

    fn space(&mut self, fold: bool) {
        if fold {
            self.out.extend_from_slice(b"\r\n");
            self.column = 0;
        }
        self.out.push(b' ');
        self.column += 1;
        self.is_empty = false;
    }
}

/// Writes a field whose value is printable ASCII with single spaces.
pub(in crate::mail) fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    let mut field = Field::new(out, name);
    field.words(value);
    field.end();
}

/// Writes a field with free text, such as `Subject` and custom headers without a known syntax.
///
/// Plain ASCII words stay unencoded. Other words, and words with more than one space after them, are encoded, together
/// with short text between two such words.
pub(in crate::mail) fn unstructured(out: &mut Vec<u8>, name: &str, value: &str) {
    let value = single_line(value);
    let mut field = Field::new(out, name);
    let mut written = 0;
    for (start, end) in encoded_spans(&value) {
        field.words(&value[written..start]);
        field.encoded(&value[start..end]);
        written = end;
    }
    field.words(&value[written..]);
    field.end();
}

/// Returns whether `text` has spaces that a reader could drop: at its ends, or next to another space.
pub(in crate::mail) fn has_odd_spaces(text: &str) -> bool {
    text.starts_with(' ') || text.ends_with(' ') || text.contains("  ")
}

/// Returns whether `text` is ASCII without control characters.
pub(in crate::mail) fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Spans with fewer bytes than this between them are merged: two encoded-words are longer than one that includes the
/// plain words between them.
const BETWEEN_SPANS: usize = 24;

/// Returns the byte ranges of `value` that have to be encoded, in order. A span begins and ends with a word, and two
/// spans have a plain word between them, because readers drop the space between encoded-words (RFC 2047 §6.2).
fn encoded_spans(value: &str) -> Vec<(usize, usize)> {
    if encoded_word::looks_encoded(value) {
        return vec![(0, value.len())];
    }
    if value.is_empty() {
        return Vec::new();
    }
    let mut spans = Vec::new();
    // Start of the last word; `None` while there are only spaces.
    let (mut last, mut offset) = (None, 0);
    for word in value.split(' ') {
        let end = offset + word.len();
        let begins_with_spaces = last.is_none() && offset > 0;
        // A doubled space is preserved by encoding it with the word before it, or at the beginning with the first word.
        if word.is_empty() || begins_with_spaces {
            extend(&mut spans, last.unwrap_or(0), end);
        } else if !is_printable(word) || word.len() > LONGEST_WORD {
            extend(&mut spans, offset, end);
        }
        if !word.is_empty() {
            last = Some(offset);
        }
        offset = end + 1;
    }
    spans
}

/// Adds a span, or extends the previous one if there is little text between them.
fn extend(spans: &mut Vec<(usize, usize)>, start: usize, end: usize) {
    match spans.last_mut() {
        Some(span) if start < span.1 + BETWEEN_SPANS => span.1 = end,
        _ => spans.push((start, end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(value: &str) -> String {
        let mut out = Vec::new();
        unstructured(&mut out, "Subject", value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn plain_text_is_not_encoded_and_folds_at_spaces() {
        assert_eq!(subject("Your invoice"), "Subject: Your invoice\r\n");
        let long = "word ".repeat(60) + "end";
        let folded = subject(&long);
        assert!(folded.lines().all(|line| line.len() <= 76));
        assert_eq!(folded.replace("\r\n ", " "), format!("Subject: {long}\r\n"));
    }

    #[test]
    fn doubled_space_encodes_the_word_before_it() {
        assert_eq!(subject("Your  invoice of May"), "Subject: =?utf-8?q?Your_?= invoice of May\r\n");
        assert_eq!(subject("a   b"), "Subject: =?utf-8?q?a__?= b\r\n");
        assert_eq!(subject(" a b"), "Subject: =?utf-8?q?_a?= b\r\n");
        assert_eq!(subject("a b "), "Subject: a =?utf-8?q?b_?=\r\n");
        assert_eq!(subject("   "), "Subject: =?utf-8?q?___?=\r\n");
        let far = "Two  words and then so much more that it stands  alone";
        let both = "Subject: =?utf-8?q?Two_?= words and then so much more that it\r\n =?utf-8?q?stands_?= alone\r\n";
        assert_eq!(subject(far), both);
    }

    #[test]
    fn long_url_is_neither_encoded_nor_broken() {
        let url = format!("<https://example.test/u?token={}>,", "a".repeat(500));
        assert_eq!(subject(&url), format!("Subject: {url}\r\n"));
        assert_eq!(
            subject(&format!("{url} <mailto:u@example.test>")),
            format!("Subject: {url}\r\n <mailto:u@example.test>\r\n")
        );
    }

    #[test]
    fn only_non_ascii_words_are_encoded() {
        assert_eq!(
            subject("Größere Liste <l.example>"),
            "Subject: =?utf-8?q?Gr=C3=B6=C3=9Fere?= Liste <l.example>\r\n"
        );
        assert_eq!(subject("Re: Wünsche für 2027"), "Subject: Re: =?utf-8?q?W=C3=BCnsche_f=C3=BCr?= 2027\r\n");
    }

    #[test]
    fn text_that_readers_would_change_is_encoded() {
        assert_eq!(subject(" a  b "), "Subject: =?utf-8?q?_a__b_?=\r\n");
        assert_eq!(subject("=?utf-8?q?x?="), "Subject: =?utf-8?q?=3D=3Futf-8=3Fq=3Fx=3F=3D?=\r\n");
        assert_eq!(subject("a\tb"), "Subject: =?utf-8?q?a=09b?=\r\n");
    }

    #[test]
    fn word_longer_than_a_line_is_encoded() {
        let folded = subject(&"x".repeat(2_000));
        assert!(folded.lines().all(|line| line.len() <= 76), "{folded}");
    }

    #[test]
    fn line_end_cannot_inject_a_header() {
        assert_eq!(subject("a\r\nBcc: b"), "Subject: =?utf-8?q?a_?= Bcc: b\r\n");
    }

    #[test]
    fn empty_value_is_written_as_a_name_with_colon() {
        assert_eq!(subject(""), "Subject:\r\n");
    }

    #[test]
    fn first_word_stays_on_the_line_of_a_long_name() {
        let mut out = Vec::new();
        unstructured(&mut out, &"X".repeat(76), "ä");
        assert_eq!(String::from_utf8(out).unwrap(), format!("{}: =?utf-8?b?w6Q=?=\r\n", "X".repeat(76)));
    }
}
