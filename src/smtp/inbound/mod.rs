//! SMTP server (RFC 5321) with a policy for each listener: for the inbox (`postrider dev`, `postrider inbox`), for incoming
//! bounces, complaints and messages for inbound routes, and for submission (RFC 6409).
//!
//! Guarantees:
//!
//! - a message ends at `CRLF . CRLF` only; one with a bare CR or LF is refused, so that no two servers can disagree
//!   about where it ends ("SMTP smuggling");
//! - the [`Handler`] gets the message byte for byte, with the dots unstuffed (§4.5.2);
//! - every wait and every size is bounded by [`Settings`];
//! - credentials are read over TLS or from this machine only, and never logged;
//! - the replies to pipelined commands are sent in one write (RFC 2920).
//!
//! Extensions: PIPELINING, 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531), SIZE (RFC 1870), CHUNKING (RFC 3030),
//! ENHANCEDSTATUSCODES (RFC 2034), with a certificate STARTTLS (RFC 3207), which discards all state and input from before
//! the handshake, and if the listener offers them AUTH (RFC 4954) and DSN (RFC 3461).
//!
//! *Bytes → lines and messages → commands → session*: `line`, `data`, `chunk`, `path`, `login` and `command` are pure;
//! `wire` is the socket, `session` the protocol, `limits` what all sessions share: the limits per client, the memory of
//! messages in transfer, and the choice of the session that ends for a new one when all are in use; `server` is the
//! listener. A session runs over any stream, including TLS.

use std::net::SocketAddr;

use crate::domain::outcome::EnhancedCode;

mod chunk;
mod command;
mod data;
mod limits;
mod line;
mod login;
mod path;
mod server;
mod session;
mod settings;
mod tls;
mod wire;

pub use limits::memory::MessageMemory;
pub use server::Server;
pub use settings::{Authentication, Settings};
pub use tls::{Certificate, CertificateError};

/// Decides which messages are accepted. Called from many sessions at once.
pub trait Handler: Send + Sync + 'static {
    /// What a client has signed in as; `()` for listeners without sign-in.
    type Identity: Send + Sync;

    /// Checks the credentials of a client, if the listener requires them ([`Authentication::Required`]). A refusal with
    /// the code 421 ends the session.
    fn sign_in(&self, _login: Login<'_>) -> impl Future<Output = Result<Self::Identity, SmtpRefusal>> + Send {
        async { Err(SmtpRefusal::permanent(7, 0, "There is no sign-in here")) }
    }

    /// Returns whether a message from `from` (empty for the null sender) may begin. After a refusal with the code 530, the
    /// client has to sign in again.
    fn mail(
        &self,
        _identity: Option<&Self::Identity>,
        _from: &str,
    ) -> impl Future<Output = Result<(), SmtpRefusal>> + Send {
        async { Ok(()) }
    }

    /// Returns whether messages from `from` to `to` are accepted.
    fn rcpt(
        &self,
        identity: Option<&Self::Identity>,
        from: &str,
        to: &str,
    ) -> impl Future<Output = Result<(), SmtpRefusal>> + Send;

    /// Returns the maximum size of a message to this recipient, in bytes. RCPT is refused if MAIL declares a larger one.
    /// [`Settings::max_message`] applies too. The handler itself refuses messages that were not declared so large.
    fn max_message(&self, _to: &str) -> usize {
        usize::MAX
    }

    /// Returns how many bytes of a message to these recipients are stored at most, from its beginning. The rest is read and
    /// discarded. [`Settings::max_stored`] applies too.
    fn max_stored(&self, _to: &[String]) -> usize {
        usize::MAX
    }

    /// Accepts a message, and returns the text of the reply to its final dot. After `Ok`, this server is responsible
    /// for the message.
    fn message(
        &self,
        identity: Option<&Self::Identity>,
        message: ReceivedMessage,
    ) -> impl Future<Output = Result<String, SmtpRefusal>> + Send;
}

/// The credentials of a client. Their `Debug` output does not exist, so that they are never logged.
#[expect(missing_debug_implementations, reason = "the password must not be logged")]
#[derive(Clone, Copy)]
pub struct Login<'a> {
    /// The user's name.
    pub user: &'a str,
    /// The password.
    pub password: &'a str,
    /// Address of the client.
    pub peer: SocketAddr,
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
    /// Whether the message arrived over TLS.
    pub is_secure: bool,
    /// Whether addresses and header fields may be UTF-8 (RFC 6531).
    pub smtputf8: bool,
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

    /// Returns the reply code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Returns whether the client should try again.
    pub fn is_temporary(&self) -> bool {
        self.code < 500
    }

    /// Creates the refusal of a message that has passed too many servers.
    pub fn looping(text: impl Into<String>) -> Self {
        Self { code: 554, enhanced: EnhancedCode { class: 5, subject: 4, detail: 6 }, text: text.into() }
    }

    /// Creates a 550 refusal: the client should not try again. `subject` and `detail` are those of the enhanced code
    /// (RFC 3463).
    pub fn permanent(subject: u16, detail: u16, text: impl Into<String>) -> Self {
        Self { code: 550, enhanced: EnhancedCode { class: 5, subject, detail }, text: text.into() }
    }
}
