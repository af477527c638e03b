//! `POST /v1/webhooks/{id}/test`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;

use super::NO_WEBHOOK;
use crate::db::webhooks::{self, Tested};
use crate::domain::id::EndpointId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::request::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, NotFound, ProblemCode};

/// A test event.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TestEvent {
    /// The `seq` of the test event in `GET /v1/webhooks/{id}/deliveries` and `GET /v1/events`.
    #[schema(example = 1201)]
    pub seq: i64,
}

/// Send a test event
///
/// Sends a `webhook.test` event to this endpoint only, regardless of its `events` filter. It is delivered like any
/// other event: after all earlier events, signed, retried, and listed in `GET /v1/webhooks/{id}/deliveries`.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/test", tag = "webhooks", operation_id = "test_webhook",
    params(("id" = String, Path, description = "The id of the webhook endpoint")),
    responses(
        (status = 202, description = "The test event", body = TestEvent),
        AuthErrors, NotFound,
        (status = 409, description = "The webhook endpoint is disabled"),
    ),
)]
pub async fn test(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<(StatusCode, Json<TestEvent>), ApiError> {
    caller.require(Scope::Admin)?;
    match webhooks::test(&api.db, caller.tenant(), id, api.clock.now()).await? {
        Tested::Written(seq) => {
            let event = TestEvent { seq };
            caller.note_after(&id, &event);
            Ok((StatusCode::ACCEPTED, Json(event)))
        }
        Tested::Missing => Err(NO_WEBHOOK),
        Tested::Disabled => Err(ApiError::Conflict {
            code: ProblemCode::WebhookDisabled,
            detail: format!(
                "The webhook endpoint is disabled. Enable it with PATCH /v1/webhooks/{id} {{\"disabled\": false}}."
            ),
            retry_after: None,
        }),
    }
}
