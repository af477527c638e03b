//! `/webhooks`: webhook endpoints with deliveries in Resend's form.

pub(super) mod events;

use std::borrow::Cow;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::db::webhooks::{self as rows, EndpointRow};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::event::resend::TYPES;
use crate::domain::id::EndpointId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::request::params::{Params, PathId};
use crate::http::resend::ids::ResendId;
use crate::http::resend::list::{List, PageRequest, page};
use crate::http::resend::object::{Deleted, Object};
use crate::http::resend::request::{one_fault, read_object};
use crate::http::resend::times::format;
use crate::http::webhooks::{control, secret};
use crate::http::{Api, ApiError};

const NO_WEBHOOK: ApiError = ApiError::NotFound("No webhook has this id.");
/// Maximum number of endpoints that a list pages through.
const MAX_WEBHOOKS: i64 = 10_000;
/// The prefixes of Resend's event types. Types that Postrider does not have are accepted, but never sent.
const FAMILIES: [&str; 4] = ["email.", "domain.", "contact.", "suppression."];

#[derive(Debug, Deserialize)]
struct Input<'a> {
    #[serde(borrow, default)]
    endpoint: Option<Cow<'a, str>>,
    #[serde(default)]
    events: Option<Vec<String>>,
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
}

impl Input<'_> {
    /// Returns the fields of the request to `/v1`.
    fn native(self) -> Result<Map<String, Value>, ApiError> {
        let mut fields = Map::new();
        if let Some(endpoint) = self.endpoint.filter(|endpoint| !endpoint.is_empty()) {
            fields.insert("url".into(), endpoint.into());
        }
        if let Some(events) = self.events {
            fields.insert("events".into(), types(&events)?.into());
        }
        match self.status.as_deref() {
            None | Some("") => {}
            Some("enabled") => drop(fields.insert("disabled".into(), false.into())),
            Some("disabled") => drop(fields.insert("disabled".into(), true.into())),
            Some(_) => return Err(one_fault("/status", Code::InvalidValue, "use `enabled` or `disabled`").into()),
        }
        Ok(fields)
    }
}

/// Converts Resend's event types to those of `/v1`.
fn types(events: &[String]) -> Result<Vec<&'static str>, ApiError> {
    let mut types = Vec::new();
    for (index, name) in events.iter().enumerate() {
        match TYPES.iter().find(|(_, resend)| resend == name) {
            Some((own, _)) if !types.contains(&own.as_str()) => types.push(own.as_str()),
            Some(_) => {}
            None if FAMILIES.iter().any(|family| name.starts_with(family)) => {}
            None => {
                let pointer = format!("/events/{index}");
                return Err(one_fault(&pointer, Code::InvalidValue, "unknown type of event").into());
            }
        }
    }
    if types.is_empty() {
        let known: Vec<&str> = TYPES.iter().map(|(_, name)| *name).filter(|name| name.starts_with("email.")).collect();
        let message = format!("Postrider sends none of these; use at least one of {}", known.join(", "));
        return Err(one_fault("/events", Code::InvalidValue, &message).into());
    }
    Ok(types)
}

/// Renames the fields of `/v1` in an error.
fn renamed(error: ApiError) -> ApiError {
    let ApiError::Invalid(faults) = error else { return error };
    let rename = |fault: Fault| match fault.pointer.as_str() {
        "/url" => Fault { pointer: "/endpoint".into(), message: fault.message.replace("`url`", "`endpoint`"), ..fault },
        _ => fault,
    };
    ApiError::Invalid(faults.into_iter().map(rename).collect())
}

/// Creates a webhook endpoint.
pub(in crate::http::resend) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let mut native = read_object::<Input<'_>>(&body.bytes)?.native()?;
    native.remove("disabled");
    native.insert("format".into(), "resend".into());
    let body = Value::from(native).to_string();
    let created = Box::pin(control::register(&api, &caller, body.as_bytes())).await.map_err(renamed)?;
    let view = json!({"object": "webhook", "id": created.webhook.id.0, "signing_secret": created.secret});
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

/// Returns a page of the webhook endpoints, newest first.
pub(in crate::http::resend) async fn list(
    State(api): State<Api>,
    caller: Caller,
    params: Params,
) -> Result<Json<List<Value>>, ApiError> {
    require_read(&caller)?;
    let PageRequest { limit, start } = PageRequest::<EndpointId>::read(params)?;
    let all = rows::page(&api.db, caller.tenant(), None, MAX_WEBHOOKS).await?;
    let (rows, has_more) = page(all, |row: &EndpointRow| row.id, limit, start.map(|id| id.0));
    Ok(Json(List::new(rows.iter().map(view).collect(), has_more)))
}

/// Returns a webhook endpoint, without its secret.
pub(in crate::http::resend) async fn get(
    State(api): State<Api>,
    caller: Caller,
    ResendId(id): ResendId<EndpointId>,
) -> Result<Json<Value>, ApiError> {
    require_read(&caller)?;
    let row = rows::get(&api.db, caller.tenant(), id).await?.ok_or(NO_WEBHOOK)?;
    Ok(Json(view(&row)))
}

fn require_read(caller: &Caller) -> Result<(), ApiError> {
    caller.require(Scope::Read)?;
    caller.require_all_domains("Webhooks receive the events of all sender domains.")
}

fn view(row: &EndpointRow) -> Value {
    let wants = |own: &str| row.events.as_ref().is_none_or(|events| events.iter().any(|event| event == own));
    let events: Vec<&str> = TYPES
        .iter()
        .filter(|(own, name)| name.starts_with("email.") && wants(own.as_str()))
        .map(|(_, name)| *name)
        .collect();
    json!({
        "object": "webhook",
        "id": row.id,
        "created_at": format(row.created_at),
        "status": if row.disabled_at.is_some() { "disabled" } else { "enabled" },
        "endpoint": row.url,
        "events": events,
    })
}

/// Changes a webhook endpoint.
pub(in crate::http::resend) async fn change(
    State(api): State<Api>,
    caller: Caller,
    ResendId(id): ResendId<EndpointId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Object>, ApiError> {
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let native = Value::from(read_object::<Input<'_>>(&body.bytes)?.native()?).to_string();
    let change = control::change(State(api), caller, PathId(id), HeaderMap::new(), Body::from(native));
    let Json(_) = Box::pin(change).await.map_err(renamed)?;
    Ok(Json(Object::new("webhook", id.0)))
}

/// Creates a new secret. For a day, deliveries are signed with the old secret too.
pub(in crate::http::resend) async fn rotate(
    State(api): State<Api>,
    caller: Caller,
    ResendId(id): ResendId<EndpointId>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Scope::Admin)?;
    let rotated = Box::pin(secret::replace(&api, &caller, id)).await?;
    Ok(Json(json!({"object": "webhook", "id": id.0, "signing_secret": rotated.secret})))
}

/// Deletes a webhook endpoint.
pub(in crate::http::resend) async fn remove(
    State(api): State<Api>,
    caller: Caller,
    ResendId(id): ResendId<EndpointId>,
) -> Result<Json<Deleted>, ApiError> {
    control::remove(State(api), caller, PathId(id)).await?;
    Ok(Json(Deleted::new("webhook", id.0)))
}
