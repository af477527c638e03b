//! Compiles MJML to HTML.
//!
//! `mrml` 6 overflows the stack on deep input, which aborts the process, and repeats attributes without a limit. So
//! depth, size and repetitions are checked before `mrml` parses the text; the caller provides a thread with a stack of
//! known size. `mj-include` is refused: layouts serve the same purpose.

use htmlparser::{ElementEnd, Token, Tokenizer};
use mrml::prelude::parser::{Error, ParserOptions, Span};
use mrml::prelude::render::RenderOptions;

use crate::domain::api::fault::Code;
use crate::template::faults::Located;
use crate::template::limits::{MAX_COMPILED, MAX_MJML, MAX_MJML_DEPTH};

use super::tags::{Masked, Place, Tag};
use super::{Event, Start, events};

const WHAT: &str = "compiling the MJML";
/// Maximum number of elements.
const MAX_ELEMENTS: usize = 5_000;
/// Maximum number of `mj-carousel-image`, whose CSS grows with the square of their number.
const MAX_CAROUSEL_IMAGES: usize = 20;
/// Maximum bytes of default attributes (`mj-attributes`), times the number of elements.
const MAX_DEFAULTS: usize = 4 * 1024 * 1024;

/// Elements that contain only other elements. Between these, a template tag is masked as a comment.
const STRUCTURE: [&str; 15] = [
    "mjml",
    "mj-head",
    "mj-attributes",
    "mj-body",
    "mj-wrapper",
    "mj-section",
    "mj-column",
    "mj-group",
    "mj-hero",
    "mj-navbar",
    "mj-social",
    "mj-accordion",
    "mj-accordion-element",
    "mj-carousel",
    "mj-html-attributes",
];
/// Elements in the head whose content may be repeated in the HTML.
const REPEATED: [&str; 2] = ["mj-title", "mj-preview"];

/// Elements that the compiler parses without content and without an end tag.
const VOID: [&str; 14] =
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"];

/// MJML compiled to HTML.
#[derive(Debug)]
pub(in crate::template) struct Compiled {
    pub(in crate::template) html: String,
    /// The CSS of `<mj-style inline="inline">`.
    pub(in crate::template) inline_css: Option<String>,
}

/// Compiles an MJML template.
pub(in crate::template) fn compile(source: &str, tags: &[Tag]) -> Result<Compiled, Located> {
    if source.len() > MAX_MJML {
        let message = format!("MJML with its layouts must have at most {MAX_MJML} bytes, but has {}", source.len());
        return Err(Located::new(0, Code::TooLarge, message));
    }
    let mut masked = Masked::new(source, tags);
    let input = Writer::new(&mut masked).write()?;
    check_depth(&input.mjml)
        .map_err(|(at, message)| Located::new(input.source_offset(&masked, at), Code::InvalidMjml, message))?;
    let parsed = mrml::parse_with_options(&input.mjml, &ParserOptions::default());
    let parsed = parsed.map_err(|error| parse_fault(&masked, &input, &error))?;
    let rendered = parsed.element.render(&RenderOptions::default());
    let html =
        rendered.map_err(|error| Located::new(0, Code::InvalidMjml, format!("the MJML is not valid: {error}")))?;
    if html.len() > MAX_COMPILED {
        let message = format!("the HTML is larger than {MAX_COMPILED} bytes; use fewer elements and attributes");
        return Err(Located::new(0, Code::TooLarge, message));
    }
    let html = restore(&masked, &without_tag_starts(&html))?;
    Ok(Compiled { html: [input.before, html, input.after].concat(), inline_css: input.inline_css })
}

/// Separates braces in the CSS of the compiler, such as `{#id`, which would start a tag.
fn without_tag_starts(html: &str) -> String {
    html.replace("{{", "{ {").replace("{%", "{ %").replace("{#", "{ #")
}

/// The text that the compiler receives.
#[derive(Debug, Default)]
struct Input {
    mjml: String,
    /// The template tags in front of `<mjml>` and after `</mjml>`, which the compiler would drop.
    before: String,
    after: String,
    inline_css: Option<String>,
    /// Positions of the same event: the byte offset in `mjml`, and the one in the masked text.
    offsets: Vec<(usize, usize)>,
}

impl Input {
    fn source_offset(&self, masked: &Masked, at: usize) -> usize {
        let index = self.offsets.partition_point(|(written, _)| *written <= at).saturating_sub(1);
        let offset = self.offsets.get(index).map_or(0, |(written, offset)| offset + (at - written));
        masked.source_offset(offset.min(masked.text.len()))
    }
}

/// Writes the masked text for the compiler, and limits everything that makes the compiled HTML much larger than the
/// text.
struct Writer<'m> {
    masked: &'m mut Masked,
    text: String,
    input: Input,
    /// The names of the open elements.
    open: Vec<String>,
    elements: usize,
    carousel_images: usize,
    defaults: usize,
    is_inline_style: bool,
}

impl<'m> Writer<'m> {
    fn new(masked: &'m mut Masked) -> Self {
        let text = masked.text.clone();
        Self {
            masked,
            text,
            input: Input::default(),
            open: Vec::new(),
            elements: 0,
            carousel_images: 0,
            defaults: 0,
            is_inline_style: false,
        }
    }

    fn write(mut self) -> Result<Input, Located> {
        for event in events(&self.text.clone()) {
            let start = match &event {
                Event::Text(span)
                | Event::Raw(span)
                | Event::Comment(span)
                | Event::Doctype(span)
                | Event::Bogus(span)
                | Event::End { span, .. } => span.start,
                Event::Start(tag) => tag.span.start,
            };
            self.input.offsets.push((self.input.mjml.len(), start));
            match event {
                Event::Text(span) | Event::Raw(span) => self.content(span)?,
                Event::Start(tag) => self.start(&tag)?,
                Event::End { name, span } => self.end(name, span),
                Event::Comment(span) => self.plain(span, true),
                Event::Doctype(span) | Event::Bogus(span) => self.plain(span, false),
            }
        }
        if self.defaults.saturating_mul(self.elements) > MAX_DEFAULTS {
            let message = "the attributes in `mj-attributes` are too long for so many elements; use CSS classes";
            return Err(Located::new(0, Code::TooLarge, message));
        }
        Ok(self.input)
    }

    fn plain(&mut self, span: std::ops::Range<usize>, may_repeat: bool) {
        let text = self.text[span].to_owned();
        self.masked.write(&mut self.input.mjml, &text, Place::Plain, may_repeat);
    }

    fn content(&mut self, span: std::ops::Range<usize>) -> Result<(), Located> {
        let text = self.text[span.clone()].to_owned();
        if self.is_inline_style {
            if let Some(token) = self.masked.tokens(&text).first() {
                return Err(self.masked.fault(token.number, "is in a `mj-style` with `inline`"));
            }
            self.input.inline_css.get_or_insert_default().push_str(&text);
            return Ok(());
        }
        match self.open.last().map(String::as_str) {
            None => {
                let has_element = self.elements > 0;
                for token in self.masked.tokens(&text) {
                    let tag = self.masked.original(token.number);
                    let out = if has_element { &mut self.input.after } else { &mut self.input.before };
                    out.push_str(tag);
                }
                let rest = self.masked.tokens(&text).into_iter().rev().fold(text, |mut text, token| {
                    text.replace_range(token.range, "");
                    text
                });
                self.input.mjml.push_str(&rest);
            }
            Some(parent) => {
                let place = if STRUCTURE.contains(&parent) { Place::Comment } else { Place::Plain };
                let may_repeat = REPEATED.contains(&parent);
                self.masked.write(&mut self.input.mjml, &text, place, may_repeat);
            }
        }
        Ok(())
    }

    fn start(&mut self, tag: &Start) -> Result<(), Located> {
        let name = self.text[tag.name.clone()].to_ascii_lowercase();
        let at = self.masked.source_offset(tag.span.start);
        let fault = |code, message: String| Err(Located::new(at, code, message));
        self.elements += 1;
        self.carousel_images += usize::from(name == "mj-carousel-image");
        if let Some(token) = self.masked.tokens(&self.text[tag.name.clone()]).first() {
            return Err(self.masked.fault(token.number, "is in the name of an element"));
        }
        if name == "mj-include" {
            return fault(Code::NotAvailable, "`mj-include` is not available; use a layout, or {% include %}".into());
        }
        if self.elements > MAX_ELEMENTS {
            return fault(Code::TooLarge, format!("MJML has at most {MAX_ELEMENTS} elements"));
        }
        if self.carousel_images > MAX_CAROUSEL_IMAGES {
            return fault(
                Code::TooLarge,
                format!("MJML has at most {MAX_CAROUSEL_IMAGES} `mj-carousel-image` elements"),
            );
        }
        if self.open.iter().any(|open| open == "mj-attributes") {
            self.defaults += tag.span.len();
        }
        let is_inline = |attribute: &super::Attribute| {
            let value = attribute.value.clone().map(|value| &self.text[value]);
            self.text[attribute.name.clone()] == *"inline" && value == Some("inline")
        };
        self.is_inline_style = name == "mj-style" && tag.attributes.iter().any(is_inline);
        if !self.is_inline_style {
            self.plain(tag.span.clone(), true);
        }
        if !tag.self_closing && !super::is_void(&name) {
            self.open.push(name);
        } else {
            self.is_inline_style = false;
        }
        Ok(())
    }

    fn end(&mut self, name: std::ops::Range<usize>, span: std::ops::Range<usize>) {
        let name = self.text[name].to_ascii_lowercase();
        if let Some(at) = self.open.iter().rposition(|open| *open == name) {
            self.open.truncate(at);
        }
        if !(self.is_inline_style && name == "mj-style") {
            self.plain(span, false);
        }
        self.is_inline_style = false;
    }
}

/// Checks the depth of elements as the compiler counts it. The error contains the byte offset.
fn check_depth(mjml: &str) -> Result<(), (usize, String)> {
    let (mut depth, mut is_void) = (0_usize, false);
    for token in Tokenizer::from(mjml) {
        match token {
            Ok(Token::ElementStart { local, span, .. }) => {
                is_void = VOID.contains(&local.as_str());
                depth += 1;
                if depth > MAX_MJML_DEPTH {
                    return Err((
                        span.start(),
                        format!("elements are nested more than {MAX_MJML_DEPTH} deep; nest them less"),
                    ));
                }
            }
            Ok(Token::ElementEnd { end: ElementEnd::Open, .. }) if !is_void => {}
            Ok(Token::ElementEnd { .. }) => depth = depth.saturating_sub(1),
            Ok(_) => {}
            Err(error) => return Err((0, format!("the MJML cannot be parsed: {error}"))),
        }
    }
    Ok(())
}

fn parse_fault(masked: &Masked, input: &Input, error: &Error) -> Located {
    let at = |span: &Span| input.source_offset(masked, span.start);
    let (offset, message) = match error {
        Error::UnexpectedElement { position, .. } => (at(position), "this element is not allowed here".to_owned()),
        Error::UnexpectedToken { position, .. } => {
            (at(position), "text is not allowed here; put it in an element such as `mj-text` or `mj-raw`".to_owned())
        }
        Error::MissingAttribute { name, position, .. } => (at(position), format!("the attribute `{name}` is missing")),
        Error::InvalidAttribute { position, .. } => (at(position), "the attribute is not valid".to_owned()),
        Error::InvalidFormat { position, .. } => (at(position), "the value has a wrong format".to_owned()),
        Error::IncludeLoaderError { position, .. } => (at(position), "`mj-include` is not available".to_owned()),
        Error::EndOfStream { .. } => (masked.source_offset(masked.text.len()), "an element is not closed".to_owned()),
        Error::NoRootNode => (0, "the element `mjml` is missing".to_owned()),
        Error::ParserError { source, .. } => (0, format!("the MJML cannot be parsed: {source}")),
        Error::SizeLimit { .. } => (0, "the MJML is too large".to_owned()),
    };
    Located::new(offset, Code::InvalidMjml, message)
}

/// Puts the tags back into the HTML of the compiler.
fn restore(masked: &Masked, html: &str) -> Result<String, Located> {
    masked.check(html, WHAT)?;
    let mut out = String::with_capacity(html.len() * 2);
    for event in events(html) {
        match event {
            Event::Comment(span) => {
                let inner = html[span.clone()].strip_prefix("<!--").and_then(|inner| inner.strip_suffix("-->"));
                let tokens = masked.tokens(&html[span.clone()]);
                match tokens.first() {
                    Some(token) if inner.is_some_and(|inner| inner.len() == token.range.len()) => {
                        out.push_str(masked.original(token.number));
                    }
                    _ => match tokens.iter().find(|token| masked.place(token.number) == Place::Comment) {
                        Some(token) => return Err(masked.fault(token.number, format!("is moved by {WHAT}"))),
                        None => out.push_str(&masked.unmasked(&html[span])),
                    },
                }
            }
            Event::Text(span)
            | Event::Raw(span)
            | Event::Doctype(span)
            | Event::Bogus(span)
            | Event::End { span, .. } => {
                out.push_str(&masked.unmasked(&html[span]));
            }
            Event::Start(tag) => out.push_str(&masked.unmasked(&html[tag.span])),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::jinja::scan;

    fn compiled(source: &str) -> Result<Compiled, Located> {
        compile(source, &scan::tags(source).unwrap())
    }

    fn body(content: &str) -> String {
        format!("<mjml><mj-body><mj-section><mj-column>{content}</mj-column></mj-section></mj-body></mjml>")
    }

    #[test]
    fn tags_survive_in_text_attributes_and_between_elements() {
        let source = body(
            "{% for r in rows %}<mj-text color=\"{{ c|default(\"red\") }}\">{{ r.a }}\n{{ r.b }}{% if r.a < 3 %}!{% endif %}</mj-text>\
             {% endfor %}<mj-button href=\"{{ url }}\">{{ label }}</mj-button>",
        );
        let html = compiled(&source).unwrap().html;
        for part in [
            "{% for r in rows %}<tr>",
            "</tr>{% endfor %}",
            "{{ r.a }}\n{{ r.b }}{% if r.a < 3 %}!{% endif %}",
            "color:{{ c|default(\"red\") }}",
            "href=\"{{ url }}\"",
            "{{ label }}",
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
    }

    #[test]
    fn sections_and_columns_can_be_repeated() {
        let source = "{% set x = 1 %}<mjml><mj-body>{% for s in sections %}<mj-section>{% if s.a %}<mj-column><mj-table>\
                      {% for r in s.rows %}<tr><td>{{ r }}</td></tr>{% endfor %}</mj-table></mj-column>{% endif %}\
                      </mj-section>{% endfor %}</mj-body></mjml>{# end #}";
        let html = compiled(source).unwrap().html;
        assert!(html.starts_with("{% set x = 1 %}") && html.ends_with("{# end #}"), "{html}");
        assert!(html.contains("{% for r in s.rows %}<tr><td>{{ r }}</td></tr>{% endfor %}"), "{html}");
    }

    #[test]
    fn deep_mjml_is_a_fault() {
        for source in [
            body(&"<div>".repeat(20_000)),
            body(&format!("<mj-raw>{}</mj-raw>", "<a>".repeat(20_000))),
            body(&format!("<mj-raw><script>{}</script></mj-raw>", "<a>".repeat(200))),
            body(&format!("<mj-raw><style><!-- </b> -->{}</style></mj-raw>", "<frame>".repeat(200))),
            format!("<mjml><mj-body>{}</mj-body></mjml>", "<mj-wrapper>".repeat(3_000)),
        ] {
            let fault = compiled(&source).unwrap_err();
            assert!(fault.message.contains("nested") || fault.message.contains("elements"), "{}", fault.message);
        }
        let deepest = MAX_MJML_DEPTH - 5;
        assert!(
            compiled(&body(&format!("<mj-text>{}x{}</mj-text>", "<b>".repeat(deepest), "</b>".repeat(deepest))))
                .is_ok()
        );
    }

    #[test]
    fn includes_and_faults_name_their_place() {
        let source = "<mjml>\n<mj-body><mj-include path=\"/etc/passwd\" /></mj-body></mjml>";
        let fault = compiled(source).unwrap_err();
        assert_eq!((fault.code, fault.offset), (Code::NotAvailable, 16));
        let fault = compiled("<mjml><mj-head><mj-oops/></mj-head></mjml>").unwrap_err();
        assert_eq!((fault.code, fault.offset), (Code::InvalidMjml, 16));
        for source in ["", "<p>x</p>", "<mjml><mj-body>", "<mjml><mj-body><", "{{ x }}"] {
            assert!(compiled(source).is_err(), "{source}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let attributes = format!(
            "<mj-head><mj-attributes><mj-class name=\"a\" color=\"{}\"/></mj-attributes></mj-head>",
            "x".repeat(50_000)
        );
        let texts = "<mj-text mj-class=\"a\">x</mj-text>".repeat(500);
        for source in [
            body(&texts).replace("<mjml>", &format!("<mjml>{attributes}")),
            body(&"<mj-spacer/>".repeat(MAX_ELEMENTS)),
            body(&format!("<mj-carousel>{}</mj-carousel>", "<mj-carousel-image src=\"x\"/>".repeat(100))),
            body(&"x".repeat(MAX_MJML)),
        ] {
            assert_eq!(compiled(&source).unwrap_err().code, Code::TooLarge);
        }
    }

    #[test]
    fn inline_styles_are_returned() {
        let source = body("<mj-text css-class=\"a\">x</mj-text>");
        let source =
            source.replace("<mjml>", "<mjml><mj-head><mj-style inline=\"inline\">.a > b { c: d }</mj-style></mj-head>");
        let compiled = compiled(&source).unwrap();
        assert_eq!(compiled.inline_css.as_deref(), Some(".a > b { c: d }"));
        assert!(!compiled.html.contains(".a > b"), "{}", compiled.html);
    }
}
