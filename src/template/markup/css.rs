//! Copies CSS rules from `style` elements to `style` attributes, because several mail clients drop the elements.
//!
//! Nothing is loaded: neither linked style sheets nor `@import` nor `url()`. Rules that cannot be inlined stay in their
//! element: `@media`, `:hover`, and all rules if classes or ids depend on template tags.

use std::borrow::Cow;
use std::io;

use css_inline::{CSSInliner, InlineError};

use crate::domain::api::fault::Code;
use crate::template::faults::Located;
use crate::template::limits::MAX_COMPILED;
use crate::template::source::WarningCode;

use super::extract::{Extracted, extract, restore, unbalanced};
use super::tags::{Masked, Tag};
use super::{Event, css_cost, events, tree};

const OPERATION: &str = "inlining CSS";

/// An HTML template whose CSS is inlined.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::template) struct Inlined {
    pub(in crate::template) html: String,
    /// The warnings, each with the byte offset in the source that it is about.
    pub(in crate::template) warnings: Vec<(usize, WarningCode, String)>,
}

/// Inlines the rules of the `style` elements. With `extra_css`, inlines its rules instead, and leaves the elements as they
/// are.
pub(in crate::template) fn inline(source: &str, tags: &[Tag], extra_css: Option<&str>) -> Result<Inlined, Located> {
    let mut masked = Masked::new(source, tags);
    let mut inlined = Inlined { html: source.to_owned(), warnings: Vec::new() };
    let css = style_sheets(&masked, extra_css, &mut inlined.warnings);
    if css.is_empty() {
        return Ok(inlined);
    }
    if let Some((offset, element)) = unbalanced(&masked) {
        let message = format!(
            "The element `{element}` is opened and closed in different branches of the template, so CSS is not inlined. \
             Close it in the branch where it is opened, or put the condition into its attributes."
        );
        inlined.warnings.push((offset, WarningCode::CssNotInlined, message));
        return Ok(inlined);
    }
    let extracted = extract(&mut masked)?;
    for offset in &extracted.opaque_styles {
        let message =
            "A `style` element with template tags is not inlined. Move the rules without tags to another one.";
        inlined.warnings.push((*offset, WarningCode::CssNotInlined, message.to_owned()));
    }
    let too_large = |message: String| Located::new(0, Code::TooLarge, message);
    tree::check(&extracted.html).map_err(too_large)?;
    css_cost::check(&extracted.html, &css).map_err(too_large)?;
    let output = run(&extracted, extra_css)?;
    inlined.html = restore(&masked, &extracted, &output, OPERATION)?;
    Ok(inlined)
}

/// Returns the CSS to inline, and adds a warning for each style sheet that is not loaded.
fn style_sheets(masked: &Masked, extra: Option<&str>, warnings: &mut Vec<(usize, WarningCode, String)>) -> String {
    let text = &masked.text;
    let mut css = extra.unwrap_or_default().to_owned();
    let mut is_style = false;
    for event in events(text) {
        match &event {
            Event::Start(tag) if text[tag.name.clone()].eq_ignore_ascii_case("link") => {
                let is_sheet = tag.attributes.iter().any(|attribute| {
                    let value = attribute.value.clone().map_or("", |value| &text[value]);
                    text[attribute.name.clone()].eq_ignore_ascii_case("rel") && value.eq_ignore_ascii_case("stylesheet")
                });
                if is_sheet && extra.is_none() {
                    let message =
                        "A linked style sheet is not loaded, and most mail clients ignore it. Use a `style` element.";
                    let offset = masked.source_offset(tag.span.start);
                    warnings.push((offset, WarningCode::StylesheetNotLoaded, message.to_owned()));
                }
            }
            Event::Raw(span) if is_style && extra.is_none() => {
                let content = &text[span.clone()];
                if content.contains("@import") {
                    let message = "`@import` is not loaded, and most mail clients ignore it. Copy the rules.";
                    let offset = masked.source_offset(span.start);
                    warnings.push((offset, WarningCode::StylesheetNotLoaded, message.to_owned()));
                }
                if !masked.has_token(content) {
                    css.push_str(content);
                    css.push('\n');
                }
            }
            _ => {}
        }
        is_style = matches!(&event, Event::Start(tag) if text[tag.name.clone()].eq_ignore_ascii_case("style"));
    }
    if css.trim().is_empty() { String::new() } else { css }
}

fn run(extracted: &Extracted, extra_css: Option<&str>) -> Result<String, Located> {
    let has_extra = extra_css.is_some();
    let keeps_all = has_extra || extracted.is_dynamic;
    let inliner: CSSInliner<'_> = CSSInliner::options()
        .load_remote_stylesheets(false)
        .keep_link_tags(true)
        .inline_style_tags(!has_extra)
        .extra_css(extra_css.map(Cow::Borrowed))
        .keep_at_rules(!has_extra)
        .keep_style_tags(keeps_all)
        .remove_inlined_selectors(!keeps_all)
        .build();
    let mut out = Limited { bytes: Vec::with_capacity(extracted.html.len() * 2) };
    inliner.inline_to(&extracted.html, &mut out).map_err(|error| match error {
        InlineError::IO(_) => Located::new(
            0,
            Code::TooLarge,
            format!("with inlined CSS, the HTML is larger than {MAX_COMPILED} bytes; use fewer rules or elements"),
        ),
        error => Located::new(0, Code::InvalidTemplate, format!("the CSS cannot be inlined: {error}")),
    })?;
    String::from_utf8(out.bytes)
        .map_err(|_| Located::new(0, Code::InvalidTemplate, "the CSS cannot be inlined: the result is not UTF-8"))
}

/// A buffer that refuses to grow beyond [`MAX_COMPILED`].
struct Limited {
    bytes: Vec<u8>,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_COMPILED {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::jinja::scan;

    fn inlined(source: &str) -> Inlined {
        inline(source, &scan::tags(source).unwrap(), None).unwrap()
    }

    fn document(style: &str, body: &str) -> String {
        format!("<!DOCTYPE html><html><head><style>{style}</style></head><body>{body}</body></html>")
    }

    #[test]
    fn loop_over_table_rows_survives() {
        let rows = "<table><tbody>{% for r in rows %}<tr><td>{{ r.a }}</td></tr>{% endfor %}</tbody></table>";
        let html = inlined(&document("td { color: red }", rows)).html;
        let expected = "<table><tbody>{% for r in rows %}<tr><td style=\"color: red;\">{{ r.a }}</td></tr>{% endfor %}\
                        </tbody></table>";
        assert!(html.contains(expected), "{html}");
    }

    #[test]
    fn loop_without_table_body_survives() {
        let rows = "<table>{% for r in rows %}<tr><td>{{ r.a }}</td></tr>{% endfor %}</table>";
        let html = inlined(&document("td { color: red }", rows)).html;
        let expected =
            "<table>{% for r in rows %}<tr><td style=\"color: red;\">{{ r.a }}</td></tr>{% endfor %}</table>";
        assert!(html.contains(expected), "{html}");
    }

    #[test]
    fn operators_in_conditions_and_quotes_in_filters_survive() {
        let body = "{% if a < b and c > \"<\" %}<a href=\"{{ u|default(\"https://x/?a=1&b=2\") }}\">x</a>{% endif %}";
        let html = inlined(&document("a { color: red }", body)).html;
        assert!(
            html.contains("{% if a < b and c > \"<\" %}<a href=\"{{ u|default(\"https://x/?a=1&b=2\") }}\""),
            "{html}"
        );
        assert!(html.contains("style=\"color: red;\""), "{html}");
    }

    #[test]
    fn html_without_css_is_left_as_it_is() {
        for source in ["<P>x</p >{{ x }}", "<style></style><table>{{ x }}", "<style>{{ x }}</style><a>"] {
            assert_eq!(inlined(source).html, source);
        }
    }

    #[test]
    fn style_attributes_with_tags_keep_precedence() {
        let html =
            inlined(&document("p { margin: 0; color: red }", "<p style='color:{{ c|default(\"a\") }}'>x</p>")).html;
        assert!(html.contains("<p style='margin: 0;color: red;color:{{ c|default(\"a\") }}'>"), "{html}");
    }

    #[test]
    fn attributes_in_conditions_stay() {
        let html =
            inlined(&document("td { a: b } .x { c: d }", "<table><tr><td {% if a %}class=\"x\"{% endif %}>y")).html;
        assert!(html.contains("<td {% if a %}class=\"x\"{% endif %} style=\"a: b;\">"), "{html}");
        assert!(html.contains(".x { c: d }"), "rules for dynamic classes are kept: {html}");
    }

    #[test]
    fn at_rules_and_pseudo_classes_stay_in_the_element() {
        let html = inlined(&document("a { b: c } a:hover { d: e } @media print { a { f: g } }", "<a>x</a>")).html;
        assert!(html.contains("@media print") && html.contains("a:hover"), "{html}");
        assert!(html.contains("<a style=\"b: c;\">"), "{html}");
    }

    #[test]
    fn nothing_is_loaded() {
        let source = "<link rel=stylesheet href=\"file:///etc/passwd\"><link rel=stylesheet href=\"http://127.0.0.1:1/a.css\">\
                      <style>@import url(http://127.0.0.1:1/b.css); a { background: url(http://127.0.0.1:1/c.png) }</style><a>x</a>";
        let inlined = inlined(source);
        let codes: Vec<WarningCode> = inlined.warnings.iter().map(|(_, code, _)| *code).collect();
        assert_eq!(codes, [WarningCode::StylesheetNotLoaded; 3]);
        assert!(inlined.html.contains("style=\"background: url(http://127.0.0.1:1/c.png);\""), "{}", inlined.html);
    }

    #[test]
    fn unbalanced_branches_are_not_inlined() {
        let source = document("div { a: b }", "{% if a %}<div>{% else %}<div class=b>{% endif %}x</div>");
        let inlined = inlined(&source);
        assert_eq!(inlined.html, source);
        assert_eq!(inlined.warnings[0].1, WarningCode::CssNotInlined);
    }

    #[test]
    fn styles_with_tags_are_left_as_they_are() {
        let source = "<style>a { color: {{ c }} }</style><style>a { b: c }</style><a>{% raw %}{{{% endraw %}</a>";
        let source = &crate::template::jinja::scan::without_raw(source).unwrap();
        let inlined = inlined(source);
        assert!(inlined.html.contains("<style>a { color: {{ c }} }</style>"), "{}", inlined.html);
        assert!(inlined.html.contains("style=\"b: c;\""), "{}", inlined.html);
        assert_eq!(inlined.warnings.len(), 1);
    }

    #[test]
    fn extra_css_leaves_style_elements_alone() {
        let source = document("a { x: y }", "<a class=b>{{ x }}</a>");
        let html = inline(&source, &scan::tags(&source).unwrap(), Some(".b { c: d }")).unwrap().html;
        assert!(html.contains("<style>a { x: y }</style>") && html.contains("style=\"c: d;\""), "{html}");
    }

    #[test]
    fn doctype_is_kept() {
        let doctype = "<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\" \"http://www.w3.org/x.dtd\">";
        let html = inlined(&format!("{doctype}<style>a {{ b: c }}</style><a>x</a>")).html;
        assert!(html.starts_with(doctype), "{html}");
    }

    #[test]
    fn encoded_braces_do_not_become_tags() {
        let html = inlined("<style>a { b: c }</style><a>&#123;&#123; x }}&#123;{{ y }}</a>").html;
        assert!(html.contains("&#123;{ x }}&#123;{{ y }}"), "{html}");
    }
}
