//! Renders templates with `MiniJinja`, in the form that [`guard`](super::guard) prints.

use std::borrow::Cow;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};

use crate::domain::api::fault::Code;
use crate::template::faults::{Located, excerpt};
use crate::template::limits::FUEL;
use crate::template::markup::tags::Tag;

use super::guard::Printed;
use super::{filters, scan, syntax};

/// Maximum depth of blocks, loops and macros; a macro counts twice the depth at which it is called.
const MAX_RECURSION: usize = 150;

/// The configuration of all templates.
static BASE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_syntax(syntax());
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_recursion_limit(MAX_RECURSION);
    env.set_fuel(Some(FUEL));
    env.set_debug(false);
    env.set_auto_escape_callback(|name| if name == HTML { AutoEscape::Html } else { AutoEscape::None });
    env.set_formatter(format);
    filters::add(&mut env);
    env
});

/// Fuel for rendering on an asynchronous thread: about a millisecond of work at most.
const QUICK_FUEL: u64 = 2_000;

/// The name of templates whose values are escaped.
const HTML: &str = "html";
const PLAIN: &str = "plain";

/// Escapes a text for HTML: in elements, and in attribute values with quotes.
pub(in crate::template) fn escaped(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(['&', '<', '>', '"', '\'']) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len() + 16);
    out.push_str(&text[..first]);
    for c in text[first..].chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Prints a value. Missing values print nothing, and booleans print as in JSON.
fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_none() || value.is_undefined() {
        return Ok(());
    }
    let escapes = matches!(state.auto_escape(), AutoEscape::Html) && !value.is_safe();
    if let Some(text) = value.as_str() {
        return out.write_str(&if escapes { escaped(text) } else { Cow::Borrowed(text) }).map_err(Error::from);
    }
    if filters::is_scalar(value) {
        return match bool::try_from(value.clone()) {
            Ok(is_true) if !value.is_number() => out.write_str(if is_true { "true" } else { "false" }),
            _ => write!(out, "{value}"),
        }
        .map_err(Error::from);
    }
    let text = value.to_string();
    out.write_str(&if escapes { escaped(&text) } else { text.as_str().into() }).map_err(Error::from)
}

/// The filter `escape`.
pub(super) fn escape(value: Value) -> Value {
    if value.is_safe() {
        return value;
    }
    let text = if value.is_none() { String::new() } else { value.to_string() };
    Value::from_safe_string(escaped(&text).into_owned())
}

/// A template that can be rendered.
#[derive(Debug)]
pub(in crate::template) struct Template {
    env: Environment<'static>,
    /// The same environment with [`QUICK_FUEL`].
    quick: Environment<'static>,
    printed: Printed,
    source: String,
    tags: Vec<Tag>,
    escapes: bool,
}

/// Why a template was not rendered.
#[derive(Debug)]
pub(in crate::template) struct Failure {
    pub(in crate::template) code: Code,
    pub(in crate::template) message: String,
}

impl Template {
    /// Compiles a source in which the analysis has found no faults.
    pub(in crate::template) fn new(source: &str, escapes: bool) -> Result<Self, Located> {
        let tags = scan::tags(source)?;
        let mut printed = Printed::new(&super::parse(source)?);
        let mut env = BASE.clone();
        let name = if escapes { HTML } else { PLAIN };
        let text = std::mem::take(&mut printed.source);
        env.add_template_owned(name, text).map_err(|error| {
            let offset = error.line().and_then(|line| printed.offset(line)).unwrap_or_default();
            let detail = error.detail().unwrap_or("the syntax is not valid");
            Located::new(offset, Code::InvalidTemplate, detail)
        })?;
        let mut quick = env.clone();
        quick.set_fuel(Some(QUICK_FUEL));
        Ok(Self { env, quick, printed, source: source.to_owned(), tags, escapes })
    }

    /// Returns about how much memory the template takes, in bytes.
    pub(in crate::template) fn bytes(&self) -> usize {
        // The source, the printed source, and for each tag about ten instructions of 40 bytes.
        2 * self.source.len() + 512 * self.tags.len() + 32 * 1024
    }

    /// Renders the template to at most `limit` bytes. Returns the text and the fuel used.
    pub(in crate::template) fn render(&self, variables: &Value, limit: usize) -> Result<(String, u64), Failure> {
        self.render_in(&self.env, variables, limit)
    }

    /// Renders the template as [`render`](Self::render) does, with [`QUICK_FUEL`].
    pub(in crate::template) fn render_quickly(
        &self,
        variables: &Value,
        limit: usize,
    ) -> Result<(String, u64), Failure> {
        self.render_in(&self.quick, variables, limit)
    }

    fn render_in(&self, env: &Environment<'static>, variables: &Value, limit: usize) -> Result<(String, u64), Failure> {
        let mut out = Limited { bytes: Vec::new(), limit, is_exceeded: false };
        // A panic is a bug in the engine. It must fail only the rendering of this template.
        let rendered = catch_unwind(AssertUnwindSafe(|| self.render_to(env, variables, &mut out)));
        let rendered = rendered.unwrap_or_else(|_| Err(Error::new(ErrorKind::InvalidOperation, "the engine failed")));
        match rendered {
            Ok(fuel) => match String::from_utf8(out.bytes) {
                Ok(text) => Ok((text, fuel)),
                Err(_) => Err(Failure { code: Code::RenderFailed, message: "the result is not UTF-8".into() }),
            },
            Err(_) if out.is_exceeded => {
                let message = format!("the result is larger than {limit} bytes");
                Err(Failure { code: Code::TooLarge, message })
            }
            Err(error) => Err(self.failure(&error)),
        }
    }

    fn render_to(&self, env: &Environment<'static>, variables: &Value, out: &mut Limited) -> Result<u64, Error> {
        let template = env.get_template(if self.escapes { HTML } else { PLAIN })?;
        let captured = template.render_captured_to(variables.clone(), out)?;
        Ok(captured.state().fuel_levels().map_or(0, |(used, _)| used))
    }

    fn failure(&self, error: &Error) -> Failure {
        let offset = error.line().and_then(|line| self.printed.offset(line));
        let tag = offset.and_then(|offset| self.tags.iter().rfind(|tag| tag.range.start <= offset));
        let place = tag.map_or_else(String::new, |tag| format!("`{}`: ", excerpt(&self.source[tag.range.clone()])));
        let detail = error.detail().map(str::to_owned);
        let (code, problem) = match error.kind() {
            ErrorKind::OutOfFuel => {
                let why = detail.map_or_else(String::new, |detail| format!(": {detail}"));
                (Code::TooExpensive, format!("rendering takes more work than allowed{why}"))
            }
            ErrorKind::UndefinedError => {
                (Code::RenderFailed, detail.unwrap_or_else(|| "a value is missing; test it with `is defined`".into()))
            }
            kind => (Code::RenderFailed, detail.unwrap_or_else(|| kind.to_string())),
        };
        // Values in the message may be long.
        Failure { code, message: format!("{place}{}", excerpt_long(&problem)) }
    }
}

fn excerpt_long(text: &str) -> String {
    const MAX: usize = 300;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A buffer that refuses to grow beyond a limit.
struct Limited {
    bytes: Vec<u8>,
    limit: usize,
    is_exceeded: bool,
}

impl io::Write for &mut Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            self.is_exceeded = true;
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

    fn rendered(source: &str, variables: &[(&str, Value)]) -> Result<String, Failure> {
        let variables = Value::from_pairs(variables.iter().map(|(name, value)| (*name, value.clone())));
        Template::new(source, true).unwrap().render(&variables, 10_000).map(|(text, _)| text)
    }

    #[test]
    fn values_are_escaped_unless_safe() {
        let variables = [("x", Value::from("<a href='/x'>&\"")), ("n", Value::from(1.5)), ("b", Value::from(true))];
        assert_eq!(
            rendered("{{ x }}{{ x|safe }}{{ n }}{{ b }}{{ none }}", &variables).unwrap(),
            "&lt;a href=&#39;/x&#39;&gt;&amp;&quot;<a href='/x'>&\"1.5true"
        );
        assert_eq!(rendered("{{ x|e|upper }}", &[("x", Value::from("<"))]).unwrap(), "&LT;");
        assert_eq!(rendered("{{ [x] }}", &[("x", Value::from("<"))]).unwrap(), "[&#39;&lt;&#39;]");
        let plain = Template::new("{{ x }}", false).unwrap();
        assert_eq!(plain.render(&Value::from_pairs([("x", "<")]), 10).unwrap().0, "<");
    }

    #[test]
    fn missing_attributes_name_the_tag() {
        let row = Value::from_pairs([("name", 1)]);
        let failure = rendered("a\n{{ row.name }}{{ row.nam }}", &[("row", row)]).unwrap_err();
        assert_eq!(failure.code, Code::RenderFailed);
        assert!(failure.message.starts_with("`{{ row.nam }}`: "), "{}", failure.message);
    }

    #[test]
    fn left_out_variables_have_defaults_and_are_undefined() {
        let variables = [("x", Value::from(()))];
        let source = "{{ x|default(\"y\") }}{% if x is defined %}1{% endif %}{% if x %}2{% endif %}{{ x }}";
        assert_eq!(rendered(source, &variables).unwrap(), "y");
    }

    #[test]
    fn output_and_fuel_are_limited() {
        let failure = rendered("{% for i in range(10000) %}abc{% endfor %}", &[]).unwrap_err();
        assert_eq!(failure.code, Code::TooLarge);
        let failure = rendered("{% for i in range(9000) %}{% for j in range(9000) %}{% endfor %}{% endfor %}", &[]);
        assert_eq!(failure.unwrap_err().code, Code::TooExpensive);
    }

    #[test]
    fn trailing_newlines_are_kept() {
        assert_eq!(rendered("a\n", &[]).unwrap(), "a\n");
        assert_eq!(rendered("{{ \"{\" }}{ x }}\n", &[]).unwrap(), "{{ x }}\n");
    }

    proptest::proptest! {
        #[test]
        fn escaped_text_has_no_markup(text in ".{0,50}") {
            let html = escaped(&text);
            proptest::prop_assert!(!html.contains(['<', '>', '"', '\'']));
            let back = html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
            proptest::prop_assert_eq!(back.replace("&amp;", "&"), text);
        }

        #[test]
        fn rendered_values_have_no_markup(text in ".{0,50}") {
            let html = rendered("{{ x }}{{ x|upper }}{{ x ~ x }}{{ [x]|join(x) }}", &[("x", Value::from(text))]).unwrap();
            proptest::prop_assert!(!html.contains(['<', '>', '"', '\'']), "{}", html);
        }
    }
}
