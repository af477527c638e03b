//! A compiled template, ready to render.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::domain::api::fault::{Code, Fault, Faults};

use super::compile::Compiled;
use super::faults::{Located, Part, fault};
use super::jinja::effort::{Effort, effort};
use super::jinja::engine::Failure;
use super::jinja::{engine, parse};
use super::limits::{FUEL, MAX_ADDRESS, MAX_OUTPUT, MAX_SUBJECT};
use super::markup::text::tidy_rendered;
use super::source::{Syntax, Variable, Warning, WarningCode};
use super::values::{check_values, engine_value, text, with_defaults};
use super::{thread, vars};

/// A compiled template, parsed once. `Send`, `Sync`, and shared behind an `Arc`.
#[derive(Debug)]
pub struct Program {
    variables: Vec<Variable>,
    subject: Option<Template>,
    html: Option<Template>,
    text: Option<Template>,
    is_text_derived: bool,
    from: Option<Template>,
    reply_to: Vec<Template>,
    /// The estimated cost of rendering the bodies.
    effort: Effort,
}

/// A part of a template.
#[derive(Debug)]
enum Template {
    Jinja(Box<engine::Template>),
    Vars(vars::Template),
}

/// The variables of one message, checked, with defaults filled in.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Variables that the template does not declare, with pointers `/variables/NAME`. They are ignored.
    pub warnings: Vec<Warning>,
    values: Values,
    /// The size of the longest text, in bytes.
    longest: usize,
}

#[derive(Debug, Clone)]
enum Values {
    Jinja(minijinja::Value),
    Vars(BTreeMap<String, String>),
}

/// A rendered template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The subject, without control characters, at most 998 characters.
    pub subject: Option<String>,
    /// The HTML body, without NUL.
    pub html: Option<String>,
    /// The plain text body, without NUL.
    pub text: Option<String>,
    /// The sender, without control characters. Not checked to be an address.
    pub from: Option<String>,
    /// Addresses of the `Reply-To` header, without control characters. Not checked to be addresses. Empty ones are left
    /// out.
    pub reply_to: Vec<String>,
    /// The size of the HTML and the text, in bytes. [`Program::verify`] returns an upper limit.
    pub size: usize,
    /// The fuel used. Each part may use [`FUEL`], and all parts together twice as much.
    pub fuel: u64,
}

/// Measures the work that rendering takes.
#[derive(Debug)]
struct Meter {
    /// Whether rendering stops after about a millisecond.
    is_quick: bool,
    fuel: u64,
}

/// Maximum fuel of all parts together.
const TOTAL_FUEL: u64 = 2 * FUEL;
/// Maximum number of statements and expressions of a cheap program.
const CHEAP_STEPS: usize = 1_000;
/// Maximum size of the text of a cheap program, in bytes.
const CHEAP_TEXT: usize = 128 * 1024;
/// Maximum size of a body that is rendered quickly, in bytes.
const QUICK_OUTPUT: usize = 256 * 1024;

impl Program {
    /// Parses a compiled template. Does not fail for a template that [`compile`](super::compile()) returned.
    ///
    /// Takes up to a few milliseconds, on a separate thread: call it on a blocking thread, and keep the result in a
    /// [`ProgramCache`](super::ProgramCache).
    pub fn new(compiled: &Compiled) -> Result<Self, Vec<Fault>> {
        thread::run(|| Self::parse(compiled)).map_err(|fault| vec![fault])?
    }

    fn parse(compiled: &Compiled) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut template = |part: Part, source: Option<&String>| {
            let parsed = Template::new(compiled.syntax, source?, part == Part::Html);
            parsed.map_err(|located| faults.push(fault(part.pointer(), located.code, located.message))).ok()
        };
        let subject = template(Part::Subject, compiled.subject.as_ref());
        let html = template(Part::Html, compiled.html.as_ref());
        let text = template(Part::Text, compiled.text.as_ref());
        let from = template(Part::From, compiled.from.as_ref());
        let addresses = compiled.reply_to.iter().enumerate();
        let reply_to = addresses.filter_map(|(index, source)| template(Part::ReplyTo(index), Some(source))).collect();
        if !faults.is_empty() {
            return Err(faults);
        }
        let variables = compiled.variables.clone();
        let bodies = [&compiled.html, &compiled.text].into_iter().flatten().map(|source| match compiled.syntax {
            Syntax::Jinja => parse(source).map(|tree| effort(&tree, &variables)),
            Syntax::Vars => vars::Template::new(source, true).map(|template| vars_effort(&template)),
        });
        let bodies: Vec<Effort> = bodies.filter_map(Result::ok).collect();
        let effort = Effort {
            is_total: bodies.iter().all(|body| body.is_total),
            is_linear: bodies.iter().all(|body| body.is_linear),
            steps: bodies.iter().map(|body| body.steps).sum(),
            prints: bodies.iter().map(|body| body.prints).sum(),
            text: bodies.iter().map(|body| body.text).sum(),
        };
        let is_text_derived = compiled.is_text_derived;
        Ok(Self { variables, subject, html, text, is_text_derived, from, reply_to, effort })
    }

    /// Returns the declared variables.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// Returns whether the template has a subject, so that a message may leave it out.
    pub fn has_subject(&self) -> bool {
        self.subject.is_some()
    }

    /// Returns whether the template has a sender, so that a message may leave it out.
    pub fn has_from(&self) -> bool {
        self.from.is_some()
    }

    /// Checks the variables of a message: required ones, types, lengths and total size. Returns all faults at once,
    /// with pointers `/variables/NAME`, which the caller prefixes with `/template`. Takes microseconds.
    pub fn check(&self, variables: &Map<String, Value>) -> Result<Checked, Vec<Fault>> {
        let mut faults = Faults::default();
        let unknown = check_values(&self.variables, variables, &mut faults);
        if !faults.is_empty() {
            return Err(faults.into_vec());
        }
        let warnings = unknown.into_iter().take(Faults::LIMIT).map(|key| Warning {
            code: WarningCode::UnknownVariable,
            pointer: format!("/variables/{}", key.replace('~', "~0").replace('/', "~1")),
            message: format!("The template does not declare the variable `{key}`, and ignores it."),
        });
        let values = with_defaults(&self.variables, variables);
        let longest = values.values().map(|value| value.as_str().map_or(64, str::len)).max().unwrap_or_default();
        let is_vars = [&self.html, &self.text, &self.subject].into_iter().flatten().any(Template::is_vars);
        let values = if is_vars {
            Values::Vars(values.into_iter().map(|(key, value)| (key.to_owned(), text(value))).collect())
        } else {
            Values::Jinja(minijinja::Value::from_pairs(
                values.into_iter().map(|(key, value)| (key, engine_value(value))),
            ))
        };
        Ok(Checked { warnings: warnings.collect(), values, longest })
    }

    /// Renders a message. The same input always gives the same result.
    ///
    /// Fails if the fuel or the output limits do not suffice, if a filter does not apply to a value or an attribute is
    /// missing, if a body contains NUL, or if the subject or an address is too long or has a control character. The
    /// fault's pointer is empty (the caller prefixes it with `/template`); its message names the part and the tag.
    ///
    /// Takes microseconds for ordinary templates and at most about 100 ms: call it on a blocking thread, unless
    /// [`is_cheap`](Self::is_cheap).
    pub fn render(&self, variables: &Checked) -> Result<Rendered, Fault> {
        self.render_within(Meter { is_quick: false, fuel: 0 }, variables)
    }

    /// Renders a message as [`render`](Self::render) does, but takes at most about a millisecond, so that it may run on
    /// an asynchronous thread. Returns `None` if rendering takes longer or fails.
    pub fn render_quickly(&self, variables: &Checked) -> Option<Rendered> {
        self.render_within(Meter { is_quick: true, fuel: 0 }, variables).ok()
    }

    fn render_within(&self, mut meter: Meter, variables: &Checked) -> Result<Rendered, Fault> {
        let html = render_body(Part::Html, self.html.as_ref(), variables, &mut meter)?;
        let text = render_body(Part::Text, self.text.as_ref(), variables, &mut meter)?;
        let text = text.map(|text| if self.is_text_derived { tidy_rendered(&text) } else { text });
        let size = [&html, &text].into_iter().flatten().map(String::len).sum();
        Ok(Rendered { html, text, size, ..self.lines(variables, meter)? })
    }

    /// Checks that [`render`](Self::render) will succeed, and renders only what could fail. Returns the parts that
    /// become header fields, without the bodies. Used for the messages of a bulk, whose bodies are rendered later.
    pub fn verify(&self, variables: &Checked) -> Result<Rendered, Fault> {
        let mut meter = Meter { is_quick: false, fuel: 0 };
        let size = if let Some(size) = self.max_size(variables) {
            size
        } else {
            let html = render_body(Part::Html, self.html.as_ref(), variables, &mut meter)?;
            let text = render_body(Part::Text, self.text.as_ref(), variables, &mut meter)?;
            [html, text].into_iter().flatten().map(|body| body.len()).sum()
        };
        Ok(Rendered { size, ..self.lines(variables, meter)? })
    }

    /// Renders only the parts that become header fields.
    pub fn render_lines(&self, variables: &Checked) -> Result<Rendered, Fault> {
        self.lines(variables, Meter { is_quick: false, fuel: 0 })
    }

    /// Returns the maximum size of the bodies in bytes, if it is certain that they can be rendered: nothing in them
    /// fails, and they cannot become too large. Otherwise returns `None`.
    fn max_size(&self, variables: &Checked) -> Option<usize> {
        // Escaping makes a text at most six times as long.
        let size =
            self.effort.prints.saturating_mul(variables.longest).saturating_mul(6).saturating_add(self.effort.text);
        let fuel = self.effort.steps.saturating_mul(4).saturating_add(size / 16);
        (self.effort.is_total && size <= MAX_OUTPUT && fuel as u64 <= FUEL).then_some(size)
    }

    /// Returns whether rendering takes less than about a millisecond whatever the variables, so that it may run on an
    /// asynchronous thread: a short template without loops, macros and expensive filters.
    pub fn is_cheap(&self) -> bool {
        let Effort { is_total, is_linear, steps, text, .. } = self.effort;
        is_total && is_linear && steps <= CHEAP_STEPS && text <= CHEAP_TEXT
    }

    /// Returns about how much memory the program takes, in bytes.
    pub fn bytes(&self) -> usize {
        let parts = [&self.subject, &self.html, &self.text, &self.from].into_iter().flatten().chain(&self.reply_to);
        let variables = self.variables.len() * 256;
        1024 + variables + parts.map(Template::bytes).sum::<usize>()
    }

    /// Renders the subject, the sender and the `Reply-To` addresses. `meter` contains the fuel that the bodies used.
    fn lines(&self, variables: &Checked, mut meter: Meter) -> Result<Rendered, Fault> {
        let mut line = |part: Part, template: &Template| render_line(part, template, variables, &mut meter);
        let subject = self.subject.as_ref().map(|template| line(Part::Subject, template)).transpose()?;
        let from = self.from.as_ref().map(|template| line(Part::From, template)).transpose()?;
        let addresses = self.reply_to.iter().enumerate();
        let reply_to: Result<Vec<String>, Fault> =
            addresses.map(|(index, template)| line(Part::ReplyTo(index), template)).collect();
        let reply_to = reply_to?.into_iter().filter(|address| !address.is_empty()).collect();
        Ok(Rendered { subject, html: None, text: None, from, reply_to, size: 0, fuel: meter.fuel })
    }
}

impl Template {
    fn new(syntax: Syntax, source: &str, escapes: bool) -> Result<Self, Located> {
        match syntax {
            Syntax::Jinja => engine::Template::new(source, escapes).map(|template| Self::Jinja(Box::new(template))),
            Syntax::Vars => vars::Template::new(source, escapes).map(Self::Vars),
        }
    }

    fn is_vars(&self) -> bool {
        matches!(self, Self::Vars(_))
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Jinja(template) => template.bytes(),
            Self::Vars(template) => template.bytes(),
        }
    }

    fn render(&self, variables: &Checked, limit: usize, is_quick: bool) -> Result<(String, u64), Failure> {
        match (self, &variables.values) {
            (Self::Jinja(template), Values::Jinja(values)) if is_quick => template.render_quickly(values, limit),
            (Self::Jinja(template), Values::Jinja(values)) => template.render(values, limit),
            (Self::Vars(template), Values::Vars(values)) => template.render(values, limit),
            _ => Err(Failure {
                code: Code::RenderFailed,
                message: "the variables were checked for another template".into(),
            }),
        }
    }
}

fn vars_effort(template: &vars::Template) -> Effort {
    let (prints, text) = template.size();
    Effort { is_total: true, is_linear: true, steps: prints, prints, text }
}

fn render_part(
    part: Part,
    template: &Template,
    variables: &Checked,
    limit: usize,
    meter: &mut Meter,
) -> Result<String, Fault> {
    let failed = |failure: Failure| fault("", failure.code, format!("`{}`: {}", part.name(), failure.message));
    let limit = if meter.is_quick { limit.min(QUICK_OUTPUT) } else { limit };
    let (text, used) = template.render(variables, limit, meter.is_quick).map_err(failed)?;
    meter.fuel += used;
    if meter.fuel > TOTAL_FUEL {
        let message = "all parts of the template together take more work than allowed".to_owned();
        return Err(failed(Failure { code: Code::TooExpensive, message }));
    }
    Ok(text)
}

fn render_body(
    part: Part,
    template: Option<&Template>,
    variables: &Checked,
    meter: &mut Meter,
) -> Result<Option<String>, Fault> {
    let Some(template) = template else { return Ok(None) };
    let text = render_part(part, template, variables, MAX_OUTPUT, meter)?;
    if memchr::memchr(0, text.as_bytes()).is_some() {
        let message = format!("`{}`: the result must not contain NUL (U+0000)", part.name());
        return Err(fault("", Code::ControlCharacter, message));
    }
    Ok(Some(text))
}

/// Renders a part that becomes a header field: nothing in it may start another field.
fn render_line(part: Part, template: &Template, variables: &Checked, meter: &mut Meter) -> Result<String, Fault> {
    let max = if part == Part::Subject { MAX_SUBJECT } else { MAX_ADDRESS };
    let text = render_part(part, template, variables, 4 * max, meter)?;
    let refused = |code, problem: String| Err(fault("", code, format!("`{}`: {problem}", part.name())));
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        let problem = format!("the result must not contain the control character U+{:04X}", u32::from(control));
        return refused(Code::ControlCharacter, problem);
    }
    let length = text.chars().count();
    if length > max {
        return refused(Code::TooLong, format!("the result must have at most {max} characters, but has {length}"));
    }
    Ok(text.trim().to_owned())
}
