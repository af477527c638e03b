//! The `jinja` syntax: `MiniJinja` with additional limits.
//!
//! A source passes through these steps: [`scan`] finds its tags, [`flatten`] inserts layouts, [`analyse`] checks the syntax tree
//! and finds the variables, and [`guard`] prints the tree with calls that bound what the template may build and compare. The
//! [`engine`] renders the printed source, with a limited amount of fuel.

pub(super) mod analyse;
mod analyse_statements;
pub(super) mod effort;
pub(super) mod engine;
mod filters;
pub(super) mod flatten;
mod flatten_blocks;
pub(super) mod guard;
mod guard_expressions;
pub(super) mod scan;
pub(super) mod shape;

use minijinja::machinery::{ast, parse as parse_template};
use minijinja::syntax::SyntaxConfig;

use crate::domain::api::fault::Code;

use super::faults::Located;

/// Names with this prefix are reserved for guards.
pub(super) const RESERVED_PREFIX: &str = "__";

/// Returns the configuration of the lexer: templates keep the newline at their end.
pub(super) fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder().keep_trailing_newline(true).build().unwrap_or_default()
}

/// Parses a source that [`scan::tags`] accepts.
pub(super) fn parse(source: &str) -> Result<ast::Stmt<'_>, Located> {
    parse_template(source, "template", syntax()).map_err(|error| located(&error))
}

/// Returns the fault of a syntax error.
pub(super) fn located(error: &minijinja::Error) -> Located {
    let offset = error.range().map_or(0, |range| range.start);
    let detail = error.detail().unwrap_or("the syntax is not valid");
    Located::new(offset, Code::InvalidTemplate, detail)
}
