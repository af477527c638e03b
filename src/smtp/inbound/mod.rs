//! Minimal SMTP server (RFC 5321), for the inbox (`postrider dev`, `postrider inbox`) and for incoming bounces and
//! complaints.
//!
//! Guarantees:
//!
//! - a message ends at `CRLF . CRLF` only; one with a bare CR or LF is refused, so that no two servers can disagree
//!   about where it ends ("SMTP smuggling");
//! - the [`Handler`] gets the message byte for byte, with the dots unstuffed (§4.5.2);
//! - every wait and every size is bounded by [`Settings`];
//! - the replies to pipelined commands are sent in one write (RFC 2920).
//!
//! Extensions: PIPELINING, 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531), SIZE (RFC 1870), ENHANCEDSTATUSCODES (RFC 2034),
//! with a certificate STARTTLS (RFC 3207), which discards all state and input from before the handshake, and in the
//! inbox AUTH (RFC 4954), which accepts any login.
//!
//! *Bytes → lines and messages → commands → session*: `line`, `data`, `path` and `command` are pure; `wire` is the
//! socket, `session` the protocol, `client_limits` the limits per client; `session_eviction` chooses the session that
//! ends for a new one when all are in use; `server` is the listener. A session runs over any stream, including TLS.

use std::net::SocketAddr;

use crate::domain::outcome::EnhancedCode;

mod client_limits;
mod command;
mod data;
mod line;
mod path;
mod server;
mod session;
mod session_eviction;
mod settings;
mod tls;
mod wire;

pub use server::Server;
pub use settings::Settings;
pub use tls::{Certificate, CertificateError};

/// Decides which messages are accepted. Called from many sessions at once.
pub trait Handler: Send + Sync + 'static {
    /// Returns whether messages from `from` (empty for the null sender) to `to` are accepted.
    fn rcpt(&self, from: &str, to: &str) -> impl Future<Output = Result<(), SmtpRefusal>> + Send;

    /// Accepts a message, and returns the text of the reply to its final dot. After `Ok`, this server is responsible
    /// for the message.
    fn message(&self, message: ReceivedMessage) -> impl Future<Output = Result<String, SmtpRefusal>> + Send;
}

/// A message as received.
#[derive(Debug, Clone)]
pub struct ReceivedMessage {
    /// Name of the client in EHLO or HELO.
    pub helo: String,
    /// The reverse path; empty for the null sender.
    pub from: String,
    /// The forward paths, in the order given; at least one.
    pub to: Vec<String>,
    /// Address of the client.
    pub peer: SocketAddr,
    /// The message, lines ended by CRLF, dots unstuffed.
    pub data: Vec<u8>,
}

/// A handler's refusal, sent to the client unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} {enhanced} {text}")]
pub struct SmtpRefusal {
    code: u16,
    enhanced: EnhancedCode,
    text: String,
}

impl SmtpRefusal {
    /// Creates a refusal with this code, which must be 4yz or 5yz.
    pub fn new(code: u16, enhanced: EnhancedCode, text: impl Into<String>) -> Self {
        Self { code, enhanced, text: text.into() }
    }

    /// Creates a 451 refusal: the client should try again later. `subject` and `detail` are those of the enhanced code
    /// (RFC 3463).
    pub fn temporary(subject: u16, detail: u16, text: impl Into<String>) -> Self {
        Self { code: 451, enhanced: EnhancedCode { class: 4, subject, detail }, text: text.into() }
    }

    /// Creates a 550 refusal: the client should not try again. `subject` and `detail` are those of the enhanced code
    /// (RFC 3463).
    pub fn permanent(subject: u16, detail: u16, text: impl Into<String>) -> Self {
        Self { code: 550, enhanced: EnhancedCode { class: 5, subject, detail }, text: text.into() }
    }
}
