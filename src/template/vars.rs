//! The `vars` syntax: plain substitution of `{{KEY}}` and `{{{KEY}}}`, as in Resend's templates.
//!
//! Both forms mean the same: values are escaped in `html`, and nowhere else. White space around the key is allowed.
//! Braces that do not enclose a key are text, unless they look like a tag of another syntax.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::domain::api::fault::Code;

use super::faults::{Located, excerpt};
use super::jinja::engine::{Failure, escaped};
use super::limits::MAX_KEY;
use super::markup::tags::{Role, Tag};

/// A placeholder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placeholder {
    pub(super) range: Range<usize>,
    pub(super) key: String,
}

/// Finds the placeholders of a source.
pub(super) fn placeholders(source: &str) -> Result<Vec<Placeholder>, Located> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = source[at..].find("{{").map(|offset| at + offset) {
        match placeholder(&source[start..]) {
            Some((key, length)) => {
                found.push(Placeholder { range: start..start + length, key: key.to_owned() });
                at = start + length;
            }
            // `{{{KEY}}` is a brace and a placeholder.
            None if placeholder(&source[start + 1..]).is_some() => at = start + 1,
            None => {
                check_other_syntax(&source[start..])
                    .map_err(|message| Located::new(start, Code::InvalidTemplate, message))?;
                at = start + 1;
            }
        }
    }
    Ok(found)
}

/// Returns the key and the length of the placeholder at the start of a text.
fn placeholder(text: &str) -> Option<(&str, usize)> {
    let close = |open: &str, close: &str| {
        let inner = text.strip_prefix(open)?.trim_ascii_start();
        let length = inner.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        let (key, rest) = inner.split_at(length);
        let rest = rest.trim_ascii_start().strip_prefix(close)?;
        (1..=MAX_KEY).contains(&length).then(|| (key, text.len() - rest.len()))
    };
    close("{{{", "}}}").or_else(|| close("{{", "}}"))
}

/// Fails if braces enclose something like an expression or a block of another syntax.
fn check_other_syntax(text: &str) -> Result<(), String> {
    let line = text.lines().next().unwrap_or_default();
    let Some((inner, _)) = line.split_once("}}") else { return Ok(()) };
    let inner = inner.trim_start_matches('{').trim();
    let is_tag = inner.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '#' | '/' | '^' | '>' | '_'));
    if !is_tag {
        return Ok(());
    }
    let found = excerpt(inner);
    Err(format!("`{{{{{found}}}}}` is not available with `vars`; use the name of a variable, or the syntax `jinja`"))
}

/// Returns the placeholders as tags.
pub(super) fn tags(source: &str) -> Result<Vec<Tag>, Located> {
    let tags = placeholders(source)?.into_iter();
    Ok(tags.map(|placeholder| Tag { range: placeholder.range, role: Role::Print }).collect())
}

/// A template that can be rendered.
#[derive(Debug)]
pub(super) struct Template {
    source: String,
    placeholders: Vec<Placeholder>,
    escapes: bool,
}

impl Template {
    pub(super) fn new(source: &str, escapes: bool) -> Result<Self, Located> {
        Ok(Self { placeholders: placeholders(source)?, source: source.to_owned(), escapes })
    }

    pub(super) fn bytes(&self) -> usize {
        self.source.len() + 128 * self.placeholders.len() + 256
    }

    /// Returns the number of placeholders, and the size of the source in bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.placeholders.len(), self.source.len())
    }

    /// Renders the template to at most `limit` bytes. Returns the text and the fuel used.
    pub(super) fn render(&self, values: &BTreeMap<String, String>, limit: usize) -> Result<(String, u64), Failure> {
        let mut out = String::with_capacity(self.source.len());
        let mut end = 0;
        let push = |out: &mut String, text: &str| {
            if out.len() + text.len() > limit {
                let message = format!("the result is larger than {limit} bytes");
                return Err(Failure { code: Code::TooLarge, message });
            }
            out.push_str(text);
            Ok(())
        };
        for placeholder in &self.placeholders {
            push(&mut out, &self.source[end..placeholder.range.start])?;
            end = placeholder.range.end;
            let value = values.get(&placeholder.key).map_or("", String::as_str);
            if self.escapes {
                push(&mut out, &escaped(value))?;
            } else {
                push(&mut out, value)?;
            }
        }
        push(&mut out, &self.source[end..])?;
        let fuel = self.placeholders.len() as u64 + out.len() as u64 / 64;
        Ok((out, fuel))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(source: &str) -> Vec<String> {
        placeholders(source).unwrap().into_iter().map(|placeholder| placeholder.key).collect()
    }

    #[test]
    fn placeholders_have_two_or_three_braces() {
        assert_eq!(keys("{{{NAME}}} {{ name }} {{{ a_1 }}}{{2}}"), ["NAME", "name", "a_1", "2"]);
        assert_eq!(keys("{ {x} } {{}} {{ä}} {{ {{x}} a{{{x}}"), ["x", "x"]);
        assert_eq!(keys("@media x{a{b:c}}"), [""; 0]);
    }

    #[test]
    fn tags_of_other_syntaxes_are_faults() {
        for source in ["{{#if x}}", "{{/if}}", "{{ user.name }}", "{{> part}}", "{{ x|upper }}", "{{a b}}"] {
            let fault = placeholders(&format!("ab{source}")).unwrap_err();
            assert_eq!((fault.offset, fault.code), (2, Code::InvalidTemplate), "{source}");
        }
    }

    #[test]
    fn both_forms_are_escaped_in_html_only() {
        let values = BTreeMap::from([("X".to_owned(), "<b>".to_owned())]);
        let render = |escapes| Template::new("{{X}}{{{X}}}!", escapes).unwrap().render(&values, 100).unwrap().0;
        assert_eq!(render(true), "&lt;b&gt;&lt;b&gt;!");
        assert_eq!(render(false), "<b><b>!");
        let limited = Template::new("{{X}}{{X}}", true).unwrap().render(&values, 10);
        assert_eq!(limited.unwrap_err().code, Code::TooLarge);
    }

    proptest! {
        #[test]
        fn values_never_become_placeholders(value in "[{}A-C]{0,20}") {
            let values = BTreeMap::from([("A".to_owned(), value.clone())]);
            let text = Template::new("x{{A}}y{{{A}}}z", false).unwrap().render(&values, 1_000).unwrap().0;
            prop_assert_eq!(text, format!("x{value}y{value}z"));
        }
    }
}
