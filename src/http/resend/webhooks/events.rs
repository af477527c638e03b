//! `/webhooks/{id}/events`: the events that were posted to an endpoint, with their attempts.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::{NO_WEBHOOK, require_read};
use crate::db::webhooks::posted_events::{self as rows, PostedEvent};
use crate::db::webhooks::{self, delivery};
use crate::domain::event::Event;
use crate::domain::event::resend::Mapping;
use crate::domain::fault::Code;
use crate::domain::id::{EndpointId, PostId, TenantId};
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::params::Params;
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
    let key = (caller.tenant(), id);
    let _endpoint = webhooks::get(&api.db, key.0, id).await?.ok_or(NO_WEBHOOK)?;
    let _permit = api.slow_queries.acquire(caller.key_id()).await?;
    let rows = rows::page(&api.db, key, None, after, limit + 1).await?;
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

/// Finds the event in a path. Events posted in batches have no ids here.
async fn find(api: &Api, caller: &Caller, path: EventPath) -> Result<((TenantId, EndpointId), PostedEvent), ApiError> {
    let Path((id, event)) = path.map_err(|_| NO_EVENT)?;
    let key = (caller.tenant(), ids::parse::<EndpointId>(&id).ok_or(NO_EVENT)?);
    let event = ids::parse::<PostId>(&event).ok_or(NO_EVENT)?;
    Ok((key, rows::page(&api.db, key, Some(event), None, 1).await?.pop().ok_or(NO_EVENT)?))
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
    let (_, posted) = find(&api, &caller, path).await?;
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
    let (key, event) = find(&api, &caller, path).await?;
    rows::replay(&api.db, key, &event, api.clock.now()).await?;
    let (by, webhook, seq) = (caller.key_id(), key.1, event.seq);
    caller.note_after(&webhook, &json!({"seq": seq}));
    tracing::info!(event = "webhook_event_replayed", %by, %webhook, seq, "posting an event to a webhook endpoint again");
    Ok(Json(Object::new(EVENT, event.id)))
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
    let (key, event) = find(&api, &caller, path).await?;
    let _permit = api.slow_queries.acquire(caller.key_id()).await?;
    let rows = rows::attempts(&api.db, key, &event, after, limit + 1).await?;
    let view = |attempt: delivery::Attempt| {
        json!({
            "id": attempt.id,
            // 0 if there was no response: SDKs need a number.
            "http_status_code": attempt.status.unwrap_or(0),
            "response": attempt.answer.or(attempt.error).unwrap_or_default(),
            "sent_at": format(PostId(attempt.id).time()),
        })
    };
    Ok(Json(List::cut(rows, limit, view)))
}
