//! `POST /v1/test/clock`: the clock of test data.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;

use crate::accept::request;
use crate::db::test_clock::{self, MAX_MOVED};
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors, ProblemCode};

/// How far to advance the clock of test data.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestClockBody {
    /// The time, as a duration such as `90s`, `2h` or `3d`, or in seconds; from 1 second to 30 days.
    #[schema(example = "2h")]
    pub advance: String,
}

/// What was moved by advancing the clock.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TestClockAdvanced {
    /// How far the clock was advanced, in seconds.
    #[schema(example = 7_200)]
    pub advanced: i64,
    /// Recipients in the queue that were moved. Recipients for which an attempt is in progress are not.
    #[schema(example = 3)]
    pub recipients: u64,
    /// Bounces, complaints, automatic replies and unsubscriptions of the simulator that were moved.
    #[schema(example = 1)]
    pub followups: u64,
    /// Webhook deliveries waiting for a retry that were moved.
    #[schema(example = 0)]
    pub webhook_deliveries: u64,
}

/// Advance the clock of test messages
///
/// Moves the due times, retry windows, `scheduled_at` and `expires_at` of all test messages of the tenant, what the
/// simulator plays later, and the retries of test webhook endpoints closer, so that retries, expiry and webhooks can be tried
/// in seconds. What is due then happens at once. The time of day does not change: events have the time at which they happened.
/// Only for test keys.
#[utoipa::path(
    post, path = "/v1/test/clock", tag = "test", operation_id = "advance_test_clock",
    request_body = TestClockBody,
    responses(
        (status = 200, description = "What was moved", body = TestClockAdvanced),
        AuthErrors, JsonErrors,
        (status = 409, description = "More than 20,000 test messages are waiting (`too_many_waiting`)"),
    ),
)]
pub async fn advance(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<TestClockAdvanced>, ApiError> {
    caller.require(Scope::Send)?;
    caller.require_test_key("Only the clock of test messages can be advanced.")?;
    caller.require_all_domains("The clock is shared by all sender domains.")?;
    let body = api.bodies.json(&headers, body).await?;
    let by = request::resources::operations::test_clock::parse(&body.bytes)?;
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let moved = test_clock::advance(&api.db, caller.tenant(), by, api.clock.now()).await?.ok_or_else(too_many)?;
    api.acceptor.wake();
    api.acceptor.wake_expander();
    let advanced = TestClockAdvanced {
        advanced: by.num_seconds(),
        recipients: moved.recipients,
        followups: moved.followups,
        webhook_deliveries: moved.webhook_deliveries,
    };
    caller.note_result(&advanced);
    Ok(Json(advanced))
}

fn too_many() -> ApiError {
    ApiError::Conflict {
        code: ProblemCode::TooManyWaiting,
        detail: format!("More than {MAX_MOVED} test messages are waiting, and nothing was moved; cancel some of them."),
        retry_after: None,
    }
}
