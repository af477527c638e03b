//! Compiles a template when it is published.

use serde::{Deserialize, Serialize};

use crate::domain::api::fault::{Code, Fault, Faults};

use super::faults::{Located, Part, fault, push};
use super::jinja::analyse::analyse;
use super::jinja::engine;
use super::jinja::flatten::{Flat, flatten};
use super::jinja::shape::Shapes;
use super::jinja::{parse, scan};
use super::layouts::Layouts;
use super::limits::{MAX_LINE_SOURCE, MAX_REPLY_TO, MAX_SOURCE, SIZE_THAT_CLIENTS_TRUNCATE};
use super::markup::tags::Tag;
use super::markup::{css, mjml, text};
use super::source::{Format, Source, Syntax, Variable, Warning, WarningCode};
use super::values::check_declarations;
use super::{thread, vars};

/// A published version of a template, from which messages are rendered. It is stored as JSON, contains its layouts, and
/// does not change when they do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compiled {
    /// The language of the placeholders.
    pub syntax: Syntax,
    /// The subject.
    pub subject: Option<String>,
    /// The HTML body, with CSS inlined.
    pub html: Option<String>,
    /// The plain text body, given or derived.
    pub text: Option<String>,
    /// Whether the plain text body is derived, so that empty lines do not matter.
    #[serde(default)]
    pub is_text_derived: bool,
    /// The sender.
    pub from: Option<String>,
    /// Addresses of the `Reply-To` header.
    pub reply_to: Vec<String>,
    /// The variables that the template and its layouts declare.
    pub variables: Vec<Variable>,
    /// Problems that did not prevent publication.
    pub warnings: Vec<Warning>,
}

/// Compiles a template. Returns all faults at once, with pointers such as `/html` and messages that name the line and
/// column.
///
/// CPU-bound, up to about 100 ms: call it on a blocking thread. It runs on a thread of its own, because parsers need a
/// stack of known size.
pub fn compile(source: &Source, layouts: &Layouts) -> Result<Compiled, Vec<Fault>> {
    let outcome = thread::run(|| Work::new(source, layouts, true).run()).map_err(|fault| vec![fault])?;
    outcome.compiled.ok_or(outcome.faults)
}

/// A value that is printed without escaping: the part, the line and the column.
pub(super) type Unescaped = (String, usize, usize);

/// The result of compiling a template.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The compiled template, unless there are faults.
    pub(super) compiled: Option<Compiled>,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Warning>,
    pub(super) shapes: Shapes,
    pub(super) unescaped: Vec<Unescaped>,
}

/// The compilation of one template.
pub(super) struct Work<'s> {
    source: &'s Source,
    layouts: &'s Layouts,
    /// Whether undeclared variables are faults.
    needs_declarations: bool,
    variables: Vec<Variable>,
    faults: Faults,
    warnings: Vec<Warning>,
    shapes: Shapes,
    unescaped: Vec<Unescaped>,
}

impl<'s> Work<'s> {
    pub(super) fn new(source: &'s Source, layouts: &'s Layouts, needs_declarations: bool) -> Self {
        let mut variables = source.variables.clone();
        for variable in layouts.variables() {
            if variables.iter().all(|own| own.key != variable.key) {
                variables.push(variable.clone());
            }
        }
        Self {
            source,
            layouts,
            needs_declarations,
            variables,
            faults: Faults::default(),
            warnings: Vec::new(),
            shapes: Shapes::default(),
            unescaped: Vec::new(),
        }
    }

    pub(super) fn run(mut self) -> Outcome {
        check_declarations(&self.variables, self.source.syntax, &mut self.faults);
        self.check_layouts();
        let subject = self.line(Part::Subject, self.source.subject.as_deref());
        let from = self.line(Part::From, self.source.from.as_deref());
        if self.source.reply_to.len() > MAX_REPLY_TO {
            self.faults.push("/reply_to", Code::TooMany, format!("there are at most {MAX_REPLY_TO} addresses"));
        }
        let addresses = self.source.reply_to.iter().take(MAX_REPLY_TO).enumerate();
        let reply_to = addresses.filter_map(|(index, text)| self.line(Part::ReplyTo(index), Some(text))).collect();
        let html = self.html();
        let (text, is_text_derived) = self.text(html.as_deref());
        self.warn_of_unused_variables();
        let compiled = Compiled {
            syntax: self.source.syntax,
            subject,
            html,
            text,
            is_text_derived,
            from,
            reply_to,
            variables: self.variables,
            warnings: self.warnings.clone(),
        };
        Outcome {
            compiled: self.faults.is_empty().then_some(compiled),
            faults: self.faults.into_vec(),
            warnings: self.warnings,
            shapes: self.shapes,
            unescaped: self.unescaped,
        }
    }

    fn warn(&mut self, part: Part, code: WarningCode, message: impl Into<String>) {
        self.warnings.push(Warning { code, pointer: part.pointer(), message: message.into() });
    }

    fn check_layouts(&mut self) {
        if self.source.syntax == Syntax::Vars && self.source.layout.is_some() {
            self.faults.push("/layout", Code::InvalidValue, "a layout needs the syntax `jinja`");
        }
        for (name, layout) in self.layouts.layouts() {
            let message = if layout.source.syntax == Syntax::Vars {
                format!("the layout `{name}` has the syntax `vars`; a layout needs `jinja`")
            } else if layout.source.format != self.source.format {
                format!("the layout `{name}` has another `format`; use the same in both")
            } else {
                continue;
            };
            self.faults.push("/layout", Code::UnknownLayout, message);
        }
    }

    /// Checks a part of one line.
    fn line(&mut self, part: Part, source: Option<&str>) -> Option<String> {
        let source = source.filter(|source| !source.trim().is_empty())?;
        if source.chars().count() > MAX_LINE_SOURCE {
            let message = format!("`{}` has at most {MAX_LINE_SOURCE} characters", part.name());
            self.faults.push(part.pointer(), Code::TooLong, message);
            return None;
        }
        if source.contains(char::is_control) {
            let message = format!("`{}` must not contain line breaks and other control characters", part.name());
            self.faults.push(part.pointer(), Code::ControlCharacter, message);
            return None;
        }
        let text = self.without_raw(part, source)?;
        let flat = Flat::plain(&text);
        self.analyse(part, &flat)?;
        self.prepared(part, flat.text, false)
    }

    /// Checks the size and the characters of a body.
    fn body(&mut self, part: Part, source: Option<&'s String>) -> Option<&'s str> {
        let source = source.map(String::as_str).filter(|source| !source.trim().is_empty())?;
        if source.len() > MAX_SOURCE {
            let message = format!("`{}` must have at most {MAX_SOURCE} bytes, but has {}", part.name(), source.len());
            self.faults.push(part.pointer(), Code::TooLarge, message);
            return None;
        }
        if let Some(at) = source.find('\0') {
            let located = Located::new(at, Code::ControlCharacter, "NUL (U+0000) is not allowed");
            push(&mut self.faults, part, source, &located);
            return None;
        }
        Some(source)
    }

    fn without_raw(&mut self, part: Part, source: &str) -> Option<String> {
        if self.source.syntax == Syntax::Vars {
            return Some(source.to_owned());
        }
        scan::without_raw(source).map_err(|located| push(&mut self.faults, part, source, &located)).ok()
    }

    fn tags(&self, source: &str) -> Result<Vec<Tag>, Located> {
        match self.source.syntax {
            Syntax::Jinja => scan::tags(source),
            Syntax::Vars => vars::tags(source),
        }
    }

    /// Inserts the layouts, and finds the variables.
    fn flat(&mut self, part: Part, source: &str) -> Option<Flat> {
        let flat = match self.source.syntax {
            Syntax::Vars => Ok(Flat::plain(source)),
            Syntax::Jinja => {
                // If the layout has no plain text body, that of the template is used without a layout.
                let layout = self.source.layout.as_deref().filter(|name| part == Part::Html || self.has_text(name));
                flatten(part, source, layout, self.layouts)
            }
        };
        let flat = flat.map_err(|fault| self.faults.push(fault.pointer, fault.code, fault.message)).ok()?;
        self.analyse(part, &flat)?;
        Some(flat)
    }

    fn has_text(&self, layout: &str) -> bool {
        self.layouts.get(layout).is_ok_and(|layout| layout.source.text.is_some())
    }

    /// Checks the syntax of a part, and finds its variables.
    fn analyse(&mut self, part: Part, flat: &Flat) -> Option<()> {
        let located = match self.source.syntax {
            Syntax::Vars => self.analyse_vars(&flat.text),
            Syntax::Jinja => self.analyse_jinja(part, flat),
        };
        match located {
            Ok(()) => Some(()),
            Err(list) => {
                for located in list {
                    let fault = flat.fault(part, &located);
                    self.faults.push(fault.pointer, fault.code, fault.message);
                }
                None
            }
        }
    }

    fn analyse_vars(&mut self, text: &str) -> Result<(), Vec<Located>> {
        let placeholders = vars::placeholders(text).map_err(|located| vec![located])?;
        let mut faults = Vec::new();
        for placeholder in placeholders {
            let is_new = !self.shapes.has(&placeholder.key);
            self.shapes.root(&placeholder.key);
            if is_new {
                faults.extend(self.undeclared(&placeholder.key, placeholder.range.start));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn analyse_jinja(&mut self, part: Part, flat: &Flat) -> Result<(), Vec<Located>> {
        // The scan refuses templates that would make the parser recurse without a limit.
        scan::tags(&flat.text).map_err(|located| vec![located])?;
        let tree = parse(&flat.text).map_err(|located| vec![located])?;
        let analysis = analyse(&tree, &mut self.shapes);
        let mut faults = analysis.faults;
        for (key, offset) in &analysis.variables {
            faults.extend(self.undeclared(key, *offset));
        }
        if part == Part::Html {
            for offset in analysis.unescaped {
                let (line, column) = flat.position(offset);
                self.unescaped.push((part.pointer(), line, column));
                let message = format!(
                    "line {line}, column {column}: the value is printed without escaping; make sure that it is HTML which you trust."
                );
                self.warn(part, WarningCode::UnescapedOutput, message);
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn undeclared(&self, key: &str, offset: usize) -> Option<Located> {
        if !self.needs_declarations || self.variables.iter().any(|variable| variable.key == key) {
            return None;
        }
        let message = format!("the variable `{key}` is not declared; add it to `variables`, or assign it before");
        Some(Located::new(offset, Code::UndeclaredVariable, message))
    }

    fn html(&mut self) -> Option<String> {
        let Some(source) = self.body(Part::Html, self.source.html.as_ref()) else {
            let is_blank = |part: &Option<String>| part.as_ref().is_none_or(|text| text.trim().is_empty());
            if is_blank(&self.source.html) && is_blank(&self.source.text) {
                self.faults.push("/html", Code::Required, "the template needs `html` or `text`");
            }
            return None;
        };
        let flat = self.flat(Part::Html, source)?;
        let text = self.without_raw(Part::Html, &flat.text)?;
        let html = self.markup(&flat, &text)?;
        if html.len() > SIZE_THAT_CLIENTS_TRUNCATE {
            let message = format!(
                "The HTML has {} KiB before it is rendered. Gmail truncates messages above 102 KiB.",
                html.len() / 1024
            );
            self.warn(Part::Html, WarningCode::LargeHtml, message);
        }
        self.prepared(Part::Html, html, true)
    }

    /// Compiles MJML and inlines CSS.
    fn markup(&mut self, flat: &Flat, source: &str) -> Option<String> {
        let result = self.markup_steps(source);
        let (html, warnings) = match result {
            Ok(result) => result,
            Err(located) => {
                let fault = flat.fault(Part::Html, &located);
                self.faults.push(fault.pointer, fault.code, fault.message);
                return None;
            }
        };
        for (_, code, message) in warnings {
            self.warn(Part::Html, code, message);
        }
        Some(html)
    }

    #[expect(clippy::type_complexity, reason = "the result and its warnings")]
    fn markup_steps(&self, source: &str) -> Result<(String, Vec<(usize, WarningCode, String)>), Located> {
        let inlined = match self.source.format {
            Format::Html => css::inline(source, &self.tags(source)?, None)?,
            Format::Mjml => {
                let compiled = mjml::compile(source, &self.tags(source)?)?;
                // Positions in the compiled HTML mean nothing to the author.
                let unplaced = |located: Located| Located { offset: 0, ..located };
                let tags = self.tags(&compiled.html).map_err(unplaced)?;
                match compiled.inline_css {
                    Some(css) => css::inline(&compiled.html, &tags, Some(&css)).map_err(unplaced)?,
                    None => css::Inlined { html: compiled.html, warnings: Vec::new() },
                }
            }
        };
        Ok((inlined.html, inlined.warnings))
    }

    /// Returns the plain text body, and whether it is derived.
    fn text(&mut self, html: Option<&str>) -> (Option<String>, bool) {
        match &self.source.text {
            Some(text) if text.trim().is_empty() => {
                if self.source.html.is_some() {
                    let message = "The messages have no plain text body. Leave out `text` to derive it from `html`.";
                    self.warn(Part::Text, WarningCode::MissingPart, message);
                }
                (None, false)
            }
            Some(_) => {
                let text = self.body(Part::Text, self.source.text.as_ref()).and_then(|source| {
                    let flat = self.flat(Part::Text, source)?;
                    let text = self.without_raw(Part::Text, &flat.text)?;
                    self.prepared(Part::Text, text, false)
                });
                (text, false)
            }
            None => (html.and_then(|html| self.derived(html)), true),
        }
    }

    fn derived(&mut self, html: &str) -> Option<String> {
        let derived = self.tags(html).and_then(|tags| text::derive(html, &tags)).and_then(|text| {
            // A variable that is assigned only in a hidden element would be missing in the text.
            let missing = match self.source.syntax {
                Syntax::Vars => None,
                Syntax::Jinja => {
                    let analysis = analyse(&parse(&text)?, &mut Shapes::default());
                    analysis.variables.into_keys().find(|key| !self.shapes.has(key))
                }
            };
            match missing {
                None => Ok(text),
                Some(key) => {
                    let message = format!("`{key}` is assigned where the plain text body cannot use it");
                    Err(Located::new(0, Code::InvalidTemplate, message))
                }
            }
        });
        let prepared = derived.and_then(|text| prepare(self.source.syntax, &text, false).map(|()| text));
        match prepared {
            Ok(text) => Some(text),
            Err(located) => {
                let message =
                    format!("the plain text body cannot be derived from `html`; set `text`: {}", located.message);
                self.faults.push("/text", located.code, message);
                None
            }
        }
    }

    /// Checks that a part can be prepared for rendering.
    fn prepared(&mut self, part: Part, text: String, escapes: bool) -> Option<String> {
        match prepare(self.source.syntax, &text, escapes) {
            Ok(()) => Some(text),
            Err(located) => {
                let fault = fault(part.pointer(), located.code, located.message);
                self.faults.push(fault.pointer, fault.code, fault.message);
                None
            }
        }
    }

    fn warn_of_unused_variables(&mut self) {
        if !self.faults.is_empty() {
            return;
        }
        for (index, variable) in self.source.variables.iter().enumerate() {
            if !self.shapes.has(&variable.key) {
                let message = format!("The variable `{}` is not used.", variable.key);
                let pointer = format!("/variables/{index}");
                self.warnings.push(Warning { code: WarningCode::UnusedVariable, pointer, message });
            }
        }
    }
}

fn prepare(syntax: Syntax, text: &str, escapes: bool) -> Result<(), Located> {
    match syntax {
        Syntax::Jinja => engine::Template::new(text, escapes).map(drop),
        Syntax::Vars => vars::Template::new(text, escapes).map(drop),
    }
}
