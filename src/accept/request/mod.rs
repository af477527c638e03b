//! Parses the bytes of a request into a validated message, or into a list of all its faults.
//!
//! A body is parsed once into a borrowed JSON tree ([`json`]), which is then walked ([`json::walk`], [`json::fields`]):
//! a derived `Deserialize` would stop at the first fault, so that the client would have to fix faults one request at a
//! time. Strings stay slices of the body until they are stored, so a 39 MiB attachment is decoded without a copy.
//! [`message`] parses a message, [`batch`], [`bulk`] and [`mime`] the other forms in which messages come, and
//! [`resources`] everything else.
//!
//! A [`NewMessage`] that [`parse`] returns has at least one recipient and at most the allowed number. No value that
//! goes into a header or a command contains CR, LF or NUL, and no text contains NUL, which Postgres cannot store.
//! Parsing uses only CPU time (2 KiB: 8 µs; some ms per MiB of attachment): parse large bodies off the async threads.
//! It also renders templates ([`message::render`]).

use chrono::{DateTime, TimeDelta, Utc};
use serde_json_borrow::Value;
use sha2::{Digest as _, Sha256};

use crate::domain::api::fault::{Fault, Faults};
use crate::domain::message::NewMessage;
use files::{Files, NO_FILES};
use message::render::{NO_TEMPLATES, TemplateRef, Templates};

pub mod batch;
pub mod bulk;
pub mod digest;
pub mod files;
pub mod json;
pub mod message;
pub mod mime;
pub mod resources;
pub mod schema;

#[cfg(test)]
mod tests;

/// Limits that an installation can change. The maximum lengths of single fields follow from the formats of email.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of recipients of one message in `to`, `cc` and `bcc` together, counted before duplicates are
    /// dropped.
    pub recipients: usize,
    /// Maximum number of attachments and inline parts of one message.
    pub attachments: usize,
    /// Maximum number of bytes of all attachments of one message.
    pub attachment_bytes: u64,
    /// Maximum number of custom headers of one message.
    pub headers: usize,
    /// Maximum number of tags of one message.
    pub tags: usize,
    /// Maximum time until `scheduled_at`.
    pub schedule_ahead: TimeDelta,
    /// Whether messages to simulator addresses are accepted.
    pub simulator: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            recipients: 50,
            attachments: 20,
            attachment_bytes: 40 << 20,
            headers: 50,
            tags: 20,
            schedule_ahead: TimeDelta::days(365),
            simulator: true,
        }
    }
}

/// The context in which a message is validated.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// When the request arrived; becomes the time part of the ids and `created_at`.
    pub now: DateTime<Utc>,
    /// The installation's limits.
    pub limits: &'a Limits,
    /// The names of all streams.
    pub streams: &'a [String],
    /// The files that attachments may refer to.
    pub files: &'a Files,
    /// The templates that messages may name.
    pub templates: &'a Templates,
}

impl<'a> Context<'a> {
    /// Creates the context of a request without files and templates.
    pub fn new(now: DateTime<Utc>, limits: &'a Limits, streams: &'a [String]) -> Self {
        Self { now, limits, streams, files: &NO_FILES, templates: &NO_TEMPLATES }
    }
}

/// Why a body is not a valid request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The body is not JSON, not UTF-8, nested too deep, or has too many values (HTTP 400).
    #[error("{message} (line {line}, column {column})")]
    Malformed {
        /// Line of the fault, counted from 1.
        line: usize,
        /// Byte in the line, counted from 1; 0 if the fault is at the start of the line.
        column: usize,
        /// What is wrong at this position.
        message: String,
    },
    /// The body is JSON, but not a valid request (HTTP 422). Contains every fault, up to [`Faults::LIMIT`].
    #[error("{} faults, the first at {:?}", .0.len(), .0.first().map_or("", |fault| fault.pointer.as_str()))]
    Invalid(Vec<Fault>),
    /// The request refers to these blobs, which must be looked up before it is parsed again ([`Files::blobs`]).
    #[error("blobs are not looked up yet")]
    NeedsBlobs(Vec<String>),
    /// The request names these templates, which must be loaded before it is parsed again ([`Context::templates`]).
    #[error("templates are not loaded yet")]
    NeedsTemplates(Vec<TemplateRef>),
}

/// Parses the body of `POST /v1/messages`.
pub fn parse(body: &[u8], context: &Context<'_>) -> Result<NewMessage, Rejection> {
    validate(json::read(body, json::MAX_VALUES)?, context)
}

/// Parses the body of a request with an `Idempotency-Key`, and computes its hashes.
pub fn parse_keyed(body: &[u8], context: &Context<'_>) -> Result<(NewMessage, RequestHashes), Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let hashes = RequestHashes::new(body, &value, context.files);
    Ok((validate(value, context)?, hashes))
}

/// Returns the hashes by which requests with the same `Idempotency-Key` are compared. Unlike [`parse_keyed`], it
/// accepts a request that is no longer valid, such as one whose `expires_at` has passed: a repeated request gets the
/// first response.
pub fn hashes(body: &[u8], files: &Files) -> Result<RequestHashes, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    Ok(RequestHashes::new(body, &value, files))
}

/// Two hashes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHashes {
    /// SHA-256 of the request's bytes, which earlier versions of Postrider compare. For a form, it equals `digest`: the
    /// bytes of its JSON do not determine its files.
    pub fingerprint: [u8; 32],
    /// SHA-256 of the request's parsed content.
    pub digest: [u8; 32],
}

impl RequestHashes {
    /// Computes the hashes of a request with this JSON.
    pub fn new(body: &[u8], value: &Value<'_>, files: &Files) -> Self {
        Self::with_digest(digest::with_files(value, files), body, files)
    }

    /// Creates the hashes of a request with this digest and this JSON.
    fn with_digest(digest: [u8; 32], body: &[u8], files: &Files) -> Self {
        let fingerprint = if files.parts.is_some() { digest } else { Sha256::digest(body).into() };
        Self { fingerprint, digest }
    }
}

fn validate(value: Value<'_>, context: &Context<'_>) -> Result<NewMessage, Rejection> {
    let mut faults = Faults::default();
    files::check(&value, context.files, &mut faults)?;
    let message = message::send::message(json::walk::Node::root(value), context, &mut faults);
    let missing = context.templates.take_missing();
    match message {
        _ if !missing.is_empty() => Err(Rejection::NeedsTemplates(missing)),
        Some(message) if faults.is_empty() => Ok(message),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}
