//! `GET /v1/ledger`: checks that every accepted recipient is accounted for.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::db::DbError;
use crate::db::ledger::{self, Tally};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::request::params::Params;
use crate::http::{Api, ApiError, AuthErrors};

/// Default time range. The query reads every recipient in it.
const DEFAULT_RANGE: TimeDelta = TimeDelta::hours(24);

/// Recipients accepted in a time range, by their current state.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Ledger {
    /// Start of the time range, inclusive.
    #[schema(example = "2026-11-22T12:00:00Z")]
    pub since: DateTime<Utc>,
    /// End of the time range, exclusive.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub until: DateTime<Utc>,
    /// Messages accepted in the time range.
    #[schema(example = 1_000)]
    pub messages: i64,
    /// Recipients of these messages.
    #[schema(example = 1_200)]
    pub accepted: i64,
    /// Recipients whose own mail server accepted the message.
    #[schema(example = 0)]
    pub delivered: i64,
    /// Recipients whose message a relay accepted.
    #[schema(example = 1_150)]
    pub relayed: i64,
    /// Recipients that were permanently refused.
    #[schema(example = 20)]
    pub bounced: i64,
    /// Recipients whose retry window ended without success.
    #[schema(example = 5)]
    pub expired: i64,
    /// Recipients that nothing was sent to because the address is on the suppression list.
    #[schema(example = 10)]
    pub suppressed: i64,
    /// Recipients that were canceled.
    #[schema(example = 2)]
    pub canceled: i64,
    /// Recipients whose connection dropped between the message body and the server's reply, unless `on_uncertain` is
    /// `retry`.
    #[schema(example = 0)]
    pub uncertain: i64,
    /// Recipients in the queue, whether an attempt is in progress or not: the sum of `waiting`.
    #[schema(example = 13)]
    pub in_flight: i64,
    /// The recipients in the queue, by state.
    pub waiting: WaitingCounts,
    /// Whether `accepted` equals the sum of the other counts, every message has recipients, and every queue row belongs
    /// to a recipient without an end state.
    #[schema(example = true)]
    pub balanced: bool,
    /// `accepted` minus the sum of the other counts: lost recipients if positive, stray queue rows
    /// if negative.
    #[schema(example = 0)]
    pub difference: i64,
    /// Queue rows whose recipient has an end state or does not exist, plus messages without recipients.
    #[schema(example = 0)]
    pub stray: i64,
}

/// Recipients in the queue, by state.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LedgerWaiting)]
pub struct WaitingCounts {
    /// Recipients that wait for their first attempt.
    #[schema(example = 1)]
    pub queued: i64,
    /// Recipients that wait for a retry.
    #[schema(example = 8)]
    pub deferred: i64,
    /// Recipients that wait for the message's `scheduled_at`.
    #[schema(example = 3)]
    pub scheduled: i64,
    /// Recipients that are leased to a worker.
    #[schema(example = 1)]
    pub sending: i64,
    /// Recipients that wait for an operator.
    #[schema(example = 0)]
    pub held: i64,
}

/// Get the ledger
///
/// Counts the recipients of all messages accepted in a time range by their current state, in one snapshot: end states
/// are counted from the recipients, all others from the queue.
///
/// Defaults to the last 24 hours, which excludes older messages that are still being retried or are scheduled for
/// later. Messages are retried for three days by default, so `since` four days ago usually includes all of them.
#[utoipa::path(
    get, path = "/v1/ledger", tag = "ledger", operation_id = "get_ledger",
    params(
        ("since" = Option<DateTime<Utc>>, Query, description = "Start of the time range, inclusive (RFC 3339, millisecond precision); defaults to 24 hours before `until`"),
        ("until" = Option<DateTime<Utc>>, Query, description = "End of the time range, exclusive (RFC 3339, millisecond precision); defaults to now"),
    ),
    responses(
        (status = 200, description = "The ledger", body = Ledger),
        AuthErrors,
        (status = 422, description = "Invalid parameter, or the time range is too large to count (`too_broad`)"),
    ),
)]
pub async fn get(State(api): State<Api>, caller: Caller, mut params: Params) -> Result<Json<Ledger>, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains("The ledger counts the messages of all sender domains.")?;
    let (since, until) = (params.timestamp("since"), params.timestamp("until"));
    params.finish()?;
    let now = api.clock.now();
    let since = since.unwrap_or_else(|| until.unwrap_or(now) - DEFAULT_RANGE);
    if until.is_some_and(|until| until <= since) {
        return Err(fault("until", Code::InvalidTimestamp, "Pass a time later than `since`."));
    }
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let tally = ledger::tally(&api.db, caller.tenant(), since, until, now).await.map_err(too_broad)?;
    Ok(Json(Ledger::new(&tally, since, until.unwrap_or(now))))
}

impl Ledger {
    fn new(tally: &Tally, since: DateTime<Utc>, until: DateTime<Utc>) -> Self {
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
            waiting: WaitingCounts {
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
    let advice = "The ledger took too long to count. Use a shorter time range.";
    ApiError::search(error, "since", advice)
}

fn fault(pointer: &str, code: Code, message: &str) -> ApiError {
    ApiError::Invalid(vec![Fault { pointer: pointer.into(), code: code.as_str(), message: message.into() }])
}
