//! The template engine: what an application stores as a template becomes the subject and the bodies of a message.
//!
//! Pure: no I/O, no network, no files; it imports only `domain` and crates.
//!
//! - **Publish**: [`compile`] checks a [`Source`], inserts its layouts ([`Layouts`]), compiles MJML, inlines CSS, derives
//!   the plain text body, and returns what is stored as the published version ([`Compiled`]).
//! - **Accept**: [`Program::new`] parses a compiled template once; [`Program::check`] checks the variables of a
//!   message; [`Program::verify`] or [`Program::render`] proves that the template can be rendered with them.
//! - **Send**: [`Program::render`] takes microseconds to a few milliseconds.
//! - **Preview**: [`validate`] returns all faults and warnings of an unsaved template, and suggested variables.
//!
//! Untrusted templates and variables cost a bounded amount of time and memory: every function returns faults for what
//! exceeds the [`limits`]. Functions that run on a thread of their own, with a stack of known size, say so.

mod cache;
mod compile;
mod faults;
mod jinja;
mod layouts;
pub mod limits;
mod markup;
mod program;
mod source;
#[cfg(test)]
mod tests;
mod thread;
mod validate;
mod values;
mod vars;

pub use cache::ProgramCache;
pub use compile::{Compiled, compile};
pub use layouts::{Layout, Layouts};
pub use program::{Checked, Program, Rendered};
pub use source::{Format, Source, Syntax, Variable, VariableType, Warning, WarningCode};
pub use validate::{Report, UnescapedOutput, validate};

/// Derives the plain text body of an HTML body that is not a template, on a thread of its own. Returns `None` if the HTML
/// is larger or nested deeper than a template may be.
pub fn plain_text(html: &str) -> Option<String> {
    if html.len() > limits::MAX_SOURCE {
        return None;
    }
    thread::run(|| markup::text::derive(html, &[]).ok()).ok().flatten()
}
