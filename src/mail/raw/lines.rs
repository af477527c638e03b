//! Checks the lines of a finished message, and gives them CRLF line ends (RFC 5321 §2.3.8).

use super::line_fault;
use crate::domain::api::fault::{Code, Faults};
use crate::domain::message::header_syntax::MAX_LINE;

/// Number of faults of one message after which its further lines are not checked.
const MAX_REPORTED: usize = 10;

/// Returns the message with CRLF for every LF, and a line end at its end. Does not copy a message whose lines all end
/// with CRLF. Adds a fault for a CR that is not followed by LF, a NUL, and a line that is too long. Returns `None` if
/// the message would have more than `max` bytes.
pub(super) fn normalise(message: Vec<u8>, max: u64, faults: &mut Faults) -> Option<Vec<u8>> {
    let before = faults.len();
    let (mut number, mut bare) = (0, 0);
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        number += 1;
        let text = match line.strip_suffix(b"\n") {
            Some(line) => line.strip_suffix(b"\r").unwrap_or_else(|| {
                bare += 1;
                line
            }),
            None => line,
        };
        if faults.len() - before < MAX_REPORTED {
            check(text, number, faults);
        }
    }
    let end: &[u8] = if message.ends_with(b"\n") { b"" } else { b"\r\n" };
    let size = message.len() + bare + end.len();
    if size as u64 > max {
        let message = format!("the message has {size} bytes with CRLF line ends; at most {max} are allowed");
        faults.push("", Code::TooLarge, message);
        return None;
    }
    let mut normal = if bare == 0 { message } else { with_crlf(&message, size) };
    // Otherwise the vector could double its size.
    normal.reserve_exact(end.len());
    normal.extend_from_slice(end);
    Some(normal)
}

fn check(line: &[u8], number: usize, faults: &mut Faults) {
    if line.len() > MAX_LINE {
        let what = format!(
            "has {} bytes, but at most {MAX_LINE} are allowed (RFC 5322 §2.1.1): encode the part in quoted-printable or base64",
            line.len()
        );
        line_fault(faults, Code::TooLong, number, &what);
    }
    match memchr::memchr2(b'\r', 0, line) {
        Some(at) if line[at] == 0 => line_fault(faults, Code::ControlCharacter, number, "has a NUL"),
        Some(_) => line_fault(faults, Code::ControlCharacter, number, "has a CR without LF; end lines with CRLF or LF"),
        None => {}
    }
}

fn with_crlf(message: &[u8], size: usize) -> Vec<u8> {
    let mut normal = Vec::with_capacity(size);
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                normal.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
                normal.extend_from_slice(b"\r\n");
            }
            None => normal.extend_from_slice(line),
        }
    }
    normal
}
