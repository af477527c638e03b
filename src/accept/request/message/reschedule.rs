//! Parses the body of `PATCH /v1/messages/{id}`: a new `scheduled_at`.

use chrono::{DateTime, Utc};

use super::schedule;
use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::{Context, Rejection, json};
use crate::domain::api::fault::{Code, Faults};

/// The fields of the body.
const FIELDS: &[&str] = &["scheduled_at"];

/// Parses the new time of a message that expires at `expires_at`. A time in the past means now.
pub fn parse(
    body: &[u8],
    expires_at: Option<DateTime<Utc>>,
    context: &Context<'_>,
) -> Result<DateTime<Utc>, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let time = Fields::open(value, &at, FIELDS, &mut faults).map(|mut fields| {
        let node = fields.require("scheduled_at", &mut faults);
        let time = schedule::scheduled_at(node, context, &mut faults).unwrap_or(context.now);
        if expires_at.is_some_and(|end| time >= end) {
            let field = Pointer::Field(&at, "scheduled_at");
            field.fault(&mut faults, Code::InvalidTimestamp, "must be earlier than the message's `expires_at`");
        }
        time
    });
    match time {
        Some(time) if faults.is_empty() => Ok(time),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}
