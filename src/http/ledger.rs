//! `GET /v1/ledger`: whether what was accepted is all accounted for.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::auth::Caller;
use super::params::Params;
use super::{Api, ApiError, Problem};
use crate::db::DbError;
use crate::db::ledger::{self, Tally};
use crate::domain::fault::{Code, Fault};
use crate::domain::key::Scope;

/// The span that is counted unless the caller says otherwise: every recipient in it is looked at.
const SPAN: TimeDelta = TimeDelta::hours(24);

/// What was accepted in a span, against what became of it; in recipients.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Ledger {
    /// Messages accepted from then on…
    pub since: DateTime<Utc>,
    /// …and before then.
    pub until: DateTime<Utc>,
    /// Messages.
    pub messages: i64,
    /// Their recipients.
    pub accepted: i64,
    /// Taken by the recipient's own mail server.
    pub delivered: i64,
    /// Taken by a relay.
    pub relayed: i64,
    /// Refused for good.
    pub bounced: i64,
    /// Given up when time ran out.
    pub expired: i64,
    /// Not sent because the address is on the suppression list.
    pub suppressed: i64,
    /// Called back.
    pub canceled: i64,
    /// The link died after the end of the mail, and the sender asked not to try again.
    pub uncertain: i64,
    /// Still to go: counted in the queue, not by what the recipients say.
    pub in_flight: i64,
    /// What those that are still to go wait for.
    pub waiting: Waiting,
    /// Whether `accepted` is the sum of the others, every message has recipients and every row of the queue a recipient
    /// that waits.
    pub balanced: bool,
    /// `accepted` less the sum of the others: recipients that are lost (above 0) or one too many (below 0).
    pub difference: i64,
    /// Rows of the queue whose recipient has ended or is not there, and messages without recipients.
    pub stray: i64,
}

/// Recipients that are still to go.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LedgerWaiting)]
pub struct Waiting {
    /// For their first attempt.
    pub queued: i64,
    /// For another attempt.
    pub deferred: i64,
    /// For their time.
    pub scheduled: i64,
    /// In a worker's hand.
    pub sending: i64,
    /// For an operator.
    pub held: i64,
}

/// Read the ledger
///
/// Counts the recipients of the messages that were accepted in a span by what became of them, all at one moment: what was
/// accepted and what has ended from the recipients, what is still to go from the queue.
///
/// Unless told otherwise it is the last 24 hours. What was accepted before and is still on its way, or scheduled for later,
/// is not in that: mail is tried for three days by default, so that `since` four days ago shows all of it.
#[utoipa::path(
    get, path = "/v1/ledger", tag = "ledger", operation_id = "get_ledger",
    params(
        ("since" = Option<DateTime<Utc>>, Query, description = "From this time on (RFC 3339, to the millisecond); 24 hours before `until` unless given"),
        ("until" = Option<DateTime<Utc>>, Query, description = "Before this time (RFC 3339, to the millisecond); everything up to now unless given"),
    ),
    responses(
        (status = 200, description = "The ledger", body = Ledger),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is not valid, or the span is too large to be counted in time (`too_broad`)", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn get(State(api): State<Api>, caller: Caller, mut params: Params) -> Result<Json<Ledger>, ApiError> {
    caller.may(Scope::Read)?;
    caller.may_reach_the_tenant("The ledger counts the messages of")?;
    let (since, until) = (params.timestamp("since"), params.timestamp("until"));
    params.finish()?;
    let now = api.clock.now();
    let since = since.unwrap_or_else(|| until.unwrap_or(now) - SPAN);
    if until.is_some_and(|until| until <= since) {
        return Err(fault("until", Code::InvalidTimestamp, "Give a time later than `since`."));
    }
    let _turn = api.turns.take(caller.key_id()).await?;
    let tally = ledger::tally(&api.db, caller.tenant(), since, until, now).await.map_err(too_broad)?;
    Ok(Json(Ledger::of(&tally, since, until.unwrap_or(now))))
}

impl Ledger {
    fn of(tally: &Tally, since: DateTime<Utc>, until: DateTime<Utc>) -> Self {
        let ended = tally.delivered
            + tally.relayed
            + tally.bounced
            + tally.expired
            + tally.suppressed
            + tally.canceled
            + tally.uncertain;
        let difference = tally.accepted - ended - tally.in_flight;
        let stray = tally.stray + tally.unmatched;
        Self {
            since,
            until,
            messages: tally.messages,
            accepted: tally.accepted,
            delivered: tally.delivered,
            relayed: tally.relayed,
            bounced: tally.bounced,
            expired: tally.expired,
            suppressed: tally.suppressed,
            canceled: tally.canceled,
            uncertain: tally.uncertain,
            in_flight: tally.in_flight,
            waiting: Waiting {
                queued: tally.queued,
                deferred: tally.deferred,
                scheduled: tally.scheduled,
                sending: tally.sending,
                held: tally.held,
            },
            balanced: difference == 0 && stray == 0,
            difference,
            stray,
        }
    }
}

fn too_broad(error: DbError) -> ApiError {
    if !error.is_too_slow() {
        return error.into();
    }
    fault("since", Code::TooBroad, "So much was accepted that counting takes too long. Give a shorter span.")
}

fn fault(pointer: &str, code: Code, message: &str) -> ApiError {
    ApiError::Invalid(vec![Fault { pointer: pointer.into(), code: code.as_str(), message: message.into() }])
}
