//! Removes email addresses from log lines. Every line passes here, so it does not matter whether an address comes from
//! this program, from the reply of a server or from a library.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// Stands for the local part of an address.
const MASK: &[u8] = b"[hidden]";

/// Writes lines to standard error, without the local parts of addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct MaskedStderr {
    pub is_json: bool,
}

impl MakeWriter<'_> for MaskedStderr {
    type Writer = MaskedLine;

    fn make_writer(&self) -> MaskedLine {
        MaskedLine { is_json: self.is_json }
    }
}

/// The writer of one line, which arrives in one piece.
#[derive(Debug)]
pub(super) struct MaskedLine {
    is_json: bool,
}

impl Write for MaskedLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&mask(line, self.is_json))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Replaces the local part of every address. In JSON, quotes delimit strings unless they are escaped.
fn mask(line: &[u8], is_json: bool) -> Vec<u8> {
    let mut masked = Vec::with_capacity(line.len());
    let mut copied = 0;
    for at in memchr::memchr_iter(b'@', line) {
        let is_domain =
            line.get(at + 1).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'[' || *byte >= 0x80);
        let start = local_part(&line[..at], is_json).max(copied);
        if is_domain && start < at {
            masked.extend_from_slice(&line[copied..start]);
            masked.extend_from_slice(MASK);
            copied = at;
        }
    }
    masked.extend_from_slice(&line[copied..]);
    masked
}

/// Returns where the local part at the end of `before` starts.
fn local_part(before: &[u8], is_json: bool) -> usize {
    let is_escaped = before.ends_with(b"\\\"");
    if before.ends_with(b"\"") && (is_escaped || !is_json) {
        return quoted_start(before, is_escaped);
    }
    let length = before.iter().rev().take_while(|byte| is_local(**byte)).count();
    let start = before.len() - length;
    if is_json { start + escape(before, start) } else { start + field_name(before, start) }
}

/// Returns the length of the rest of an escape sequence at `start`, whose backslash is before it: the letter, and the
/// digits of `\u001b`. An even number of backslashes are characters of their own.
fn escape(before: &[u8], start: usize) -> usize {
    let backslashes = before[..start].iter().rev().take_while(|byte| **byte == b'\\').count();
    let length = match before.get(start) {
        _ if backslashes % 2 == 0 => 0,
        Some(b'u') => 5,
        _ => 1,
    };
    length.min(before.len() - start)
}

/// Returns where a quoted local part starts, which may be quoted once more because it is part of a string.
fn quoted_start(before: &[u8], is_escaped: bool) -> usize {
    let quote: &[u8] = if is_escaped { b"\\\"" } else { b"\"" };
    let inner = &before[..before.len() - quote.len()];
    let start = memchr::memmem::rfind(inner, quote).filter(|start| {
        let quoted = &inner[start + quote.len()..];
        // A bare quote ends a string: these are two strings, and not a quoted local part.
        !memchr::memchr_iter(b'"', quoted).any(|at| at == 0 || quoted[at - 1] != b'\\')
    });
    start.unwrap_or(before.len())
}

/// Returns the length of the name of a field, with its `=`, if the local part at `start` is one with a value. A domain
/// after the `=` is part of a return path that contains the recipient's address: all of it is a local part.
fn field_name(before: &[u8], start: usize) -> usize {
    let local = &before[start..];
    let name = local.iter().take_while(|byte| byte.is_ascii_lowercase() || **byte == b'_').count();
    let is_field = before[..start].last().is_none_or(|byte| *byte == b' ')
        && local.get(name) == Some(&b'=')
        && !local[name..].contains(&b'.');
    if is_field { name + 1 } else { 0 }
}

/// Returns whether a local part can contain this byte without quotes (RFC 5321 §4.1.2, RFC 6531 §3.3).
fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b".!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &str) -> String {
        String::from_utf8(mask(line.as_bytes(), false)).unwrap()
    }

    fn json(line: &str) -> String {
        String::from_utf8(mask(line.as_bytes(), true)).unwrap()
    }

    #[test]
    fn local_part_of_every_address_is_hidden() {
        assert_eq!(text("550 <ann.lee+x@acme.test> and bo@b.test"), "550 <[hidden]@acme.test> and [hidden]@b.test");
        assert_eq!(text("to=ann@acme.test"), "to=[hidden]@acme.test", "the name of the field stays");
        assert_eq!(text("sent to=ann@acme.test"), "sent to=[hidden]@acme.test");
        assert_eq!(text("to=x.y@acme.test"), "[hidden]@acme.test");
        assert_eq!(text("550 <ann=acme.test@bounce.test>"), "550 <[hidden]@bounce.test>");
        assert_eq!(text("550 ann=acme.test@bounce.test"), "550 [hidden]@bounce.test");
        assert_eq!(text("b+ann=acme.test@return.test"), "[hidden]@return.test");
        assert_eq!(text("müller@bücher.test ann@[192.0.2.1]"), "[hidden]@bücher.test [hidden]@[192.0.2.1]");
    }

    #[test]
    fn quoted_local_part_is_hidden() {
        assert_eq!(text(r#"<"ann lee"@acme.test>"#), "<[hidden]@acme.test>");
        assert_eq!(text(r#"to="\"ann lee\"@acme.test""#), r#"to="[hidden]@acme.test""#);
        assert_eq!(json(r#"{"to":"\"ann lee\"@acme.test"}"#), r#"{"to":"[hidden]@acme.test"}"#);
    }

    #[test]
    fn json_stays_json() {
        let lines = [
            r#"{"to":"ann@acme.test","a":"@acme.test","b":"x @ y","c":"ann@ b"}"#,
            r#"{"a":"\\\"@b","c":"\"@b","d":"{\"to\":\"ann@acme.test\"}"}"#,
            r#"{"url":"smtp://user@relay.test/"}"#,
            r#"{"a":"x\nann@acme.test","b":"\u001bann@b.test","c":"\\ann@b.test","d":"\n@b.test"}"#,
        ];
        for line in lines {
            serde_json::from_str::<serde_json::Value>(&json(line))
                .unwrap_or_else(|error| panic!("{error}: {}", json(line)));
        }
        assert_eq!(json(lines[0]), r#"{"to":"[hidden]@acme.test","a":"@acme.test","b":"x @ y","c":"ann@ b"}"#);
        let escaped =
            r#"{"a":"x\n[hidden]@acme.test","b":"\u001b[hidden]@b.test","c":"\\[hidden]@b.test","d":"\n@b.test"}"#;
        assert_eq!(json(lines[3]), escaped);
    }

    #[test]
    fn line_without_address_is_unchanged() {
        for line in ["", "@", "a @ b", "postrider is running address=127.0.0.1:8080", "@acme.test"] {
            assert_eq!(text(line), line);
        }
    }
}
