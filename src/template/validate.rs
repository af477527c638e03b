//! Reports about a template that is not saved yet.

use serde_json::{Map, Value};

use crate::domain::api::fault::Fault;

use super::compile::{Compiled, Work};
use super::jinja::shape::Shapes;
use super::layouts::Layouts;
use super::source::{Source, Variable, VariableType, Warning};
use super::thread;

/// The result of validating a template.
#[derive(Debug, Clone)]
pub struct Report {
    /// The compiled template, unless there are faults. With [`Program`](super::Program) it can be previewed.
    pub compiled: Option<Compiled>,
    /// Everything that prevents it from being published.
    pub faults: Vec<Fault>,
    /// Warnings for the author, including one for each entry of `unescaped`.
    pub warnings: Vec<Warning>,
    /// Example values for all variables that the template uses, inferred from their use: an array for a variable that
    /// it loops over, an object for a variable whose attributes it reads. A declared default is used as the example.
    pub suggested_variables: Map<String, Value>,
    /// Declarations for these variables; those of the source take precedence.
    pub suggested_declarations: Vec<Variable>,
    /// Places that print values without escaping them.
    pub unescaped: Vec<UnescapedOutput>,
}

/// A place that prints a value without escaping it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnescapedOutput {
    /// A JSON pointer to the part: `/html`.
    pub pointer: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// Checks a template. Undeclared variables are faults only if the template declares any variable; otherwise the suggested
/// declarations are used. `values` show the types of the variables that the template only prints.
///
/// Blocks for up to about 100 ms while a separate thread does the work, so call it on a blocking thread.
pub fn validate(source: &Source, layouts: &Layouts, values: &Map<String, Value>) -> Report {
    let needs_declarations = !source.variables.is_empty();
    match thread::run(|| Work::new(source, layouts, needs_declarations).run()) {
        Ok(outcome) => {
            let mut report = Report {
                compiled: outcome.compiled,
                faults: outcome.faults,
                warnings: outcome.warnings,
                suggested_variables: outcome.shapes.examples(),
                suggested_declarations: Vec::new(),
                unescaped: outcome.unescaped.into_iter().map(UnescapedOutput::from).collect(),
            };
            let declared: Vec<&Variable> = source.variables.iter().chain(layouts.variables()).collect();
            for variable in &declared {
                suggest_declared(variable, &mut report.suggested_variables);
            }
            let declaration = |name: &str| {
                let declared = declared.iter().find(|variable| variable.key == name);
                declared
                    .map(|variable| (*variable).clone())
                    .or_else(|| inferred(&outcome.shapes, name, values.get(name)))
            };
            report.suggested_declarations = outcome.shapes.names().filter_map(declaration).collect();
            if let (Some(compiled), false) = (&mut report.compiled, needs_declarations) {
                compiled.variables.clone_from(&report.suggested_declarations);
            }
            report
        }
        Err(fault) => Report {
            compiled: None,
            faults: vec![fault],
            warnings: Vec::new(),
            suggested_variables: Map::new(),
            suggested_declarations: Vec::new(),
            unescaped: Vec::new(),
        },
    }
}

impl From<(String, usize, usize)> for UnescapedOutput {
    fn from((pointer, line, column): (String, usize, usize)) -> Self {
        Self { pointer, line, column }
    }
}

/// Infers the declaration of a variable. A variable that seems to be a string has the type of its `value` if that is a
/// number or a boolean, because templates print these in the same way.
fn inferred(shapes: &Shapes, name: &str, value: Option<&Value>) -> Option<Variable> {
    let declaration = shapes.declaration(name)?;
    let kind = match (declaration.kind, value) {
        (VariableType::String, Some(Value::Number(_))) => VariableType::Number,
        (VariableType::String, Some(Value::Bool(_))) => VariableType::Boolean,
        (kind, _) => kind,
    };
    Some(Variable { kind, ..declaration })
}

/// Makes the example of a declared variable fit its declaration.
fn suggest_declared(variable: &Variable, examples: &mut Map<String, Value>) {
    let Some(example) = examples.get_mut(&variable.key) else { return };
    if let Some(default) = &variable.default {
        *example = default.clone();
        return;
    }
    let mut faults = crate::domain::api::fault::Faults::default();
    let values = Map::from_iter([(variable.key.clone(), example.clone())]);
    super::values::check_values(std::slice::from_ref(variable), &values, &mut faults);
    if !faults.is_empty() {
        *example = super::values::example(variable);
    }
}
