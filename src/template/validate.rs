//! Reports about a template that is not saved yet.

use serde_json::{Map, Value};

use crate::domain::fault::Fault;

use super::compile::Compiled;
use super::layouts::Layouts;
use super::source::{Source, Variable, Warning};

/// What there is to say about a template.
#[derive(Debug, Clone)]
pub struct Report {
    /// The compiled template, unless there are faults. With [`Program`](super::Program) it can be previewed.
    pub compiled: Option<Compiled>,
    /// Everything that prevents it from being published.
    pub faults: Vec<Fault>,
    /// What the author should know; includes a warning for each of `unescaped`.
    pub warnings: Vec<Warning>,
    /// Example values for all variables that the template uses, inferred from how it uses them: an array for what it
    /// loops over, an object for what it takes attributes of.
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
/// declarations are used.
///
/// CPU-bound, up to about 100 ms: call it on a blocking thread. It runs on a thread of its own.
pub fn validate(source: &Source, layouts: &Layouts) -> Report {
    todo!("{source:?} {layouts:?}")
}
