//! SMTP in: a small receiving server (RFC 5321) for the inbox of `postrider dev` and for returning bounces.
//!
//! It promises little and keeps it:
//!
//! - a message ends at `CRLF . CRLF` and nowhere else; one that holds a bare CR or LF is refused, so that no two servers
//!   can disagree about where it ends ("SMTP smuggling");
//! - what the [`Handler`] gets is what was sent, byte for byte, with the dots unstuffed (§4.5.2);
//! - every wait and every size is bounded by [`Settings`];
//! - commands that arrive together are answered in one write (RFC 2920).
//!
//! Extensions: PIPELINING, 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531), SIZE (RFC 1870), ENHANCEDSTATUSCODES (RFC 2034), and
//! with a certificate STARTTLS (RFC 3207): what came before the handshake is forgotten, said or buffered.
//!
//! *Bytes → lines and messages → commands → session*, each readable alone: `line` and `data` are pure, `path` and
//! `command` are pure, `wire` is the socket, `session` the protocol, `peers` who may have how many, `seats` who leaves
//! for another when all places are taken, `server` the listener. A
//! session runs over any stream: TLS is one more.

use std::net::SocketAddr;

use crate::domain::outcome::EnhancedCode;

mod command;
mod data;
mod line;
mod path;
mod peers;
mod seats;
mod server;
mod session;
mod settings;
mod tls;
mod wire;

pub use server::Server;
pub use settings::Settings;
pub use tls::{Certificate, CertificateError};

/// Decides what is taken. Called from many sessions at once.
pub trait Handler: Send + Sync + 'static {
    /// Whether mail from `from` (empty for the null sender) to `to` is taken.
    fn rcpt(&self, from: &str, to: &str) -> impl Future<Output = Result<(), SmtpRefusal>> + Send;

    /// Takes a message, and answers the text of the reply to its final dot. With `Ok` the message is this side's to keep.
    fn message(&self, mail: ReceivedMail) -> impl Future<Output = Result<String, SmtpRefusal>> + Send;
}

/// A message as it came over the wire.
#[derive(Debug, Clone)]
pub struct ReceivedMail {
    /// What the client called itself in EHLO or HELO.
    pub helo: String,
    /// The reverse path; empty for the null sender.
    pub from: String,
    /// The forward paths, in the order given; at least one.
    pub to: Vec<String>,
    /// Where the client connected from.
    pub peer: SocketAddr,
    /// The message, lines ended by CRLF, dots unstuffed.
    pub data: Vec<u8>,
}

/// A handler's refusal, said to the client as it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} {enhanced} {text}")]
pub struct SmtpRefusal {
    code: u16,
    enhanced: EnhancedCode,
    text: String,
}

impl SmtpRefusal {
    /// A refusal with this code, which has to be 4yz or 5yz.
    pub fn new(code: u16, enhanced: EnhancedCode, text: impl Into<String>) -> Self {
        Self { code, enhanced, text: text.into() }
    }

    /// 451: this client should try again later. `subject` and `detail` are those of the enhanced code (RFC 3463).
    pub fn temporary(subject: u16, detail: u16, text: impl Into<String>) -> Self {
        Self { code: 451, enhanced: EnhancedCode { class: 4, subject, detail }, text: text.into() }
    }

    /// 550: trying again is of no use. `subject` and `detail` are those of the enhanced code (RFC 3463).
    pub fn permanent(subject: u16, detail: u16, text: impl Into<String>) -> Self {
        Self { code: 550, enhanced: EnhancedCode { class: 5, subject, detail }, text: text.into() }
    }
}
