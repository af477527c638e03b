//! `GET /v1/webhooks/{id}/deliveries`: the delivery attempts of a webhook endpoint.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::NO_WEBHOOK;
use crate::db::webhooks;
use crate::db::webhooks::delivery::Attempt;
use crate::domain::id::{EndpointId, PostId};
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::{Params, PathId};
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, NotFound};

/// One delivery attempt: a POST request to a webhook endpoint.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct WebhookDelivery {
    /// The id of the attempt.
    #[schema(value_type = String, example = "dlv_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: PostId,
    /// The `webhook-id` header; the same in every attempt of a delivery.
    #[schema(example = "evt_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b_1201")]
    pub webhook_id: String,
    /// The `seq` of the event; in a batch, of its first event.
    #[schema(example = 1201)]
    pub seq: i64,
    /// The number of events in the request.
    #[schema(example = 1)]
    pub events: i16,
    /// The number of the attempt, from 1.
    #[schema(example = 1)]
    pub attempt: i16,
    /// The size of the request body in bytes.
    #[schema(example = 912)]
    pub size: i32,
    /// The HTTP status of the response; null if there was none.
    #[schema(example = 503)]
    pub status: Option<i16>,
    /// The beginning of the response body; null if there was none.
    #[schema(example = "upstream unavailable")]
    pub response_body: Option<String>,
    /// Why there was no response, or why the response counts as a failure; null if the attempt succeeded.
    #[schema(example = "no response within 15 s")]
    pub error: Option<String>,
    /// The duration of the attempt in milliseconds.
    #[schema(example = 41)]
    pub duration_ms: i32,
    /// When the next attempt is due; null if there is none.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When the attempt started.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub started_at: DateTime<Utc>,
}

impl WebhookDelivery {
    fn from_row(endpoint: EndpointId, row: Attempt) -> Self {
        let id = PostId(row.id);
        Self {
            id,
            webhook_id: endpoint.webhook_id(row.seq, usize::try_from(row.events).unwrap_or(1)),
            seq: row.seq,
            events: row.events,
            attempt: row.number,
            size: row.size,
            status: row.status,
            response_body: row.response_body,
            error: row.error,
            duration_ms: row.duration_ms,
            next_attempt_at: row.next_attempt_at,
            started_at: id.time(),
        }
    }
}

/// List deliveries of a webhook endpoint
///
/// Returns delivery attempts, newest first, with their responses and durations.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}/deliveries", tag = "webhooks", operation_id = "list_webhook_deliveries",
    params(
        ("id" = String, Path, description = "The id of the webhook endpoint"),
        PageParams,
    ),
    responses(
        (status = 200, description = "A page of delivery attempts", body = Page<WebhookDelivery>),
        AuthErrors, NotFound, InvalidParameter,
    ),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
    mut params: Params,
) -> Result<Json<Page<WebhookDelivery>>, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains("Webhooks receive the events of all sender domains.")?;
    let limit = params.limit();
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok());
    params.finish()?;
    let _endpoint = webhooks::get(&api.db, caller.tenant(), id).await?.ok_or(NO_WEBHOOK)?;
    let rows = webhooks::log::page(&api.db, caller.tenant(), id, after, limit + 1).await?;
    Ok(Json(Page::new(rows, limit, |row| PostId(row.id).to_string(), |row| WebhookDelivery::from_row(id, row))))
}
