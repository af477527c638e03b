//! Bytes ↔ types: turns a message into MIME. No sockets, no SQL, no clock, no dice.
//!
//! [`build`] promises, whatever the fields of a draft hold:
//! - the same draft renders the same bytes, so that every attempt and every copy of the message is the same mail;
//! - every line ends in CRLF, is at most 998 bytes long (RFC 5322 §2.1.1) and 7-bit, except for header lines with an
//!   address whose local part is not ASCII (RFC 6532; such message needs SMTPUTF8 anyway);
//! - no field can add a header, a recipient or a part;
//! - what the sender wrote is what an RFC 5322/2045 reader gets back, bodies with their line ends as CRLF.

mod attachment;
mod base64_lines;
mod build;
mod content_id;
pub mod dkim;
mod encoded_word;
mod field;
mod header;
mod mailboxes;
mod normalise;
mod parameter;
mod quoted_printable;
pub mod report;
mod structured;
mod text;

#[cfg(test)]
mod tests;

pub use attachment::may_be_declared;
pub use build::build;
pub use header::message_id;
