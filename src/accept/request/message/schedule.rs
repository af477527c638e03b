//! Parses the times between which a message may be sent. Times are in RFC 3339 and truncated to microseconds, as in
//! Postgres.

use chrono::{DateTime, SubsecRound, Utc};

use crate::accept::request::Context;
use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::{Pointer, cut};
use crate::accept::request::json::walk::Node;
use crate::domain::api::fault::{Code, Faults};

/// The time window of a message. A missing end means that the window is open there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// The message is not sent before this time. `None` if the given time is in the past.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// The message is not sent after this time, which is later than now and than `scheduled_at`.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Parses `scheduled_at` and `expires_at`.
pub fn window(fields: &mut Fields<'_, '_>, context: &Context<'_>, faults: &mut Faults) -> Window {
    let scheduled_at = scheduled_at(fields.take("scheduled_at"), context, faults);
    let expires_at = expires_at(fields.take("expires_at"), scheduled_at, context, faults);
    Window { scheduled_at, expires_at }
}

/// Parses `scheduled_at`. Returns `None` if it is missing or in the past.
pub fn scheduled_at(node: Option<Node<'_, '_>>, context: &Context<'_>, faults: &mut Faults) -> Option<DateTime<Utc>> {
    let (now, ahead) = (context.now, context.limits.schedule_ahead);
    let (time, at) = time(node, faults)?;
    if time > now + ahead {
        let message = format_args!("must be at most {} days ahead", ahead.num_days());
        at.fault(faults, Code::InvalidTimestamp, message);
    }
    (time > now).then_some(time)
}

/// Parses `expires_at`, which must be later than now and than `start`.
pub fn expires_at(
    node: Option<Node<'_, '_>>,
    start: Option<DateTime<Utc>>,
    context: &Context<'_>,
    faults: &mut Faults,
) -> Option<DateTime<Utc>> {
    let (time, at) = time(node, faults)?;
    if time <= context.now {
        at.fault(faults, Code::InvalidTimestamp, "must be in the future");
    } else if start.is_some_and(|start| time <= start) {
        at.fault(faults, Code::InvalidTimestamp, "must be later than `scheduled_at`");
    }
    Some(time)
}

/// Parses a time and returns it with its position.
pub fn time<'p>(node: Option<Node<'p, '_>>, faults: &mut Faults) -> Option<(DateTime<Utc>, Pointer<'p>)> {
    let node = node?;
    let at = node.at;
    let text = node.string(faults)?;
    if let Ok(time) = DateTime::parse_from_rfc3339(&text) {
        return Some((time.to_utc().trunc_subsecs(6), at));
    }
    let message =
        format_args!("must be an RFC 3339 time with a zone, such as 2026-12-01T09:00:00Z, not `{}`", cut(&text));
    at.fault(faults, Code::InvalidTimestamp, message);
    None
}
