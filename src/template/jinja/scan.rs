//! Finds the tags of a Jinja source, with `MiniJinja`'s own lexer.

use std::ops::Range;
use std::panic::catch_unwind;

use minijinja::machinery::{Span, Token, Tokenizer};

use crate::domain::api::fault::Code;
use crate::template::faults::Located;
use crate::template::limits::{MAX_ELIF, MAX_TAG, MAX_TAG_TOKENS};
use crate::template::markup::tags::{Role, Tag};

/// A token of a tag. Only the kinds that layouts use are distinguished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    Name(String),
    /// A string literal.
    Literal(String),
    Assign,
    Other,
}

/// The kind of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// `{{ … }}`
    Print,
    /// `{% … %}`
    Block,
    /// `{# … #}`
    Comment,
    /// `{% raw %} … {% endraw %}`, with the range of its content.
    Raw(Range<usize>),
}

/// A part of a source. Pieces follow each other without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) kind: Kind,
    pub(super) range: Range<usize>,
    /// The first words of a `Print` or `Block`.
    pub(super) words: Vec<Word>,
}

/// Maximum number of words stored for a tag.
const MAX_WORDS: usize = 8;

impl Piece {
    /// Returns the keyword of a block tag.
    pub(super) fn keyword(&self) -> &str {
        match (&self.kind, self.words.first()) {
            (Kind::Block, Some(Word::Name(name))) => name,
            _ => "",
        }
    }

    fn role(&self) -> Role {
        match self.kind {
            Kind::Print => Role::Print,
            Kind::Block => match self.keyword() {
                "set" if !self.words.contains(&Word::Assign) && self.words.len() < MAX_WORDS => Role::Open,
                "for" | "if" | "with" | "autoescape" | "filter" | "macro" | "call" | "block" => Role::Open,
                "else" | "elif" => Role::Middle,
                keyword if keyword.starts_with("end") => Role::Close,
                _ => Role::Single,
            },
            Kind::Text | Kind::Comment | Kind::Raw(_) => Role::Single,
        }
    }
}

/// Splits a source into pieces. Fails if the lexer refuses the source, a tag is too long, a `raw` block is not closed, or
/// there are more than [`MAX_ELIF`] `elif`.
pub(super) fn pieces(source: &str) -> Result<Vec<Piece>, Located> {
    // In builds with overflow checks, the lexer panics on an error in a line of more than 65,535 characters.
    let pieces = catch_unwind(|| lexed_pieces(source));
    pieces.unwrap_or_else(|_| {
        Err(Located::new(0, Code::InvalidTemplate, "the template cannot be parsed; use shorter lines"))
    })
}

fn lexed_pieces(source: &str) -> Result<Vec<Piece>, Located> {
    let mut tokens = Tokenizer::new(source, "template", false, super::syntax());
    let mut pieces = Vec::new();
    let (mut end, mut elifs) = (0, 0);
    while let Some((token, span)) = tokens.next_token().map_err(|error| super::located(&error))? {
        let kind = match token {
            Token::VariableStart => Kind::Print,
            Token::BlockStart => Kind::Block,
            _ => continue,
        };
        let start = span.start_offset as usize;
        push_gap(source, end..start, &mut pieces)?;
        let (words, last) = tag(&mut tokens, start)?;
        end = last.end_offset as usize;
        let piece = Piece { kind, range: start..end, words };
        elifs += usize::from(piece.keyword() == "elif");
        if elifs > MAX_ELIF {
            return Err(Located::new(start, Code::TooMany, format!("a template has at most {MAX_ELIF} `elif`")));
        }
        pieces.push(piece);
    }
    push_gap(source, end..source.len(), &mut pieces)?;
    Ok(pieces)
}

/// Reads the rest of a tag. Returns its first words and the span of its end.
fn tag(tokens: &mut Tokenizer<'_>, start: usize) -> Result<(Vec<Word>, Span), Located> {
    let mut words = Vec::new();
    let mut count = 0;
    loop {
        let token = tokens.next_token().map_err(|error| super::located(&error))?;
        let Some((token, span)) = token else {
            return Err(Located::new(start, Code::InvalidTemplate, "the tag is not closed; add `}}` or `%}`"));
        };
        count += 1;
        if count > MAX_TAG_TOKENS || span.end_offset as usize - start > MAX_TAG {
            let message =
                format!("a tag has at most {MAX_TAG} bytes and {MAX_TAG_TOKENS} words and signs; split it with `set`");
            return Err(Located::new(start, Code::TooLong, message));
        }
        let word = match token {
            Token::VariableEnd | Token::BlockEnd => return Ok((words, span)),
            Token::Ident(name) => Word::Name(name.to_owned()),
            Token::Str(text) => Word::Literal(text.to_owned()),
            Token::String(text) => Word::Literal(text.into_string()),
            Token::Assign => Word::Assign,
            _ => Word::Other,
        };
        if words.len() < MAX_WORDS {
            words.push(word);
        }
    }
}

/// Splits the source between two tags into text, comments and raw blocks.
fn push_gap(source: &str, gap: Range<usize>, pieces: &mut Vec<Piece>) -> Result<(), Located> {
    let mut at = gap.start;
    let mut text_start = gap.start;
    let push = |pieces: &mut Vec<Piece>, kind: Kind, range: Range<usize>| {
        if !range.is_empty() {
            pieces.push(Piece { kind, range, words: Vec::new() });
        }
    };
    while let Some(start) = source[at..gap.end].find('{').map(|found| at + found) {
        let rest = &source[start..gap.end];
        let (kind, length) = if rest.starts_with("{#") {
            (Kind::Comment, comment_length(rest))
        } else if rest.starts_with("{%") {
            let (content, length) = raw_block(rest).ok_or_else(|| {
                Located::new(start, Code::InvalidTemplate, "the `raw` block is not closed; add `{% endraw %}`")
            })?;
            (Kind::Raw(start + content.start..start + content.end), length)
        } else {
            at = start + 1;
            continue;
        };
        push(pieces, Kind::Text, text_start..start);
        push(pieces, kind, start..start + length);
        at = start + length;
        text_start = at;
    }
    push(pieces, Kind::Text, text_start..gap.end);
    Ok(())
}

fn comment_length(comment: &str) -> usize {
    let start = if comment[2..].starts_with(['-', '+']) { 3 } else { 2 };
    comment[start..].find("#}").map_or(comment.len(), |end| start + end + 2)
}

/// Returns the range of the content of a raw block, and the length of the block.
fn raw_block(block: &str) -> Option<(Range<usize>, usize)> {
    let start = basic_tag(block, "raw")?;
    let mut at = start;
    loop {
        let tag = at + block[at..].find("{%")?;
        if let Some(length) = basic_tag(&block[tag..], "endraw") {
            return Some((start..tag, tag + length));
        }
        at = tag + 2;
    }
}

/// Returns the length of the tag `{% name %}` at the start of a text.
fn basic_tag(text: &str, name: &str) -> Option<usize> {
    let inner = text.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_ascii_start();
    let rest = inner.strip_prefix(name)?.trim_ascii_start();
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).strip_prefix("%}")?;
    Some(text.len() - rest.len())
}

/// Returns the source with each raw block replaced by its content. In the content, a `{` that begins a tag is replaced by a
/// tag that prints it, so that the other steps need not handle raw blocks.
pub(in crate::template) fn without_raw(source: &str) -> Result<String, Located> {
    let mut out = String::with_capacity(source.len());
    for piece in pieces(source)? {
        match &piece.kind {
            Kind::Raw(content) => {
                let (start, end) = (&source[piece.range.start..content.start], &source[content.end..piece.range.end]);
                out.push_str(trim_marker(start));
                push_raw(&mut out, &source[content.clone()]);
                out.push_str(trim_marker(end));
            }
            _ => out.push_str(&source[piece.range]),
        }
    }
    Ok(out)
}

/// Returns a comment that trims the same white space as `tag`; nothing if the tag trims none.
pub(super) fn trim_marker(tag: &str) -> &'static str {
    let before = tag.as_bytes().get(2) == Some(&b'-');
    let after = tag.len() >= 3 && tag.as_bytes()[tag.len() - 3] == b'-';
    match (before, after) {
        (true, true) => "{#- -#}",
        (true, false) => "{#- #}",
        (false, true) => "{# -#}",
        (false, false) => "",
    }
}

fn push_raw(out: &mut String, content: &str) {
    let mut rest = content;
    while let Some(at) = rest.find('{') {
        let (before, brace) = rest.split_at(at);
        out.push_str(before);
        let is_start = matches!(brace.as_bytes().get(1), Some(b'{' | b'%' | b'#') | None);
        out.push_str(if is_start { "{{ \"{\" }}" } else { "{" });
        rest = &brace[1..];
    }
    out.push_str(rest);
}

/// Returns the tags, comments and raw blocks of a source.
pub(in crate::template) fn tags(source: &str) -> Result<Vec<Tag>, Located> {
    let pieces = pieces(source)?.into_iter();
    let tags = pieces.filter(|piece| piece.kind != Kind::Text);
    Ok(tags.map(|piece| Tag { role: piece.role(), range: piece.range }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(source: &str) -> Vec<(&str, Role)> {
        tags(source).unwrap().into_iter().map(|tag| (&source[tag.range], tag.role)).collect()
    }

    #[test]
    fn tags_end_where_the_lexer_says() {
        assert_eq!(
            shown(
                "a{{ {\"}}\": {\"b\": 1}} }}b{%- if x -%}{# }} #}{% elif \"%}\" %}{% endif %}{% set a = 1 %}{% set b %}"
            ),
            [
                ("{{ {\"}}\": {\"b\": 1}} }}", Role::Print),
                ("{%- if x -%}", Role::Open),
                ("{# }} #}", Role::Single),
                ("{% elif \"%}\" %}", Role::Middle),
                ("{% endif %}", Role::Close),
                ("{% set a = 1 %}", Role::Single),
                ("{% set b %}", Role::Open),
            ]
        );
        assert_eq!(shown("{ { x }} } {"), []);
    }

    #[test]
    fn pieces_have_no_gaps() {
        let source = "a {{ x -}}  b {#- c #} {% raw %} {{ y }} {% endraw %} ä{% if a %}\n{% endif %}\n";
        let pieces = pieces(source).unwrap();
        let mut end = 0;
        for piece in &pieces {
            assert_eq!(piece.range.start, end);
            end = piece.range.end;
        }
        assert_eq!(end, source.len());
        assert!(
            pieces
                .iter()
                .any(|piece| matches!(&piece.kind, Kind::Raw(content) if &source[content.clone()] == " {{ y }} "))
        );
    }

    #[test]
    fn raw_blocks_become_strings() {
        assert_eq!(without_raw("a{% raw %}{{ x }}{a{%- endraw -%} b").unwrap(), "a{{ \"{\" }}{ x }}{a{#- -#} b");
        assert_eq!(without_raw("{%- raw %}{%{{% endraw %}").unwrap(), "{#- #}{{ \"{\" }}%{{ \"{\" }}");
        assert_eq!(without_raw("{{ x }}").unwrap(), "{{ x }}");
    }

    #[test]
    fn faults_have_a_position() {
        for (source, offset) in [("ab{{ x", 2), ("ab{% raw %}", 2), ("ab{{ \"x }}", 2), ("ab{# x", 2), ("ab{{ ? }}", 5)]
        {
            let fault = tags(source).unwrap_err();
            assert!(fault.offset >= offset, "{source}: {fault:?}");
        }
        assert_eq!(tags(&format!("{{{{ {} }}}}", "a+".repeat(600))).unwrap_err().code, Code::TooLong);
        assert_eq!(tags(&"{% elif x %}".repeat(501)).unwrap_err().code, Code::TooMany);
    }
}
