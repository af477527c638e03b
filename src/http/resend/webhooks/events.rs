//! `/webhooks/{id}/events`: the events that were posted to an endpoint, with their attempts.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::{NO_WEBHOOK, require_read};
use crate::accept::request::Rejection;
use crate::db::webhooks::posted_events::{self as rows, PostedEvent};
use crate::db::webhooks::{self, EndpointRow, delivery};
use crate::domain::api::fault::Code;
use crate::domain::event::Event;
use crate::domain::event::resend::Mapping;
use crate::domain::id::{EndpointId, PostId, TenantId};
use crate::domain::key::Scope;
use crate::domain::webhook::endpoint::PostFormat;
use crate::http::auth::Caller;
use crate::http::limits::concurrency_limit::ConcurrencyPermit;
use crate::http::request::params::Params;
use crate::http::resend::ids::{self, ResendId};
use crate::http::resend::list::{List, PageRequest, Start};
use crate::http::resend::object::Object;
use crate::http::resend::request::one_fault;
use crate::http::resend::times::format;
use crate::http::{Api, ApiError};

const NO_EVENT: ApiError = ApiError::NotFound("The webhook has no event with this id.");
/// The `object` of an event.
const EVENT: &str = "webhook_event";

/// The ids of a webhook and of an event in a path.
type EventPath = Result<Path<(String, String)>, PathRejection>;

/// Returns a page of the events that were posted to an endpoint, newest first.
pub(in crate::http::resend) async fn list(
    State(api): State<Api>,
    caller: Caller,
    ResendId(id): ResendId<EndpointId>,
    params: Params,
) -> Result<Json<List<Value>>, ApiError> {
    require_read(&caller)?;
    let (limit, after) = page(params)?;
    webhooks::get(&api.db, caller.tenant(), id).await?.ok_or(NO_WEBHOOK)?;
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let rows = rows::page(&api.db, (caller.tenant(), id), after, limit + 1).await?;
    Ok(Json(List::cut(rows, limit, |event| view(&api, &event))))
}

/// Returns the limit and the start of a page.
fn page(params: Params) -> Result<(i64, Option<PostId>), ApiError> {
    let PageRequest { limit, start } = PageRequest::<PostId>::read(params)?;
    match start {
        Start::Newest => Ok((limit, None)),
        Start::After(id) => Ok((limit, Some(id))),
        Start::Before(_) => {
            Err(one_fault("before", Code::NotAvailable, "this list has no `before`; use `after`").into())
        }
    }
}

/// The event in a path.
struct Found {
    /// The key of its endpoint.
    key: (TenantId, EndpointId),
    endpoint: EndpointRow,
    event: PostedEvent,
    _permit: ConcurrencyPermit,
}

/// Finds the event in a path. Events posted in batches have no ids here, and those of a deleted endpoint are not shown,
/// although the log still has them.
async fn find(api: &Api, caller: &Caller, path: EventPath) -> Result<Found, ApiError> {
    let Path((id, event)) = path.map_err(|_| NO_EVENT)?;
    let key = (caller.tenant(), ids::parse::<EndpointId>(&id).ok_or(NO_WEBHOOK)?);
    let event = ids::parse::<PostId>(&event).ok_or(NO_EVENT)?;
    let endpoint = webhooks::get(&api.db, key.0, key.1).await?.ok_or(NO_WEBHOOK)?;
    let permit = api.slow_queries.acquire(caller.requester()).await?;
    let event = rows::get(&api.db, key, event).await?.ok_or(NO_EVENT)?;
    Ok(Found { key, endpoint, event, _permit: permit })
}

fn mapping(api: &Api) -> Mapping {
    Mapping { relayed_as_delivered: api.relayed_as_delivered }
}

fn view(api: &Api, event: &PostedEvent) -> Value {
    json!({
        "id": event.id,
        "type": mapping(api).name(&event.kind),
        "created_at": format(event.recorded_at),
        "status": match event.next_attempt_at {
            Some(_) => "pending",
            None if event.is_delivered => "success",
            None => "failed",
        },
    })
}

/// Returns an event with its payload.
pub(in crate::http::resend) async fn get(
    State(api): State<Api>,
    caller: Caller,
    path: EventPath,
) -> Result<Json<Value>, ApiError> {
    require_read(&caller)?;
    let Found { event: posted, .. } = find(&api, &caller, path).await?;
    let row = delivery::events(&api.db, caller.tenant(), &[posted.seq]).await?.pop().ok_or(NO_EVENT)?;
    let mut view = view(&api, &posted);
    view["object"] = EVENT.into();
    view["next_attempt_at"] = posted.next_attempt_at.map(format).into();
    view["payload"] = mapping(&api).payload(&Event::from(row));
    Ok(Json(view))
}

/// Posts an event again.
pub(in crate::http::resend) async fn replay(
    State(api): State<Api>,
    caller: Caller,
    path: EventPath,
) -> Result<Json<Object>, ApiError> {
    caller.require(Scope::Admin)?;
    let Found { key, endpoint, event, _permit } = find(&api, &caller, path).await?;
    if endpoint.format == PostFormat::Resend.as_str() && !mapping(&api).has(&event.kind) {
        // A worker would drop it.
        return Err(not_posted(&event.kind).into());
    }
    if !rows::replay(&api.db, key, &event, api.clock.now()).await? {
        return Err(NO_WEBHOOK);
    }
    let (by, webhook, seq) = (caller.key_id(), key.1, event.seq);
    caller.note_after(&webhook, &json!({"seq": seq}));
    tracing::info!(
        event = "webhook_event_replayed",
        %by,
        %webhook,
        seq,
        "posting an event to a webhook endpoint again"
    );
    Ok(Json(Object::new(EVENT, event.id)))
}

/// Returns the error for an event that Resend does not have. It was posted while the endpoint had another format, or
/// with another `resend.relayed_as_delivered`.
fn not_posted(kind: &str) -> Rejection {
    let message = format!("the webhook has the format `resend`, in which `{kind}` is not posted");
    one_fault("", Code::NotAvailable, &message)
}

/// Returns a page of the attempts to post an event, newest first.
pub(in crate::http::resend) async fn attempts(
    State(api): State<Api>,
    caller: Caller,
    path: EventPath,
    params: Params,
) -> Result<Json<List<Value>>, ApiError> {
    require_read(&caller)?;
    let (limit, after) = page(params)?;
    let Found { key, event, _permit, .. } = find(&api, &caller, path).await?;
    let rows = rows::attempts(&api.db, key, &event, after, limit + 1).await?;
    let view = |attempt: delivery::Attempt| {
        json!({
            "id": attempt.id,
            // 0 if there was no response: SDKs need a number.
            "http_status_code": attempt.status.unwrap_or(0),
            "response": attempt.response_body.or(attempt.error).unwrap_or_default(),
            "sent_at": format(PostId(attempt.id).time()),
        })
    };
    Ok(Json(List::cut(rows, limit, view)))
}
