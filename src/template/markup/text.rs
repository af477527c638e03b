//! Derives the plain text body from an HTML template.
//!
//! `html2text` lays out a text once, but a template is laid out before its loops run. So the HTML is first reduced to blocks
//! and line breaks: cells of a table are separated by spaces, items of a list get a bullet, and a link's address follows
//! its text. Lines are not wrapped, because values have any length; mail clients wrap them.

use html2text::config;

use crate::domain::api::fault::Code;
use crate::template::faults::Located;

use super::tags::{Masked, Place, Role, Tag};
use super::{Event, Start, events, is_void, tree};

/// More columns than any text has.
const WIDTH: usize = 10_000_000;

/// Elements that start and end a line.
const BLOCKS: [&str; 22] = [
    "div",
    "tr",
    "table",
    "section",
    "article",
    "header",
    "footer",
    "main",
    "nav",
    "aside",
    "form",
    "fieldset",
    "center",
    "address",
    "figure",
    "figcaption",
    "dt",
    "dd",
    "li",
    "caption",
    "body",
    "blockquote",
];
/// Elements with an empty line before and after.
const PARAGRAPHS: [&str; 10] = ["p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl"];
/// Elements whose content is not shown.
const HIDDEN: [&str; 7] = ["style", "script", "title", "noscript", "xmp", "iframe", "textarea"];

/// Derives the plain text template of an HTML template.
pub(in crate::template) fn derive(html: &str, tags: &[Tag]) -> Result<String, Located> {
    let mut masked = Masked::new(html, tags);
    let reduced = Reducer::new(&mut masked).reduce();
    tree::check(&reduced).map_err(|message| Located::new(0, Code::TooLarge, message))?;
    let failed =
        |_| Located::new(0, Code::InvalidTemplate, "the plain text body cannot be derived from `html`; set `text`");
    let text = config::plain_no_decorate().string_from_read(reduced.as_bytes(), WIDTH).map_err(failed)?;
    masked.check(&text, "deriving the plain text body; or set `text`")?;
    Ok(tidy(&masked, &text))
}

/// Reduces HTML to blocks, paragraphs and line breaks.
struct Reducer<'m> {
    masked: &'m mut Masked,
    text: String,
    out: String,
    /// The name of the outermost hidden element, and how many elements of this name are open in it, itself included.
    hidden: Option<(String, usize)>,
    /// The address of the open link, and where its text starts in `out`.
    link: Option<(String, usize)>,
    preformatted: usize,
}

impl<'m> Reducer<'m> {
    fn new(masked: &'m mut Masked) -> Self {
        let text = masked.text.clone();
        Self { masked, text, out: String::new(), hidden: None, link: None, preformatted: 0 }
    }

    fn reduce(mut self) -> String {
        for event in events(&self.text.clone()) {
            match event {
                Event::Text(span) | Event::Raw(span) => self.content(span),
                Event::Start(tag) => self.start(&tag),
                Event::End { name, .. } => {
                    let name = self.text[name].to_ascii_lowercase();
                    self.end(&name);
                }
                Event::Comment(_) | Event::Doctype(_) | Event::Bogus(_) => {}
            }
        }
        self.out
    }

    fn content(&mut self, span: std::ops::Range<usize>) {
        let text = self.text[span].to_owned();
        if self.hidden.is_none() {
            self.masked.write(&mut self.out, &text, Place::Plain, false);
            return;
        }
        // Values that are assigned in a hidden element may be used elsewhere.
        for token in self.masked.tokens(&text) {
            let tag = self.masked.original(token.number);
            let is_set = tag.trim_start_matches(['{', '%', '-', '+']).trim_start().starts_with("set ");
            if is_set && self.masked.role(token.number) == Role::Single {
                self.masked.write_token(&mut self.out, token.number, Place::Plain, false);
            }
        }
    }

    fn start(&mut self, tag: &Start) {
        let name = self.text[tag.name.clone()].to_ascii_lowercase();
        let has_content = !tag.self_closing && !is_void(&name);
        if let Some((hidden, depth)) = &mut self.hidden {
            *depth += usize::from(*hidden == name && has_content);
            return;
        }
        if has_content && (HIDDEN.contains(&name.as_str()) || self.is_hidden(tag)) {
            self.hidden = Some((name, 1));
            return;
        }
        match name.as_str() {
            "br" => self.out.push_str("<br>"),
            "hr" => self.out.push_str("<p>---</p>"),
            "img" => self.attribute(tag, "alt"),
            "a" => {
                self.end_link();
                self.link = self.value(tag, "href").map(|href| (href, self.out.len()));
            }
            "td" | "th" => self.out.push(' '),
            "pre" => {
                self.preformatted += 1;
                self.out.push_str("<pre>");
            }
            "li" => self.out.push_str("<div>* "),
            name if PARAGRAPHS.contains(&name) => self.out.push_str("<p>"),
            name if BLOCKS.contains(&name) => self.out.push_str("<div>"),
            _ => {}
        }
    }

    fn end(&mut self, name: &str) {
        if let Some((hidden, depth)) = &mut self.hidden {
            if hidden == name {
                *depth -= 1;
                if *depth == 0 {
                    self.hidden = None;
                }
            }
            return;
        }
        match name {
            "a" => self.end_link(),
            "td" | "th" => self.out.push(' '),
            "pre" if self.preformatted > 0 => {
                self.preformatted -= 1;
                self.out.push_str("</pre>");
            }
            name if PARAGRAPHS.contains(&name) => self.out.push_str("</p>"),
            name if BLOCKS.contains(&name) => self.out.push_str("</div>"),
            _ => {}
        }
    }

    fn is_hidden(&self, tag: &Start) -> bool {
        let has_attribute = |wanted: &str| {
            tag.attributes.iter().any(|attribute| self.text[attribute.name.clone()].eq_ignore_ascii_case(wanted))
        };
        let style: String = self.value(tag, "style").unwrap_or_default().split_whitespace().collect();
        has_attribute("hidden") || style.to_ascii_lowercase().contains("display:none")
    }

    fn value(&self, tag: &Start, name: &str) -> Option<String> {
        let mut attributes = tag.attributes.iter();
        let attribute = attributes.find(|attribute| self.text[attribute.name.clone()].eq_ignore_ascii_case(name))?;
        attribute.value.clone().map(|value| self.text[value].to_owned())
    }

    fn attribute(&mut self, tag: &Start, name: &str) {
        if let Some(value) = self.value(tag, name) {
            self.write_value(&value);
        }
    }

    fn write_value(&mut self, value: &str) {
        let value = value.replace('<', "&lt;").replace('>', "&gt;");
        self.masked.write(&mut self.out, &value, Place::Plain, false);
    }

    /// Writes the address of the open link after its text, unless they are the same or the link has no text.
    fn end_link(&mut self) {
        let Some((href, start)) = self.link.take() else { return };
        let (href, text) = (href.trim(), self.out.get(start..).unwrap_or_default().trim());
        let is_address =
            !href.is_empty() && !href.starts_with('#') && !href.starts_with("mailto:") && !href.starts_with("tel:");
        if is_address && !text.is_empty() && text != href {
            self.out.push_str(" (");
            let href = href.to_owned();
            self.write_value(&href);
            self.out.push(')');
        }
    }
}

/// Puts the tags back. A line of tags that print nothing joins the next line, so that it leaves no empty line.
fn tidy(masked: &Masked, text: &str) -> String {
    let text = text.replace('\u{a0}', " ");
    let mut out = String::with_capacity(text.len());
    let mut is_joined = true;
    for line in text.lines().map(str::trim_end) {
        if is_joined && line.is_empty() {
            continue;
        }
        let tokens = masked.tokens(line);
        let length: usize = tokens.iter().map(|token| token.range.len()).sum();
        let spaces = line.chars().filter(|c| c.is_whitespace()).count();
        let is_control = tokens.iter().all(|token| masked.role(token.number).is_control());
        is_joined = !tokens.is_empty() && is_control && length + spaces == line.len();
        let line = if is_joined { line.trim() } else { line };
        push_line(masked, &mut out, line);
        if !is_joined {
            out.push('\n');
        }
    }
    out
}

/// Appends a line with its tags. Braces in the text do not become tags.
fn push_line(masked: &Masked, out: &mut String, line: &str) {
    let mut end = 0;
    for token in masked.tokens(line) {
        push_literal(out, &line[end..token.range.start], true);
        out.push_str(masked.original(token.number));
        end = token.range.end;
    }
    push_literal(out, &line[end..], false);
}

fn push_literal(out: &mut String, text: &str, is_before_tag: bool) {
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let next = chars.peek().copied().or(is_before_tag.then_some('{'));
        out.push(c);
        if c == '{' && matches!(next, Some('{' | '%' | '#')) {
            out.push(' ');
        }
    }
}

/// Tidies a rendered text that was derived: at most one empty line in a row, and none at the start and the end.
pub(in crate::template) fn tidy_rendered(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut empty_lines = 0;
    for line in text.lines().map(str::trim_end) {
        if line.is_empty() {
            empty_lines += 1;
            continue;
        }
        if !out.is_empty() && empty_lines > 0 {
            out.push('\n');
        }
        empty_lines = 0;
        out.push_str(line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::jinja::scan;

    fn derived(html: &str) -> String {
        derive(html, &scan::tags(html).unwrap()).unwrap()
    }

    #[test]
    fn blocks_links_and_images_become_lines() {
        let html = "<html><head><title>T</title><style>a{}</style></head><body><h1>Hi &amp; welcome</h1><p>One\n two<br>three</p>\
                    <p><a href=\"https://x.test/?a=1&amp;b=2\">Open</a> <a href=\"https://y.test\">https://y.test</a>\
                    <a href=\"https://z.test\"><img alt=\"Logo\" src=x></a><a href=https://n.test><img src=x></a></p>\
                    <ul><li>a</li><li>b</li></ul><!-- no --></body></html>";
        assert_eq!(
            derived(html),
            "Hi & welcome\n\nOne two\nthree\n\nOpen (https://x.test/?a=1&b=2) https://y.testLogo (https://z.test)\n\n* a\n* b\n"
        );
    }

    #[test]
    fn loops_over_rows_and_items_are_kept() {
        let html = "<p>Dear {{ name }},</p><table><tr><th>Item</th><th>Price</th></tr>{% for r in rows %}<tr><td>{{ r.a }}</td>\
                    <td>{{ r.b }}</td></tr>{% endfor %}</table><ul>{% for t in tags %}<li>{{ t }}</li>{% endfor %}</ul><p>Bye</p>";
        assert_eq!(
            derived(html),
            "Dear {{ name }},\n\nItem Price\n{% for r in rows %}{{ r.a }} {{ r.b }}\n{% endfor %}{% for t in tags %}\
             * {{ t }}\n{% endfor %}Bye\n"
        );
    }

    #[test]
    fn hidden_elements_are_left_out_but_assignments_stay() {
        let html = "<head>{% set x = 1 %}<style>{{ c }}</style></head><div style=\"DISPLAY : none\"><div>{{ pre }}</div>{% if a %}\
                    {% endif %}</div><span hidden>h</span><p>{{ x }}</p>";
        let text = derived(html);
        assert_eq!(text, "{% set x = 1 %}{{ x }}\n");
    }

    #[test]
    fn links_with_tags_keep_their_loop() {
        let html = "{% for r in rows %}<a href=\"{{ r.url }}\">{{ r.name }}</a><br>{% endfor %}";
        assert_eq!(derived(html), "{% for r in rows %}{{ r.name }} ({{ r.url }})\n{% endfor %}");
    }

    #[test]
    fn braces_do_not_become_tags() {
        assert_eq!(derived("<p>&#123;&#123; x }} &#123;{{ y }}</p>"), "{ { x }} { {{ y }}\n");
    }

    #[test]
    fn long_lines_are_not_broken() {
        let word = "x".repeat(2_000);
        assert_eq!(derived(&format!("<p>{word} {word} {{{{ y }}}}</p>")), format!("{word} {word} {{{{ y }}}}\n"));
    }

    #[test]
    fn rendered_text_has_no_runs_of_empty_lines() {
        assert_eq!(tidy_rendered("\n\na  \n\n\n\nb\nc\n\n"), "a\n\nb\nc\n");
        assert_eq!(tidy_rendered("\n \n"), "");
    }
}
