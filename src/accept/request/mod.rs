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

use crate::domain::fault::{Fault, Faults};
use crate::domain::message::NewMessage;

pub mod address;
pub mod attachments;
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
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    match send::message(walk::Node::root(value), context, &mut faults) {
        Some(message) if faults.is_empty() => Ok(message),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}
