//! The bytes of a request → a validated message, or every fault in it at once.
//!
//! A body is read once into a borrowed JSON tree ([`json`]), then walked by hand ([`walk`], [`fields`]): a derived `Deserialize`
//! stops at the first fault, and the sender would mend them one request at a time. Strings stay slices of the body
//! until they are stored, so a 39 MiB attachment is decoded from where it arrived.
//!
//! What a caller can rely on: a [`NewMessage`] that comes out of [`parse`] holds no CR, LF or NUL in anything that goes
//! into a header or a command, has at least one recipient and no more than allowed, and nothing in it is unknown to
//! Postgres text (no NUL). Parsing is pure CPU (2 KiB: 8 µs; some ms per MiB of attachment): run large bodies off the async
//! threads.

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest as _, Sha256};

use crate::domain::fault::{Fault, Faults};
use crate::domain::message::NewMessage;

pub mod address;
pub mod attachments;
pub mod digest;
pub mod domain;
pub mod fields;
pub mod headers;
pub mod json;
pub mod key;
pub mod lane;
pub mod metadata;
pub mod pause;
pub mod pointer;
pub mod replay;
pub mod reschedule;
pub mod schedule;
pub mod schema;
pub mod send;
pub mod stream;
pub mod suggestion;
pub mod suppression;
pub mod tags;
pub mod walk;
pub mod webhook;

#[cfg(test)]
mod tests;

/// The counts that an installation may change. Lengths of single fields are fixed by the mail formats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Recipients of one message in `to`, `cc` and `bcc` together, counted before duplicates are dropped.
    pub recipients: usize,
    /// Attachments and inline parts of one message.
    pub attachments: usize,
    /// Custom headers of one message.
    pub headers: usize,
    /// Tags of one message.
    pub tags: usize,
    /// How far ahead `scheduled_at` may lie.
    pub schedule_ahead: TimeDelta,
}

impl Default for Limits {
    fn default() -> Self {
        Self { recipients: 50, attachments: 20, headers: 50, tags: 20, schedule_ahead: TimeDelta::days(365) }
    }
}

/// What a message is checked against besides itself.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// When the request arrived; becomes the time part of the ids and `created_at`.
    pub now: DateTime<Utc>,
    /// The installation's limits.
    pub limits: &'a Limits,
    /// The names of all streams.
    pub streams: &'a [String],
}

/// Why a body is not a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Not JSON, not UTF-8, nested too deep or holding too many values (HTTP 400).
    #[error("{message} (line {line}, column {column})")]
    Malformed {
        /// Line of the fault, from 1.
        line: usize,
        /// Octet in the line, from 1; 0 where the line had just begun.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// Well-formed JSON that is not a valid request (HTTP 422): every fault, up to [`Faults::LIMIT`].
    #[error("{} faults, the first at {:?}", .0.len(), .0.first().map_or("", |fault| fault.pointer.as_str()))]
    Invalid(Vec<Fault>),
}

/// Reads the body of `POST /v1/messages`.
pub fn parse(body: &[u8], context: &Context<'_>) -> Result<NewMessage, Rejection> {
    validate(json::read(body, json::MAX_VALUES)?, context)
}

/// The same of a request that has an `Idempotency-Key`, with what that is compared by.
pub fn parse_keyed(body: &[u8], context: &Context<'_>) -> Result<(NewMessage, Fingerprints), Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let fingerprints = Fingerprints { bytes: Sha256::digest(body).into(), parsed: digest::digest(&value) };
    Ok((validate(value, context)?, fingerprints))
}

/// What the request of an `Idempotency-Key` is compared by. Unlike [`parse_keyed`] it takes what is not valid any more, such
/// as an `expires_at` that has passed since: a repeated request gets its first answer all the same.
pub fn fingerprints(body: &[u8]) -> Result<Fingerprints, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    Ok(Fingerprints { bytes: Sha256::digest(body).into(), parsed: digest::digest(&value) })
}

/// Two digests of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprints {
    /// SHA-256 of its bytes, which earlier versions compare.
    pub bytes: [u8; 32],
    /// SHA-256 of what it says.
    pub parsed: [u8; 32],
}

fn validate(value: serde_json_borrow::Value<'_>, context: &Context<'_>) -> Result<NewMessage, Rejection> {
    let mut faults = Faults::default();
    match send::message(walk::Node::root(value), context, &mut faults) {
        Some(message) if faults.is_empty() => Ok(message),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}
