//! Writes an HTML text, in which tokens stand for the template tags, so that an HTML5 parser keeps every token in
//! place, and restores the tags in the output of the parser's serializer.

use crate::template::faults::Located;

use super::tags::{Masked, Place, Role};
use super::{Event, Start, events, is_void};

/// A text for an HTML5 parser.
#[derive(Debug, Default)]
pub(super) struct Extracted {
    pub(super) html: String,
    /// Whether classes or ids depend on template tags, so that a CSS rule that matches nothing now may match in the
    /// rendered text.
    pub(super) is_dynamic: bool,
    /// Byte offsets in the source of `style` elements with template tags, which are kept as they are.
    pub(super) opaque_styles: Vec<usize>,
    doctype: Option<String>,
}

/// Writes the masked text for an HTML5 parser. Fails if a template tag is in an element's name, in an end tag or in the
/// document type.
pub(super) fn extract(masked: &mut Masked) -> Result<Extracted, Located> {
    let text = masked.text.clone();
    let mut extracted = Extracted { html: String::with_capacity(text.len()), ..Extracted::default() };
    let events = events(&text);
    let mut index = 0;
    while let Some(event) = events.get(index) {
        index += 1;
        match event {
            Event::Text(span) => masked.write(&mut extracted.html, &text[span.clone()], Place::Comment, false),
            Event::Raw(span) | Event::Comment(span) => {
                masked.write(&mut extracted.html, &text[span.clone()], Place::Plain, false);
            }
            Event::Doctype(span) => {
                refuse_tokens(masked, &text[span.clone()], "is in the document type")?;
                extracted.doctype.get_or_insert_with(|| text[span.clone()].to_owned());
                extracted.html.push_str(&text[span.clone()]);
            }
            Event::Bogus(span) => masked.write_opaque(&mut extracted.html, span.clone(), Place::Comment),
            Event::End { span, .. } => {
                refuse_tokens(masked, &text[span.clone()], "is in an end tag")?;
                extracted.html.push_str(&text[span.clone()]);
            }
            Event::Start(tag) => match opaque_style(masked, &text, tag, &events[index..]) {
                Some((end, skipped)) => {
                    extracted.opaque_styles.push(masked.source_offset(tag.span.start));
                    masked.write_opaque(&mut extracted.html, tag.span.start..end, Place::Comment);
                    index += skipped;
                }
                None => write_start(masked, &text, tag, &mut extracted)?,
            },
        }
    }
    Ok(extracted)
}

/// Fails if a text has a token.
fn refuse_tokens(masked: &Masked, text: &str, problem: &str) -> Result<(), Located> {
    match masked.tokens(text).first() {
        Some(token) => Err(masked.fault(token.number, problem)),
        None => Ok(()),
    }
}

/// Returns the end of a `style` element that contains tokens, and how many events after its start tag belong to it.
fn opaque_style(masked: &Masked, text: &str, tag: &Start, rest: &[Event]) -> Option<(usize, usize)> {
    if !text[tag.name.clone()].eq_ignore_ascii_case("style") {
        return None;
    }
    let (content, after) = match rest {
        [Event::Raw(span), rest @ ..] => (span.clone(), rest.first()),
        rest => (tag.span.end..tag.span.end, rest.first()),
    };
    let has_token = masked.has_token(&text[tag.span.clone()]) || masked.has_token(&text[content.clone()]);
    let skipped = usize::from(!content.is_empty());
    match after {
        Some(Event::End { span, .. }) if has_token => Some((span.end, skipped + 1)),
        _ if has_token => Some((content.end, skipped)),
        _ => None,
    }
}

fn write_start(masked: &mut Masked, text: &str, tag: &Start, extracted: &mut Extracted) -> Result<(), Located> {
    refuse_tokens(masked, &text[tag.name.clone()], "is in the name of an element")?;
    // Template tags beside attributes may enclose some of the attributes, so everything from the first to the last of
    // these tags becomes one token.
    let has_token = |range: &std::ops::Range<usize>| masked.has_token(&text[range.clone()]);
    let first = tag.attributes.iter().position(|attribute| has_token(&attribute.name));
    let last = tag.attributes.iter().rposition(|attribute| has_token(&attribute.name));
    let mut end = tag.span.start;
    if text[tag.name.clone()].eq_ignore_ascii_case("tbody") {
        extracted.html.push_str(&text[end..tag.name.end]);
        extracted.html.push(' ');
        masked.write_mark(&mut extracted.html);
        end = tag.name.end;
    }
    let mut index = 0;
    while let Some(attribute) = tag.attributes.get(index) {
        extracted.html.push_str(&text[end..attribute.span.start]);
        end = attribute.span.end;
        if let (true, Some(last)) = (first == Some(index), last) {
            end = tag.attributes[last].span.end;
            index = last;
            masked.write_opaque(&mut extracted.html, attribute.span.start..end, Place::Attribute);
            extracted.is_dynamic = true;
        } else {
            let name = &text[attribute.name.clone()];
            let has_token = masked.has_token(&text[attribute.span.clone()]);
            if has_token && name.eq_ignore_ascii_case("style") {
                masked.write_opaque(&mut extracted.html, attribute.span.clone(), Place::Style);
            } else {
                masked.write(&mut extracted.html, &text[attribute.span.clone()], Place::Plain, false);
                let selects = name.eq_ignore_ascii_case("class") || name.eq_ignore_ascii_case("id");
                extracted.is_dynamic |= has_token && selects;
            }
        }
        index += 1;
    }
    extracted.html.push_str(&text[end..tag.span.end]);
    Ok(())
}

/// Puts the tags back into the output of a serializer. `what` names the step for faults.
pub(super) fn restore(masked: &Masked, extracted: &Extracted, output: &str, what: &str) -> Result<String, Located> {
    masked.check(output, what)?;
    let mut out = String::with_capacity(output.len() * 2);
    // Whether the parser added each open `tbody`. An added one is left out: the start of a loop over the rows is in
    // front of it and the end of the loop inside, so that a message would open a `tbody` for each row.
    let mut implied: Vec<bool> = Vec::new();
    for event in events(output) {
        match event {
            Event::Start(tag) if output[tag.name.clone()] == *"tbody" => {
                let is_implied =
                    !tag.attributes.iter().any(|attribute| is_mark(masked, &output[attribute.name.clone()]));
                implied.push(is_implied);
                if !is_implied {
                    write_restored(masked, output, &tag, &mut out, what)?;
                }
            }
            Event::End { name, .. } if output[name.clone()] == *"tbody" && implied.pop() == Some(true) => {}
            Event::Comment(span) => match own_comment(masked, &output[span.clone()]) {
                Some(number) => {
                    // A brace in front of the tag would become a part of it.
                    if out.ends_with('{') {
                        out.pop();
                        out.push_str("&#123;");
                    }
                    out.push_str(masked.original(number));
                }
                None => out.push_str(&plain(masked, &output[span], what)?),
            },
            Event::Raw(span) => out.push_str(&plain(masked, &output[span], what)?),
            Event::Text(span) => protect(&mut out, &output[span]),
            Event::Start(tag) => write_restored(masked, output, &tag, &mut out, what)?,
            Event::Doctype(span) => out.push_str(extracted.doctype.as_deref().unwrap_or(&output[span])),
            Event::Bogus(span) | Event::End { span, .. } => out.push_str(&output[span]),
        }
    }
    Ok(out)
}

/// Returns whether an attribute's name is a mark ([`Masked::write_mark`]).
fn is_mark(masked: &Masked, name: &str) -> bool {
    let tokens = masked.tokens(name);
    tokens.first().is_some_and(|token| token.range == (0..name.len()) && masked.original(token.number).is_empty())
}

/// Returns the token of a comment that consists of nothing else.
fn own_comment(masked: &Masked, comment: &str) -> Option<usize> {
    let inner = comment.strip_prefix("<!--")?.strip_suffix("-->")?;
    let tokens = masked.tokens(inner);
    let token = tokens.first().filter(|token| token.range == (0..inner.len()))?;
    (masked.place(token.number) == Place::Comment).then_some(token.number)
}

/// Puts the tags back into a text in which tokens are plain.
fn plain(masked: &Masked, text: &str, what: &str) -> Result<String, Located> {
    let misplaced = masked.tokens(text).into_iter().find(|token| masked.place(token.number) != Place::Plain);
    match misplaced {
        Some(token) => Err(masked.fault(token.number, format!("is moved by {what}"))),
        None => Ok(masked.unmasked(text)),
    }
}

/// Appends text that was decoded and encoded again, in which `&#123;{` may have become the start of a tag.
fn protect(out: &mut String, text: &str) {
    let mut previous = ' ';
    for c in text.chars() {
        if previous == '{' && matches!(c, '{' | '%' | '#') {
            out.pop();
            out.push_str("&#123;");
        }
        out.push(c);
        previous = c;
    }
}

/// Appends a start tag, and puts the template tags back into it.
fn write_restored(masked: &Masked, output: &str, tag: &Start, out: &mut String, what: &str) -> Result<(), Located> {
    let special = |name: &str| {
        let tokens = masked.tokens(name);
        let token = tokens.first().filter(|token| token.range == (0..name.len()))?;
        Some((token.number, masked.place(token.number))).filter(|(_, place)| *place != Place::Plain)
    };
    let place = |index: usize| special(&output[tag.attributes[index].name.clone()]);
    let is_style = |index: &usize| output[tag.attributes[*index].name.clone()].eq_ignore_ascii_case("style");
    let indices = 0..tag.attributes.len();
    let merges = indices.clone().any(|index| place(index).is_some_and(|(_, place)| place == Place::Style));
    let inlined = indices.clone().find(is_style).filter(|_| merges);
    let mut end = tag.span.start;
    for index in indices {
        let attribute = &tag.attributes[index];
        let before = &output[end..attribute.span.start];
        end = attribute.span.end;
        if inlined == Some(index) {
            continue;
        }
        if is_mark(masked, &output[attribute.name.clone()]) {
            out.push_str(before.trim_end());
            continue;
        }
        out.push_str(before);
        match place(index) {
            Some((number, Place::Style)) => {
                let value = inlined.and_then(|index| tag.attributes[index].value.clone());
                out.push_str(&merged_style(value.map_or("", |value| &output[value]), masked.original(number)));
            }
            Some((number, _)) => out.push_str(masked.original(number)),
            None => {
                let mut text = String::new();
                protect(&mut text, &output[attribute.span.clone()]);
                out.push_str(&plain(masked, &text, what)?);
            }
        }
    }
    out.push_str(&output[end..tag.span.end]);
    Ok(())
}

/// Puts inlined declarations in front of those of a `style` attribute, which take precedence.
fn merged_style(inlined: &str, attribute: &str) -> String {
    let value = attribute.split_once('=').map_or("", |(_, value)| value.trim_start());
    let (quote, value) = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => (quote, value[1..].strip_suffix(quote).unwrap_or(&value[1..])),
        _ => ('"', value),
    };
    let separator = if inlined.is_empty() || inlined.trim_end().ends_with(';') { "" } else { ";" };
    let inlined = if quote == '\'' { inlined.replace('\'', "&#39;") } else { inlined.to_owned() };
    format!("style={quote}{inlined}{separator}{value}{quote}")
}

/// Elements whose end tag may be left out, so that a missing end tag is not reported.
const OPTIONAL_END: [&str; 22] = [
    "html", "head", "body", "p", "li", "dt", "dd", "option", "optgroup", "thead", "tbody", "tfoot", "tr", "td", "th",
    "colgroup", "caption", "rb", "rt", "rtc", "rp", "col",
];

/// Returns an element that is opened in a block of the template and closed outside, or the other way round: its byte
/// offset in the source, and its name.
pub(super) fn unbalanced(masked: &Masked) -> Option<(usize, String)> {
    enum Open {
        Block,
        Element(String, usize),
    }
    let text = &masked.text;
    let mut stack: Vec<Open> = Vec::new();
    let close_branch = |stack: &mut Vec<Open>| match stack.pop() {
        Some(Open::Element(name, at)) => Some((masked.source_offset(at), name)),
        Some(Open::Block) | None => None,
    };
    for event in events(text) {
        let span = match &event {
            Event::Text(span) | Event::Raw(span) | Event::Comment(span) | Event::Doctype(span) | Event::Bogus(span) => {
                span
            }
            Event::Start(tag) => &tag.span,
            Event::End { span, .. } => span,
        };
        for token in masked.tokens(&text[span.clone()]) {
            match masked.role(token.number) {
                Role::Open => stack.push(Open::Block),
                Role::Close | Role::Middle => {
                    if let Some(found) = close_branch(&mut stack) {
                        return Some(found);
                    }
                    if masked.role(token.number) == Role::Middle {
                        stack.push(Open::Block);
                    }
                }
                Role::Print | Role::Single => {}
            }
        }
        match event {
            Event::Start(tag) => {
                let name = text[tag.name.clone()].to_ascii_lowercase();
                if !tag.self_closing && !is_void(&name) && !OPTIONAL_END.contains(&name.as_str()) {
                    stack.push(Open::Element(name, tag.span.start));
                }
            }
            Event::End { name, span } => {
                let name = text[name].to_ascii_lowercase();
                let is_match = |open: &Open| matches!(open, Open::Element(open, _) if *open == name);
                if let Some(at) = stack.iter().rposition(is_match) {
                    if stack[at..].iter().any(|open| matches!(open, Open::Block)) {
                        return Some((masked.source_offset(span.start), name));
                    }
                    stack.truncate(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::jinja::scan;

    fn masked(source: &str) -> Masked {
        Masked::new(source, &scan::tags(source).unwrap())
    }

    fn extracted(source: &str) -> String {
        extract(&mut masked(source)).unwrap().html
    }

    #[test]
    fn tokens_are_comments_in_text_and_plain_elsewhere() {
        assert_eq!(
            extracted("<a href=\"{{ u|default(\"x\") }}\">{{ t }}</a><title>{{ t }}</title><!-- {{ c }} -->"),
            "<a href=\"pr0q0q\"><!--pr0q1q--></a><title>pr0q2q</title><!-- pr0q3q -->"
        );
        assert_eq!(
            extracted("<table>{% for r in rows %}<tr><td>{{ r }}</td></tr>{% endfor %}</table>"),
            "<table><!--pr0q0q--><tr><td><!--pr0q1q--></td></tr><!--pr0q2q--></table>"
        );
    }

    #[test]
    fn attributes_in_a_condition_are_one_token() {
        assert_eq!(extracted("<td {% if a < b %}class=\"x\"{% else %}class='y'{% endif %} id=z>"), "<td pr0q3q id=z>");
        assert_eq!(extracted("<p style=\"color:{{ c }}\" class=a>"), "<p pr0q1q class=a>");
        assert_eq!(extracted("<style>a { color: {{ c }} }</style>x"), "<!--pr0q1q-->x");
    }

    #[test]
    fn tags_in_names_are_faults() {
        for source in ["<{{ x }}>", "<h{{ n }}>", "</h{{ n }}>", "<!DOCTYPE {{ x }}>"] {
            assert!(extract(&mut masked(source)).is_err(), "{source}");
        }
    }

    #[test]
    fn restored_text_is_the_source() {
        for source in [
            "<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\" \"x\"><p>{{ a }}</p>",
            "<td {% if a < b %}class=\"x\"{% endif %}>{{ x|default(\"</td>\") }}</td>",
            "<![if !mso]>{{ x }}<![endif]><p style=\"color:{{ c }}\">x</p>",
            "<style>{{ x }}</style><a href='{{ a }}{{ b }}'>{# c #}</a>",
        ] {
            let mut masked = masked(source);
            let extracted = extract(&mut masked).unwrap();
            assert_eq!(restore(&masked, &extracted, &extracted.html, "test").unwrap(), source);
        }
    }

    #[test]
    fn implied_table_bodies_are_left_out() {
        let source =
            "<table>{% for r in rows %}<tr></tr>{% endfor %}</table><table><tbody class=a><tr></tr></tbody></table>";
        let mut masked = masked(source);
        let extracted = extract(&mut masked).unwrap();
        let output = extracted.html.replace("<tr></tr><!--pr0q1q-->", "<tbody><tr></tr><!--pr0q1q--></tbody>");
        assert_ne!(output, extracted.html);
        assert_eq!(restore(&masked, &extracted, &output, "test").unwrap(), source);
    }

    #[test]
    fn inlined_declarations_come_before_the_attribute() {
        assert_eq!(merged_style("a: b;", "style=\"c:{{ d }}\""), "style=\"a: b;c:{{ d }}\"");
        assert_eq!(merged_style("a: 'b'", "style = '{{ d|e(\"x\") }}'"), "style='a: &#39;b&#39;;{{ d|e(\"x\") }}'");
        assert_eq!(merged_style("", "style={{ d }}"), "style=\"{{ d }}\"");
    }

    #[test]
    fn decoded_braces_do_not_become_tags() {
        let mut out = String::new();
        protect(&mut out, "{{ x }} {%{#{ {");
        assert_eq!(out, "&#123;{ x }} &#123;%&#123;#{ {");
    }

    #[test]
    fn elements_across_branches_are_found() {
        let found = |source: &str| unbalanced(&masked(source));
        assert_eq!(found("{% if a %}<b>x</b><p>y{% else %}<td>{% endif %}</td>"), None);
        assert_eq!(found("{% if a %}<div>{% endif %}x</div>"), Some((10, "div".into())));
        assert_eq!(found("<div>{% if a %}</div>{% endif %}"), Some((15, "div".into())));
        assert_eq!(found("<td {% if a %}x{% endif %}><b>{{ x }}</b>"), None);
    }
}
