//! The position of a value in a body as a JSON pointer (RFC 6901). It is a path on the stack, and becomes a
//! string only when a fault is reported.

use std::borrow::Cow;
use std::fmt;

use crate::domain::api::fault::{Code, Faults};

/// A path from a value to the root. Each step borrows its parent.
#[derive(Debug, Clone, Copy)]
pub enum Pointer<'p> {
    /// The whole body.
    Root,
    /// A field of the object at a pointer.
    Field(&'p Pointer<'p>, &'p str),
    /// An element of the array at a pointer.
    Index(&'p Pointer<'p>, usize),
}

/// Maximum length, in characters, of a name in pointers and messages. Longer names are cut, so that responses do not
/// echo megabytes.
pub const MAX_ECHOED_CHARS: usize = 100;

impl Pointer<'_> {
    /// Adds a fault at this position. The message is formatted only if the list is not full.
    pub fn fault(&self, faults: &mut Faults, code: Code, message: impl fmt::Display) {
        if faults.is_full() {
            faults.push("", code, "");
        } else {
            faults.push(self.to_string(), code, message.to_string());
        }
    }
}

impl fmt::Display for Pointer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(parent, name) => {
                let name = cut(name).replace('~', "~0").replace('/', "~1");
                write!(f, "{parent}/{name}")
            }
            Self::Index(parent, index) => write!(f, "{parent}/{index}"),
        }
    }
}

/// Truncates a text to [`MAX_ECHOED_CHARS`].
pub fn cut(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_ECHOED_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_escaped_and_cut() {
        let headers = Pointer::Field(&Pointer::Root, "headers");
        assert_eq!(Pointer::Field(&headers, "a/b~c").to_string(), "/headers/a~1b~0c");
        assert_eq!(Pointer::Index(&headers, 3).to_string(), "/headers/3");
        assert_eq!(Pointer::Root.to_string(), "");
        let long = "x".repeat(10_000);
        assert_eq!(Pointer::Field(&Pointer::Root, &long).to_string().chars().count(), MAX_ECHOED_CHARS + 2);
    }
}
