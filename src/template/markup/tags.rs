//! Takes template tags out of a text, so that parsers of HTML, MJML and CSS do not see them, and puts them back.
//!
//! Tags such as `{{ name }}` and `{% if a < b %}` do not survive these parsers: text between `<table>` and `<tr>` is moved in
//! front of the table, `<` is escaped, and quotes end attribute values. So each tag becomes a token of letters and
//! digits, `pr0q17q`, which no parser changes. Where text is allowed, the token is in a comment, `<!--pr0q17q-->`, because
//! comments stay where they are, also in tables. A token that is lost, doubled or out of order is a fault.

use std::ops::Range;

use crate::domain::api::fault::Code;
use crate::template::faults::{Located, excerpt};

/// How a tag affects the blocks of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::template) enum Role {
    /// Prints a value.
    Print,
    /// Starts a block: `for`, `if`.
    Open,
    /// Continues a block: `else`, `elif`.
    Middle,
    /// Ends a block.
    Close,
    /// Has no block: `set`, a comment.
    Single,
}

impl Role {
    /// Returns whether the tag prints nothing itself.
    pub(super) fn is_control(self) -> bool {
        self != Self::Print
    }
}

/// A template tag in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::template) struct Tag {
    pub(in crate::template) range: Range<usize>,
    pub(in crate::template) role: Role,
}

/// How a token is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// As it is: in attribute values, comments, and elements without child elements.
    Plain,
    /// In a comment of its own.
    Comment,
    /// As the name of an attribute without a value.
    Attribute,
    /// As the name of an attribute that stands for the `style` attribute.
    Style,
}

/// What a token stands for.
#[derive(Debug, Clone)]
struct Original {
    text: String,
    role: Role,
    place: Place,
    /// The byte offset in the source, for faults.
    offset: usize,
    /// Whether the token may occur more than once.
    may_repeat: bool,
    /// The token's position among the written tokens, from 1; `None` if it was not written. A written token must be in
    /// the parser's output.
    written: Option<usize>,
}

/// A text whose tags are tokens.
#[derive(Debug)]
pub(super) struct Masked {
    /// The text with tokens.
    pub(super) text: String,
    prefix: String,
    originals: Vec<Original>,
    /// Number of tokens written.
    written: usize,
    /// Byte offsets in `text` and in the source of the same position, after each token.
    offsets: Vec<(usize, usize)>,
}

/// A token in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) range: Range<usize>,
    pub(super) number: usize,
}

impl Masked {
    /// Replaces the tags of a source by tokens.
    pub(super) fn new(source: &str, tags: &[Tag]) -> Self {
        let mut masked = Self {
            text: String::with_capacity(source.len()),
            prefix: unused_prefix(source),
            originals: Vec::with_capacity(tags.len()),
            written: 0,
            offsets: vec![(0, 0)],
        };
        let mut end = 0;
        for tag in tags {
            masked.text.push_str(&source[end..tag.range.start]);
            let number = masked.originals.len();
            masked.originals.push(Original {
                text: source[tag.range.clone()].to_owned(),
                role: tag.role,
                place: Place::Plain,
                offset: tag.range.start,
                may_repeat: false,
                written: None,
            });
            let token = masked.token(number);
            masked.text.push_str(&token);
            end = tag.range.end;
            masked.offsets.push((masked.text.len(), end));
        }
        masked.text.push_str(&source[end..]);
        masked
    }

    /// Returns the byte offset in the source of an offset in the masked text.
    pub(super) fn source_offset(&self, offset: usize) -> usize {
        let index = self.offsets.partition_point(|(masked, _)| *masked <= offset).saturating_sub(1);
        self.offsets.get(index).map_or(0, |(masked, source)| source + (offset - masked))
    }

    fn token(&self, number: usize) -> String {
        format!("{}{number}q", self.prefix)
    }

    /// Returns the tokens in a text.
    pub(super) fn tokens(&self, text: &str) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(start) = text.get(at..).and_then(|rest| rest.find(&self.prefix)).map(|found| at + found) {
            let digits = start + self.prefix.len();
            let length = text[digits..].bytes().take_while(u8::is_ascii_digit).count();
            at = digits + length;
            let number = text[digits..at].parse().ok().filter(|number| *number < self.originals.len());
            if let Some(number) = number.filter(|_| text[at..].starts_with('q')) {
                at += 1;
                tokens.push(Token { range: start..at, number });
            }
        }
        tokens
    }

    /// Returns whether a text contains a token.
    pub(super) fn has_token(&self, text: &str) -> bool {
        !self.tokens(text).is_empty()
    }

    /// Returns how a token's tag affects blocks.
    pub(super) fn role(&self, number: usize) -> Role {
        self.originals[number].role
    }

    /// Returns the tag that a token stands for.
    pub(super) fn original(&self, number: usize) -> &str {
        &self.originals[number].text
    }

    /// Writes a text to `out`, with its tokens written for `place`.
    pub(super) fn write(&mut self, out: &mut String, text: &str, place: Place, may_repeat: bool) {
        let mut end = 0;
        for token in self.tokens(text) {
            out.push_str(&text[end..token.range.start]);
            self.write_token(out, token.number, place, may_repeat);
            end = token.range.end;
        }
        out.push_str(&text[end..]);
    }

    /// Writes one token.
    pub(super) fn write_token(&mut self, out: &mut String, number: usize, place: Place, may_repeat: bool) {
        let token = self.token(number);
        self.written += 1;
        let original = &mut self.originals[number];
        (original.place, original.may_repeat, original.written) = (place, may_repeat, Some(self.written));
        match place {
            Place::Comment => out.extend(["<!--", &token, "-->"]),
            Place::Plain | Place::Attribute | Place::Style => out.push_str(&token),
        }
    }

    /// Writes a part of the masked text as one token, which no parser looks into.
    pub(super) fn write_opaque(&mut self, out: &mut String, range: Range<usize>, place: Place) {
        let offset = self.source_offset(range.start);
        let text = self.unmasked(&self.text[range]);
        let number = self.originals.len();
        self.originals.push(Original { text, role: Role::Single, place, offset, may_repeat: false, written: None });
        self.write_token(out, number, place, false);
    }

    /// Writes a token that stands for no tag, to recognise an element in the output. This token may be lost.
    pub(super) fn write_mark(&mut self, out: &mut String) {
        let number = self.originals.len();
        let (text, place) = (String::new(), Place::Attribute);
        self.originals.push(Original { text, role: Role::Single, place, offset: 0, may_repeat: true, written: None });
        out.push_str(&self.token(number));
    }

    /// Replaces all tokens by their tags, wherever they are.
    pub(super) fn unmasked(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut end = 0;
        for token in self.tokens(text) {
            out.push_str(&text[end..token.range.start]);
            out.push_str(self.original(token.number));
            end = token.range.end;
        }
        out.push_str(&text[end..]);
        out
    }

    /// Returns the place of a token.
    pub(super) fn place(&self, number: usize) -> Place {
        self.originals[number].place
    }

    /// Checks that all tokens that were written are in the output: each once, unless it may repeat, and the tokens in
    /// comments in the same order. `what` names the step in the message.
    pub(super) fn check(&self, output: &str, what: &str) -> Result<(), Located> {
        let mut counts = vec![0_usize; self.originals.len()];
        let mut last = None;
        for token in self.tokens(output) {
            let original = &self.originals[token.number];
            counts[token.number] += 1;
            if original.place == Place::Comment {
                if original.written < last {
                    return Err(self.fault(token.number, format!("is moved by {what}")));
                }
                last = original.written;
            }
        }
        for (number, original) in self.originals.iter().enumerate().filter(|(_, original)| original.written.is_some()) {
            match counts[number] {
                0 => return Err(self.fault(number, format!("is lost by {what}"))),
                1 => {}
                _ if original.may_repeat => {}
                _ => return Err(self.fault(number, format!("is doubled by {what}"))),
            }
        }
        Ok(())
    }

    /// Creates a fault about a token's tag.
    pub(super) fn fault(&self, number: usize, problem: impl AsRef<str>) -> Located {
        let original = &self.originals[number];
        let message =
            format!("`{}` {}; put it in text or in an attribute's value.", excerpt(&original.text), problem.as_ref());
        Located::new(original.offset, Code::InvalidTemplate, message)
    }
}

/// Returns a prefix for tokens that does not occur in the source, in any case of letters.
fn unused_prefix(source: &str) -> String {
    let lower = source.to_ascii_lowercase();
    (0..=u32::MAX).map(|salt| format!("pr{salt}q")).find(|prefix| !lower.contains(prefix)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tag(range: Range<usize>) -> Tag {
        Tag { range, role: Role::Print }
    }

    #[test]
    fn tags_become_tokens_and_come_back() {
        let source = "a {{ x }} ö {{ y }}";
        let masked = Masked::new(source, &[tag(2..9), tag(13..20)]);
        assert_eq!(masked.text, "a pr0q0q ö pr0q1q");
        assert_eq!(masked.unmasked(&masked.text), source);
        assert_eq!(masked.source_offset(0), 0);
        assert_eq!(masked.source_offset(masked.text.len()), source.len());
        assert_eq!(masked.source_offset(9), 10);
    }

    #[test]
    fn prefix_does_not_occur_in_the_source() {
        let masked = Masked::new("PR0Q1q pr1q {{ x }}", &[tag(12..19)]);
        assert_eq!(masked.text, "PR0Q1q pr1q pr2q0q");
    }

    #[test]
    fn lost_and_doubled_tokens_are_faults() {
        let source = "{{ x }}{{ y }}";
        let mut masked = Masked::new(source, &[tag(0..7), tag(7..14)]);
        let (text, mut out) = (masked.text.clone(), String::new());
        masked.write(&mut out, &text, Place::Comment, false);
        assert_eq!(out, "<!--pr0q0q--><!--pr0q1q-->");
        assert_eq!(masked.check(&out, "CSS"), Ok(()));
        let lost = masked.check("<!--pr0q0q-->", "CSS").unwrap_err();
        assert_eq!((lost.offset, lost.code), (7, Code::InvalidTemplate));
        assert!(lost.message.contains("`{{ y }}` is lost by CSS"), "{}", lost.message);
        assert!(masked.check(&format!("{out}{out}"), "CSS").is_err());
        assert!(masked.check("<!--pr0q1q--><!--pr0q0q-->", "CSS").unwrap_err().message.contains("moved"));
    }

    proptest! {
        #[test]
        fn every_text_comes_back(parts in proptest::collection::vec(("[a-zäpr0-9q<>\"'&]{0,12}", any::<bool>()), 0..20)) {
            let (mut source, mut tags) = (String::new(), Vec::new());
            for (index, (text, is_tag)) in parts.iter().enumerate() {
                source.push_str(text);
                if *is_tag {
                    let start = source.len();
                    source.extend(["{{ v", &index.to_string(), " < 1 }}"]);
                    tags.push(tag(start..source.len()));
                }
            }
            let masked = Masked::new(&source, &tags);
            prop_assert_eq!(masked.tokens(&masked.text).len(), tags.len());
            prop_assert!(!masked.text.contains("{{"));
            prop_assert_eq!(masked.unmasked(&masked.text), source);
        }
    }
}
