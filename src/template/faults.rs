//! Faults and positions in the parts of a template.

use crate::domain::api::fault::{Code, Fault, Faults};

/// A part of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Subject,
    Html,
    Text,
    From,
    ReplyTo(usize),
}

impl Part {
    /// Returns the JSON pointer to the part.
    pub(super) fn pointer(self) -> String {
        match self {
            Self::ReplyTo(index) => format!("/reply_to/{index}"),
            part => format!("/{}", part.name()),
        }
    }

    /// Returns the part's name, as in the JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Html => "html",
            Self::Text => "text",
            Self::From => "from",
            Self::ReplyTo(_) => "reply_to",
        }
    }
}

/// A fault in a text, by its byte offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) offset: usize,
    pub(super) code: Code,
    pub(super) message: String,
}

impl Located {
    pub(super) fn new(offset: usize, code: Code, message: impl Into<String>) -> Self {
        Self { offset, code, message: message.into() }
    }
}

/// Returns the line and the column of a byte offset, from 1. The column counts characters.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Adds the fault at an offset of a text to the faults of its part.
pub(super) fn push(faults: &mut Faults, part: Part, text: &str, fault: &Located) {
    let (line, column) = position(text, fault.offset);
    faults.push(part.pointer(), fault.code, format!("line {line}, column {column}: {}", fault.message));
}

/// Creates a fault without a position.
pub(super) fn fault(pointer: impl Into<String>, code: Code, message: impl Into<String>) -> Fault {
    Fault { pointer: pointer.into(), code: code.as_str(), message: message.into() }
}

/// Shortens a text for a message.
pub(super) fn excerpt(text: &str) -> String {
    const MAX: usize = 80;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_counts_characters_from_one() {
        let text = "ä{{ x }}\nö\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 2), (1, 2));
        assert_eq!(position(text, 1), (1, 1), "inside a character");
        assert_eq!(position(text, text.len()), (3, 1));
        assert_eq!(position(text, 1_000), (3, 1));
    }

    #[test]
    fn excerpts_are_short_and_on_one_line() {
        assert_eq!(excerpt("{{\n  x }}"), "{{ x }}");
        assert_eq!(excerpt(&"ä".repeat(100)).chars().count(), 81);
    }
}
