//! Compiles a template when it is published.

use serde::{Deserialize, Serialize};

use crate::domain::fault::Fault;

use super::layouts::Layouts;
use super::source::{Source, Syntax, Variable, Warning};

/// A published version: what messages are rendered from. It is stored as JSON, contains its layouts, and does not change
/// when they do.
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
    /// The sender.
    pub from: Option<String>,
    /// Addresses of the `Reply-To` header.
    pub reply_to: Vec<String>,
    /// The variables that the template and its layouts declare.
    pub variables: Vec<Variable>,
    /// What the publisher should know.
    pub warnings: Vec<Warning>,
}

/// Compiles a template. Returns all faults at once, with pointers such as `/html`; messages name the line and column.
///
/// CPU-bound, up to about 100 ms: call it on a blocking thread. It runs on a thread of its own, because parsers need a
/// stack of known size.
pub fn compile(source: &Source, layouts: &Layouts) -> Result<Compiled, Vec<Fault>> {
    todo!("{source:?} {layouts:?}")
}
