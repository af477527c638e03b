//! Reads mail that came back: DSNs, complaints, automatic replies.

use crate::domain::report::Report;

/// Reads a mail. Whatever the bytes, there is an answer.
pub fn read(_mime: &[u8]) -> Report {
    Report::unknown()
}
