//! Tests of the engine as a whole.

mod hostile;
mod layouts;
mod traps;

use serde_json::{Map, Value};

use super::{Compiled, Format, Layout, Layouts, Program, Rendered, Source, Syntax, Variable, VariableType, compile};
use crate::domain::api::fault::Fault;

/// Returns a template with an HTML body that declares the variables of `values`.
fn source(html: &str, values: &Value) -> Source {
    Source {
        syntax: Syntax::Jinja,
        format: Format::Html,
        subject: Some("Hello".into()),
        html: Some(html.into()),
        text: None,
        from: None,
        reply_to: Vec::new(),
        layout: None,
        variables: declared(values),
    }
}

fn declared(values: &Value) -> Vec<Variable> {
    let kind = |value: &Value| match value {
        Value::String(_) | Value::Null => VariableType::String,
        Value::Number(_) => VariableType::Number,
        Value::Bool(_) => VariableType::Boolean,
        Value::Array(_) => VariableType::Array,
        Value::Object(_) => VariableType::Object,
    };
    let values = values.as_object().into_iter().flatten();
    let variables = values.map(|(key, value)| Variable {
        key: key.clone(),
        kind: kind(value),
        required: true,
        default: None,
        max_length: None,
    });
    variables.collect()
}

fn object(values: &Value) -> Map<String, Value> {
    values.as_object().cloned().unwrap_or_default()
}

/// Compiles a template with layouts, given by their names.
fn compiled(source: &Source, layouts: &[(&str, Source)]) -> Result<Compiled, Vec<Fault>> {
    let mut known = Layouts::new(source, &["tpl_own", "own"])?;
    loop {
        let missing = known.missing();
        if missing.is_empty() {
            return compile(source, &known);
        }
        for name in missing {
            let layout = layouts.iter().find(|(own, _)| *own == name);
            known.insert(&name, layout.map(|(_, source)| Layout { source: source.clone() }));
        }
    }
}

fn render(source: &Source, values: &Value) -> Result<Rendered, Vec<Fault>> {
    let program = Program::new(&compiled(source, &[])?)?;
    let checked = program.check(&object(values))?;
    let verified = program.verify(&checked);
    let rendered = program.render(&checked);
    assert_eq!(verified.as_ref().err(), rendered.as_ref().err(), "`verify` agrees with `render`");
    if let (Ok(verified), Ok(rendered)) = (&verified, &rendered) {
        assert!(verified.size >= rendered.size, "{} is not an upper limit of {}", verified.size, rendered.size);
        let lines = program.render_lines(&checked).unwrap();
        assert_eq!(
            (&lines.subject, &lines.from, &lines.reply_to),
            (&rendered.subject, &rendered.from, &rendered.reply_to)
        );
    }
    if let Some(quick) = program.render_quickly(&checked) {
        assert_eq!(Ok(&quick), rendered.as_ref());
    }
    rendered.map_err(|fault| vec![fault])
}

/// Compiles and renders an HTML body.
fn html(html: &str, values: &Value) -> Result<String, Vec<Fault>> {
    render(&source(html, values), values).map(|rendered| rendered.html.unwrap_or_default())
}

/// Returns the pointers, codes and messages of faults.
fn shown(faults: Vec<Fault>) -> Vec<String> {
    faults.into_iter().map(|fault| format!("{} {} {}", fault.pointer, fault.code, fault.message)).collect()
}
