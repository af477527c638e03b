//! Renders messages as MIME and parses reports. Uses no sockets, SQL, clock or randomness.
//!
//! [`build`] renders a [`Draft`](crate::domain::message::Draft), and guarantees:
//! - the same draft renders the same bytes, so that every attempt sends the same message;
//! - every line ends in CRLF, has at most 998 bytes (RFC 5322 §2.1.1) and is 7-bit, except for header lines with an
//!   address whose local part is not ASCII (RFC 6532; such messages need SMTPUTF8 anyway), and for the body of an
//!   attached message, which must not be encoded (RFC 2046 §5.2.1);
//! - no field can add a header, a recipient or a part;
//! - an RFC 5322/2045 parser returns the values that the sender passed, with CRLF line ends in bodies.
//!
//! A message that the application passed as finished MIME ([`raw`]) is not rendered: only the fields that it lacks are
//! added. A received message that is passed on is not changed at all.

pub mod body;
mod build;
pub mod cid;
pub mod content;
pub mod dkim;
mod encoding;
pub mod failure_report;
mod header;
pub mod raw;
pub mod received;
pub mod report;

#[cfg(test)]
mod tests;

pub use body::attachment::is_sendable_as;
pub use build::build;
