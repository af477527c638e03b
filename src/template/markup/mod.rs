//! HTML as a sequence of tags, texts and comments, with positions.
//!
//! [`events`] splits a text as an HTML tokenizer does (WHATWG HTML §13.2.5), without building a tree, so that template
//! tags can be replaced and put back in place. It accepts every text. The parsers that build trees (`html5ever`,
//! `mrml`) parse only texts whose cost was checked before: [`tree`] checks HTML, and [`mjml`] checks MJML.

pub(super) mod css;
mod css_cost;
mod extract;
pub(super) mod mjml;
pub(super) mod tags;
pub(super) mod text;
pub(super) mod tree;

use std::ops::Range;

/// An attribute of a start tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attribute {
    pub(super) name: Range<usize>,
    /// The value without its quotes; `None` if the attribute has no value.
    pub(super) value: Option<Range<usize>>,
    pub(super) quote: Option<u8>,
    /// From the name to the closing quote.
    pub(super) span: Range<usize>,
}

/// A start tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) name: Range<usize>,
    pub(super) attributes: Vec<Attribute>,
    pub(super) self_closing: bool,
    pub(super) span: Range<usize>,
}

/// A part of an HTML text. The events follow each other without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Text(Range<usize>),
    /// The content of an element that contains no elements, such as `style` and `title`.
    Raw(Range<usize>),
    Start(Start),
    End {
        name: Range<usize>,
        span: Range<usize>,
    },
    Comment(Range<usize>),
    Doctype(Range<usize>),
    /// A processing instruction, a declaration, or a tag that is not closed.
    Bogus(Range<usize>),
}

/// Elements whose content is text up to their end tag.
const RAW: [&str; 9] = ["style", "script", "title", "textarea", "xmp", "iframe", "noembed", "noframes", "noscript"];

/// Elements that have neither content nor an end tag.
const VOID: [&str; 16] = [
    "area", "base", "basefont", "bgsound", "br", "col", "embed", "frame", "hr", "img", "input", "link", "meta",
    "param", "source", "wbr",
];

/// Returns whether an element has no content.
pub(super) fn is_void(name: &str) -> bool {
    VOID.iter().any(|void| void.eq_ignore_ascii_case(name))
}

/// Splits an HTML text.
pub(super) fn events(html: &str) -> Vec<Event> {
    let mut scanner = Scanner { html, bytes: html.as_bytes(), events: Vec::new(), text_start: 0 };
    scanner.run();
    scanner.events
}

/// Returns the length of a comment that starts with `<!--`.
fn comment_length(comment: &[u8]) -> usize {
    let mut at = 4;
    while let Some(found) = memchr::memmem::find(&comment[at..], b"--") {
        let rest = &comment[at + found + 2..];
        let end = match rest {
            [b'>', ..] => 1,
            [b'!', b'>', ..] => 2,
            _ => {
                at += found + 1;
                continue;
            }
        };
        return at + found + 2 + end;
    }
    comment.len()
}

struct Scanner<'h> {
    html: &'h str,
    bytes: &'h [u8],
    events: Vec<Event>,
    text_start: usize,
}

impl Scanner<'_> {
    fn run(&mut self) {
        let mut at = 0;
        while let Some(start) = memchr::memchr(b'<', &self.bytes[at..]).map(|found| at + found) {
            at = match self.bytes.get(start + 1) {
                Some(b'a'..=b'z' | b'A'..=b'Z') => self.start_tag(start),
                Some(b'/') => self.end_tag(start),
                Some(b'!') => self.declaration(start),
                Some(b'?') => self.push_to(start, b">", Event::Bogus),
                _ => start + 1,
            };
        }
        self.push_text(self.bytes.len());
    }

    /// Pushes the text before an event that starts at `end`.
    fn push_text(&mut self, end: usize) {
        if self.text_start < end {
            self.events.push(Event::Text(self.text_start..end));
        }
        self.text_start = end;
    }

    /// Pushes an event, and returns its end.
    fn push(&mut self, span: Range<usize>, event: Event) -> usize {
        self.push_text(span.start);
        self.text_start = span.end;
        self.events.push(event);
        span.end
    }

    /// Pushes an event that ends after the next `end`, or at the end of the text.
    fn push_to(&mut self, start: usize, end: &[u8], event: fn(Range<usize>) -> Event) -> usize {
        let found = memchr::memmem::find(&self.bytes[start..], end).map(|at| start + at + end.len());
        let span = start..found.unwrap_or(self.bytes.len());
        self.push(span.clone(), event(span))
    }

    fn declaration(&mut self, start: usize) -> usize {
        let rest = &self.bytes[start..];
        if rest.starts_with(b"<!-->") || rest.starts_with(b"<!--->") {
            return self.push_to(start, b">", Event::Comment);
        }
        if rest.starts_with(b"<!--") {
            let span = start..start + comment_length(rest);
            return self.push(span.clone(), Event::Comment(span));
        }
        let is_doctype = rest.get(2..9).is_some_and(|word| word.eq_ignore_ascii_case(b"doctype"));
        self.push_to(start, b">", if is_doctype { Event::Doctype } else { Event::Bogus })
    }

    fn end_tag(&mut self, start: usize) -> usize {
        if !self.bytes.get(start + 2).is_some_and(u8::is_ascii_alphabetic) {
            return self.push_to(start, b">", Event::Bogus);
        }
        let name = self.name_from(start + 2);
        match self.tag_end(name.end) {
            Some((_, _, end)) => self.push(start..end, Event::End { name, span: start..end }),
            None => self.push(start..self.bytes.len(), Event::Bogus(start..self.bytes.len())),
        }
    }

    fn start_tag(&mut self, start: usize) -> usize {
        let name = self.name_from(start + 1);
        let Some((attributes, self_closing, end)) = self.tag_end(name.end) else {
            let span = start..self.bytes.len();
            return self.push(span.clone(), Event::Bogus(span));
        };
        let element = self.html[name.clone()].to_ascii_lowercase();
        let tag = Start { name, attributes, self_closing, span: start..end };
        self.push(start..end, Event::Start(tag));
        if RAW.contains(&element.as_str()) { self.raw_text(&element, end) } else { end }
    }

    /// Returns the range of a tag's name.
    fn name_from(&self, start: usize) -> Range<usize> {
        let length = self.bytes[start..].iter().take_while(|byte| !byte.is_ascii_whitespace() && !b"/>".contains(byte));
        start..start + length.count()
    }

    /// Returns the attributes, whether the tag is self-closing, and the end of the tag; `None` if it is not closed.
    fn tag_end(&self, mut at: usize) -> Option<(Vec<Attribute>, bool, usize)> {
        let (mut attributes, mut has_slash) = (Vec::new(), false);
        loop {
            match *self.bytes.get(at)? {
                b'>' => return Some((attributes, has_slash, at + 1)),
                b'/' => (has_slash, at) = (true, at + 1),
                byte if byte.is_ascii_whitespace() => at += 1,
                _ => {
                    let attribute = self.attribute(at)?;
                    at = attribute.span.end;
                    attributes.push(attribute);
                    has_slash = false;
                }
            }
        }
    }

    fn attribute(&self, start: usize) -> Option<Attribute> {
        let is_name = |byte: u8| !byte.is_ascii_whitespace() && !b"/>=".contains(&byte);
        // A leading `=` is part of the name.
        let mut at = start + 1;
        while is_name(*self.bytes.get(at)?) {
            at += 1;
        }
        let name = start..at;
        let after = self.skip_space(at);
        if *self.bytes.get(after)? != b'=' {
            return Some(Attribute { span: name.clone(), name, value: None, quote: None });
        }
        let value = self.skip_space(after + 1);
        if let quote @ (b'"' | b'\'') = *self.bytes.get(value)? {
            let end = value + 1 + memchr::memchr(quote, &self.bytes[value + 1..])?;
            return Some(Attribute { name, value: Some(value + 1..end), quote: Some(quote), span: start..end + 1 });
        }
        let rest = &self.bytes[value..];
        let length = rest.iter().take_while(|byte| !byte.is_ascii_whitespace() && **byte != b'>').count();
        Some(Attribute { name, value: Some(value..value + length), quote: None, span: start..value + length })
    }

    fn skip_space(&self, at: usize) -> usize {
        at + self.bytes[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count()
    }

    /// Pushes the content of an element up to its end tag, and returns the end of the content.
    fn raw_text(&mut self, element: &str, start: usize) -> usize {
        let mut at = start;
        let end = loop {
            let Some(found) = memchr::memmem::find(&self.bytes[at..], b"</").map(|found| at + found) else {
                break self.bytes.len();
            };
            let name = self.bytes.get(found + 2..found + 2 + element.len());
            let after = self.bytes.get(found + 2 + element.len());
            let is_end = after.is_none_or(|byte| byte.is_ascii_whitespace() || b"/>".contains(byte));
            if is_end && name.is_some_and(|name| name.eq_ignore_ascii_case(element.as_bytes())) {
                break found;
            }
            at = found + 2;
        };
        if start < end {
            self.push(start..end, Event::Raw(start..end));
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(html: &str) -> Vec<String> {
        let shown = |event: &Event| match event {
            Event::Text(span) => format!("text {}", &html[span.clone()]),
            Event::Raw(span) => format!("raw {}", &html[span.clone()]),
            Event::Start(tag) => {
                let attributes = tag.attributes.iter().map(|attribute| {
                    let value = attribute.value.clone().map_or("-", |value| &html[value]);
                    format!(" {}={value}", &html[attribute.name.clone()])
                });
                format!("start {}{}", &html[tag.name.clone()], attributes.collect::<String>())
            }
            Event::End { name, .. } => format!("end {}", &html[name.clone()]),
            Event::Comment(span) => format!("comment {}", &html[span.clone()]),
            Event::Doctype(span) => format!("doctype {}", &html[span.clone()]),
            Event::Bogus(span) => format!("bogus {}", &html[span.clone()]),
        };
        events(html).iter().map(shown).collect()
    }

    fn span(event: &Event) -> Range<usize> {
        match event {
            Event::Text(span) | Event::Raw(span) | Event::Comment(span) | Event::Doctype(span) | Event::Bogus(span) => {
                span.clone()
            }
            Event::Start(tag) => tag.span.clone(),
            Event::End { span, .. } => span.clone(),
        }
    }

    #[test]
    fn tags_texts_and_comments_are_split() {
        assert_eq!(
            shown("<!DOCTYPE html><p class=\"a b\" id='x' hidden a=1>1 < 2<br/></P ><!-- <b> -->"),
            [
                "doctype <!DOCTYPE html>",
                "start p class=a b id=x hidden=- a=1",
                "text 1 < 2",
                "start br",
                "end P",
                "comment <!-- <b> -->"
            ]
        );
        assert_eq!(
            shown("<![if !mso]>a<![endif]><?x?>"),
            ["bogus <![if !mso]>", "text a", "bogus <![endif]>", "bogus <?x?>"]
        );
        assert_eq!(
            shown("<!-->a<!--b--!>c<!--d"),
            ["comment <!-->", "text a", "comment <!--b--!>", "text c", "comment <!--d"]
        );
    }

    #[test]
    fn raw_elements_end_at_their_end_tag() {
        assert_eq!(
            shown("<style>a > b </styles> </STYLE>x<title></title>"),
            ["start style", "raw a > b </styles> ", "end STYLE", "text x", "start title", "end title"]
        );
        assert_eq!(shown("<style>a"), ["start style", "raw a"]);
    }

    #[test]
    fn unclosed_tags_are_bogus() {
        assert_eq!(shown("a<p class=\"x"), ["text a", "bogus <p class=\"x"]);
        assert_eq!(shown("a</p "), ["text a", "bogus </p "]);
    }

    proptest::proptest! {
        #[test]
        fn events_have_no_gaps(html in "[<>/!a-c\"'= \\-style?]{0,80}") {
            let mut at = 0;
            for event in events(&html) {
                let span = span(&event);
                proptest::prop_assert_eq!(span.start, at);
                at = span.end;
            }
            proptest::prop_assert_eq!(at, html.len());
        }
    }
}
