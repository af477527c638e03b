//! A compiled template, ready to render.

use serde_json::{Map, Value};

use crate::domain::fault::Fault;

use super::compile::Compiled;
use super::source::{Variable, Warning};

/// A compiled template, parsed once. `Send`, `Sync`, and shared behind an `Arc`.
#[derive(Debug)]
pub struct Program {
    _private: (),
}

/// The variables of one message, checked, with defaults filled in.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Variables that the template does not declare, with pointers `/variables/NAME`. They are ignored.
    pub warnings: Vec<Warning>,
}

/// A rendered template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The subject, without control characters, at most 998 characters.
    pub subject: Option<String>,
    /// The HTML body.
    pub html: Option<String>,
    /// The plain text body.
    pub text: Option<String>,
    /// The sender, without control characters. Not checked to be an address.
    pub from: Option<String>,
    /// Addresses of the `Reply-To` header, without control characters. Not checked to be addresses. Empty ones are left
    /// out.
    pub reply_to: Vec<String>,
    /// The fuel used, of [`FUEL`](super::limits::FUEL).
    pub fuel: u64,
}

impl Program {
    /// Parses a compiled template. Fails only for one that [`compile`](super::compile()) did not return.
    ///
    /// Takes up to some milliseconds, on a thread of its own: call it on a blocking thread, and keep the result in a
    /// [`ProgramCache`](super::ProgramCache).
    pub fn new(compiled: &Compiled) -> Result<Self, Vec<Fault>> {
        todo!("{compiled:?}")
    }

    /// Returns the declared variables.
    pub fn variables(&self) -> &[Variable] {
        todo!()
    }

    /// Returns whether the template has a subject, a sender, or neither: a message may leave out what it has.
    pub fn has_subject(&self) -> bool {
        todo!()
    }

    /// Returns whether the template has a sender.
    pub fn has_from(&self) -> bool {
        todo!()
    }

    /// Checks the variables of a message: required ones, types, lengths and total size. Returns all faults at once, with
    /// pointers `/variables/NAME`, which the caller prefixes with `/template`. Takes microseconds.
    pub fn check(&self, variables: &Map<String, Value>) -> Result<Checked, Vec<Fault>> {
        todo!("{variables:?}")
    }

    /// Renders a message. The same input always gives the same result.
    ///
    /// Fails if the fuel or the output limits do not suffice, if a filter does not apply to a value or an attribute is
    /// missing, or if the subject or an address has a control character. The fault's pointer is empty (the caller prefixes
    /// it with `/template`); its message names the part, the line and the column.
    ///
    /// Takes microseconds for ordinary templates and at most about 100 ms: call it on a blocking thread, unless
    /// [`is_cheap`](Self::is_cheap).
    pub fn render(&self, variables: &Checked) -> Result<Rendered, Fault> {
        todo!("{variables:?}")
    }

    /// Checks that [`render`](Self::render) will succeed, and renders only what could fail: for most templates the subject
    /// and the sender. For the recipients of a bulk, which are rendered later.
    pub fn verify(&self, variables: &Checked) -> Result<(), Fault> {
        todo!("{variables:?}")
    }

    /// Returns whether rendering takes less than about a millisecond whatever the variables, so that it may run on an
    /// asynchronous thread: a short template without loops, macros and expensive filters.
    pub fn is_cheap(&self) -> bool {
        todo!()
    }

    /// Returns about how much memory the program takes, in bytes.
    pub fn bytes(&self) -> usize {
        todo!()
    }
}
