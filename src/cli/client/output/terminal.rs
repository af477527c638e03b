//! Output that is safe on a terminal, whatever the server's data contains: a subject, a reply or an address may have
//! been written by an attacker.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Stdout, Write as _};

/// Returns whether a terminal may interpret a character, or may not show it: control characters, and characters that
/// reorder or hide text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Returns text on one line, with unsafe characters escaped as in Rust: `\n`, `\u{1b}`.
pub(in crate::cli::client) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// Returns valid JSON on one line, with unsafe characters escaped as in JSON. Its value stays the same.
pub(super) fn json_line(json: &str) -> Cow<'_, str> {
    if !json.contains(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            // These occur only between two tokens: inside a string, JSON requires them to be escaped.
            '\n' | '\r' | '\t' => safe.push(' '),
            c if is_unsafe(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(safe, "\\u{unit:04x}");
                }
            }
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

/// Standard output. Every function escapes unsafe characters.
#[derive(Debug)]
pub(in crate::cli::client) struct Output(BufWriter<Stdout>);

impl Output {
    pub(in crate::cli::client) fn new() -> Self {
        Self(BufWriter::new(io::stdout()))
    }

    /// Writes a line.
    pub(in crate::cli::client) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.0, "{}", printable(text))
    }

    /// Writes valid JSON on one line.
    pub(in crate::cli::client) fn json(&mut self, json: &str) -> io::Result<()> {
        writeln!(self.0, "{}", json_line(json).trim())
    }

    /// Writes all buffered lines to standard output.
    pub(in crate::cli::client) fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Prints a note, such as `warning: …`, on standard error.
pub(in crate::cli::client) fn note(kind: &str, text: &str) {
    // Nothing can be done if standard error is closed.
    let _ = writeln!(io::stderr(), "{kind}: {}", printable(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_characters_are_escaped() {
        assert_eq!(printable("Zoë 李 👩‍👧"), "Zoë 李 👩‍👧");
        assert_eq!(printable("a\x1b[2J\r\n\u{9b}b\u{202e}\u{7f}"), "a\\u{1b}[2J\\r\\n\\u{9b}b\\u{202e}\\u{7f}");
    }

    #[test]
    fn json_keeps_its_value_on_one_line() {
        let json = "{\n  \"a\": \"x\u{9b}31m\u{7f}\u{e0041}\u{202e} Zoë\\u001b\"\n}";
        let line = json_line(json);
        assert!(!line.contains(is_unsafe), "{line}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&line), value(json));
    }
}
