//! Parses bytes into a borrowed JSON tree (RFC 8259) of bounded size.
//!
//! A tree takes up to 56 bytes per value, so 40 MiB of `[1,1,1,…]` would take a gigabyte: values are counted before the
//! tree is built. The parser bounds the depth (127). Duplicate names stay in the tree; [`fields`] and [`walk`] report
//! them. A byte order mark is skipped, as RFC 8259 §8.1 allows.

pub mod fields;
pub mod pointer;
pub mod raw_list;
pub mod suggestion;
pub mod walk;

use std::ops::Range;

use memchr::{memchr_iter, memchr2};
use serde_json_borrow::Value;

use super::Rejection;

/// Maximum number of values in one message; a typical one has at most a few hundred.
pub const MAX_VALUES: usize = 20_000;

/// Parses a body as one JSON value of at most `max_values` values, including itself.
pub fn read(body: &[u8], max_values: usize) -> Result<Value<'_>, Rejection> {
    let text = text(body)?;
    read_part(text, 0..text.len(), max_values)
}

/// Returns the text of a body without its byte order mark. Fails if it is empty or not UTF-8.
pub fn text(body: &[u8]) -> Result<&str, Rejection> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let text = std::str::from_utf8(body)
        .map_err(|error| malformed_at(body, error.valid_up_to(), "the body must be UTF-8".into()))?;
    if text.trim_ascii().is_empty() {
        return Err(malformed_at(body, 0, "the body must not be empty".into()));
    }
    Ok(text)
}

/// Parses a part of a text as one JSON value of at most `max_values` values. Positions refer to the whole text.
pub fn read_part(text: &str, part: Range<usize>, max_values: usize) -> Result<Value<'_>, Rejection> {
    let (start, part) = (part.start, text.get(part).unwrap_or_default());
    if let Some(offset) = excess_offset(part.as_bytes(), max_values) {
        let what = if part.len() == text.len() { "the body" } else { "a message" };
        let message = format!("{what} must not have more than {max_values} JSON values");
        return Err(malformed_at(text.as_bytes(), start + offset, message));
    }
    serde_json::from_str(part).map_err(|error| {
        let mut rejection = malformed(&error);
        if let (Rejection::Malformed { line, column, .. }, true) = (&mut rejection, start > 0) {
            let before = &text.as_bytes()[..start];
            *column += if *line == 1 { start - line_start(before) } else { 0 };
            *line += memchr_iter(b'\n', before).count();
        }
        rejection
    })
}

/// Returns the rejection for an error of the parser.
pub fn malformed(error: &serde_json::Error) -> Rejection {
    Rejection::Malformed { line: error.line(), column: error.column(), message: describe(error) }
}

/// Returns the offset at which the body exceeds `max` values: every value except the first is counted at a `[`, a `{`
/// or a `,`.
fn excess_offset(body: &[u8], max: usize) -> Option<usize> {
    if body.len() <= max {
        return None;
    }
    let (mut values, mut index) = (1, 0);
    while let Some(&byte) = body.get(index) {
        index += 1;
        match byte {
            b'"' => index = string_end(body, index),
            b'[' | b'{' | b',' => {
                values += 1;
                if values > max {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}

/// Returns the index after the closing quote of the string whose content starts at `start`.
fn string_end(body: &[u8], start: usize) -> usize {
    let mut index = start;
    while let Some(step) = body.get(index..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        index += step;
        if body[index] == b'"' {
            return index + 1;
        }
        index += 2;
    }
    body.len()
}

/// Returns the parser's message without its position, which has separate fields.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    match reason {
        "recursion limit exceeded" => "the JSON is nested deeper than 127 levels".into(),
        "lone leading surrogate in hex escape" | "unexpected end of hex escape" => {
            "a \\u escape is half of a surrogate pair".into()
        }
        reason => format!("the body must be JSON: {reason}"),
    }
}

fn malformed_at(body: &[u8], offset: usize, message: String) -> Rejection {
    let before = &body[..offset.min(body.len())];
    let line = memchr_iter(b'\n', before).count() + 1;
    let column = before.len() - line_start(before) + 1;
    Rejection::Malformed { line, column, message }
}

/// Returns the offset at which the last line starts.
fn line_start(text: &[u8]) -> usize {
    memchr::memrchr(b'\n', text).map_or(0, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &[u8]) -> (usize, usize, String) {
        match read(body, 100) {
            Err(Rejection::Malformed { line, column, message }) => (line, column, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn malformed_body_is_reported_with_position_and_reason() {
        let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
        for (body, line, column, reason) in [
            (b"".as_slice(), 1, 1, "empty"),
            (b" \n ", 1, 1, "empty"),
            (b"{\n\"a\": tru}", 2, 9, "expected ident"),
            (b"{\"a\":1,}", 1, 8, "trailing comma"),
            (b"{\"a\":1} x", 1, 9, "trailing characters"),
            (b"{\"a\":\"\n\"}", 2, 0, "control character"),
            (b"{\n \"a\":\"\xff\"}", 2, 7, "UTF-8"),
            (br#"{"a":"\ud800"}"#, 1, 13, "surrogate"),
            (br#"{"a":"\udc00x"}"#, 1, 12, "surrogate"),
            (br#"{"a":1e999}"#, 1, 10, "out of range"),
        ] {
            let (at_line, at_column, message) = refusal(body);
            assert!(message.contains(reason), "{message}");
            assert_eq!((at_line, at_column), (line, column), "{message}");
        }
        let Err(Rejection::Malformed { message, .. }) = read(deep.as_bytes(), 1_000) else { panic!("too deep") };
        assert!(message.contains("127 levels"), "{message}");
    }

    #[test]
    fn values_are_counted_outside_of_strings() {
        let fits = format!("[{}1]", "1,".repeat(98));
        assert!(read(fits.as_bytes(), 100).is_ok());
        let over = format!("[{}1]", "1,".repeat(99));
        assert!(refusal(over.as_bytes()).2.contains("more than 100"));
        let text = format!("{{\"a\":\"{}\\\"{}\\\\\"}}", ",".repeat(500), "[".repeat(500));
        assert!(read(text.as_bytes(), 100).is_ok());
    }

    #[test]
    fn positions_in_a_part_refer_to_the_whole_text() {
        let text = "[1,\n {\"a\": 1},\n {\"b\": 1e999}, {\"c\":\n 1e999}]";
        for (part, line, column) in [("{\"b\": 1e999}", 3, 12), ("{\"c\":\n 1e999}", 4, 6)] {
            let start = text.find(part).expect("a part");
            match read_part(text, start..start + part.len(), 100) {
                Err(Rejection::Malformed { line: at_line, column: at_column, message }) => {
                    assert_eq!((at_line, at_column), (line, column), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_long_string_is_not_copied() {
        let body = format!("\u{feff}{{\"a\":\"{}\"}}", "x".repeat(1_000));
        let value = read(body.as_bytes(), 100).expect("JSON");
        let text = value.get("a").as_str().expect("a string").as_bytes();
        assert!(body.as_bytes().as_ptr_range().contains(&text.as_ptr()), "the string is a slice of the body");
    }
}
