//! `/templates`: templates in the syntax `vars`, which is Resend's.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::ids::{self, derived};
use super::list::{List, PageRequest, page};
use super::object::{Deleted, Object};
use super::request::read_object;
use super::times::format;
use crate::db::templates::{self as rows, SummaryRow, TemplateFields};
use crate::domain::id::TemplateId;
use crate::domain::message::template::TemplateName;
use crate::http::auth::Caller;
use crate::http::request::params::Params;
use crate::http::templates::view::TemplateView;
use crate::http::templates::{TemplatePath, control, load, publish, require_read};
use crate::http::{Api, ApiError};

const NO_TEMPLATE: ApiError = ApiError::NotFound("No template has this id or alias.");
/// Maximum number of templates that a list pages through.
const MAX_TEMPLATES: i64 = 10_000;

#[derive(Debug, Deserialize)]
struct VariableInput {
    #[serde(default)]
    key: Value,
    #[serde(default, rename = "type")]
    kind: Value,
    #[serde(default)]
    fallback_value: Value,
}

/// Translates the body of a request about a template into that of `/v1`. Unknown members are ignored; missing members
/// keep their value. `syntax` is the syntax of a new template.
fn native(body: &[u8], syntax: Option<&str>) -> Result<Vec<u8>, ApiError> {
    let members: BTreeMap<String, Box<RawValue>> = read_object(body)?;
    let mut fields = serde_json::Map::new();
    for name in ["name", "alias", "from", "subject", "reply_to", "html", "text"] {
        let Some(value) = members.get(name).and_then(|value| serde_json::from_str::<Value>(value.get()).ok()) else {
            continue;
        };
        let is_empty = value == "" && name != "text";
        // A name cannot be cleared.
        if !(name == "name" && (is_empty || value.is_null())) {
            fields.insert(name.into(), if is_empty { Value::Null } else { value });
        }
    }
    if let Some(variables) = members.get("variables").filter(|value| value.get() != "null") {
        let variables: Vec<VariableInput> = super::request::read(variables.get().as_bytes())?;
        fields.insert("variables".into(), variables.into_iter().map(variable).collect());
    }
    if let Some(syntax) = syntax {
        fields.insert("syntax".into(), syntax.into());
    }
    serde_json::to_vec(&fields).map_err(|_| ApiError::Internal)
}

fn variable(input: VariableInput) -> Value {
    // Resend calls an array a list.
    let kind = if input.kind == "list" { json!("array") } else { input.kind };
    json!({"key": input.key, "type": kind, "default": input.fallback_value})
}

/// Creates a template as a draft.
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.require_live_admin("templates")?;
    let body = api.bodies.template(&headers, body).await?;
    let body = native(&body.bytes, Some("vars"))?;
    let view = Box::pin(control::store(&api, &caller, &body)).await?;
    Ok((StatusCode::CREATED, Json(Object::new("template", view.id.0))).into_response())
}

/// Returns a page of templates, newest first, without their content.
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    params: Params,
) -> Result<Json<List<Value>>, ApiError> {
    require_read(&caller)?;
    let PageRequest { limit, start } = PageRequest::<TemplateId>::read(params)?;
    let all = rows::page(&api.db, caller.live_tenant(), None, MAX_TEMPLATES).await?;
    let (rows, has_more) = page(all, |row: &SummaryRow| row.id, limit, start.map(|id| id.0));
    let view = |row: SummaryRow| {
        json!({
            "id": row.id,
            "alias": row.alias,
            "name": row.name,
            "status": status(row.version),
            "created_at": format(row.created_at),
            "updated_at": format(row.updated_at),
            "published_at": row.published_at.map(format),
        })
    };
    Ok(Json(List::new(rows.into_iter().map(view).collect(), has_more)))
}

fn status(version: Option<i32>) -> &'static str {
    if version.is_some() { "published" } else { "draft" }
}

/// The id or alias in a path.
type NamePath = Result<Path<String>, PathRejection>;

fn name(path: NamePath) -> Result<TemplateName, ApiError> {
    let Path(text) = path.map_err(|_| NO_TEMPLATE)?;
    match ids::parse::<TemplateId>(&text) {
        Some(id) => Ok(TemplateName::Id(id)),
        None => text.parse().map_err(|_| NO_TEMPLATE),
    }
}

/// Returns a template with its draft.
pub(super) async fn get(State(api): State<Api>, caller: Caller, path: NamePath) -> Result<Json<Value>, ApiError> {
    require_read(&caller)?;
    let row = load(&api, caller.live_tenant(), &name(path)?).await?;
    Ok(Json(view(&TemplateView::from_row(row))))
}

fn view(template: &TemplateView) -> Value {
    let id = template.id.0;
    let (created_at, updated_at) = (format(template.created_at), format(template.updated_at));
    let variables = template.draft.variables.as_array().into_iter().flatten();
    let variables = variables.map(|variable| {
        json!({
            "id": derived(id, variable["key"].as_str().unwrap_or_default()),
            "key": variable["key"],
            "type": variable["type"],
            "fallback_value": variable["default"],
            "created_at": created_at,
            "updated_at": updated_at,
        })
    });
    let variables: Vec<Value> = variables.collect();
    json!({
        "object": "template",
        "id": id,
        "alias": template.alias,
        "name": template.name,
        "status": status(template.version),
        "from": template.draft.from,
        "subject": template.draft.subject,
        "reply_to": template.draft.reply_to,
        "html": template.draft.html,
        "text": template.draft.text,
        "variables": variables,
        "created_at": created_at,
        "updated_at": updated_at,
        "published_at": template.published_at.map(format),
        "current_version_id": version_id(id, template.version),
        "has_unpublished_versions": template.version.is_none() || template.has_unpublished_changes,
    })
}

fn version_id(template: Uuid, version: Option<i32>) -> Uuid {
    // A template that is only a draft has a version id, too.
    derived(template, &format!("version {}", version.unwrap_or(0)))
}

/// Changes the draft, the alias or the name of a template.
pub(super) async fn change(
    State(api): State<Api>,
    caller: Caller,
    path: NamePath,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Object>, ApiError> {
    caller.require_live_admin("templates")?;
    let name = name(path)?;
    let body = api.bodies.template(&headers, body).await?;
    let body = native(&body.bytes, None)?;
    let changed = control::change(State(api), caller, TemplatePath(name), HeaderMap::new(), Body::from(body));
    let Json(view) = Box::pin(changed).await?;
    Ok(Json(Object::new("template", view.id.0)))
}

/// Publishes the draft of a template.
pub(super) async fn publish(State(api): State<Api>, caller: Caller, path: NamePath) -> Result<Json<Object>, ApiError> {
    caller.require_live_admin("templates")?;
    let name = name(path)?;
    let id = load(&api, caller.live_tenant(), &name).await?.id;
    Box::pin(publish::publish(State(api), caller, TemplatePath(name))).await?;
    Ok(Json(Object::new("template", id)))
}

/// Creates a copy of a template's draft, without its alias.
pub(super) async fn duplicate(State(api): State<Api>, caller: Caller, path: NamePath) -> Result<Response, ApiError> {
    caller.require_live_admin("templates")?;
    let row = load(&api, caller.live_tenant(), &name(path)?).await?;
    let now = api.clock.now();
    let id = TemplateId::new(now);
    let fields = TemplateFields { alias: None, name: row.name, draft: row.draft };
    if !rows::insert(&api.db, caller.live_tenant(), id, &fields, now).await? {
        // Only a duplicate alias is refused, and this template has no alias.
        return Err(ApiError::Internal);
    }
    let view = TemplateView::from_row(load(&api, caller.live_tenant(), &TemplateName::Id(id)).await?);
    caller.note_after(&id, &view);
    tracing::info!(event = "template_created", by = %caller.key_id(), template = %id, "created a template");
    Ok((StatusCode::CREATED, Json(Object::new("template", id.0))).into_response())
}

/// Deletes a template with its versions.
pub(super) async fn remove(State(api): State<Api>, caller: Caller, path: NamePath) -> Result<Json<Deleted>, ApiError> {
    caller.require_live_admin("templates")?;
    let name = name(path)?;
    let id = load(&api, caller.live_tenant(), &name).await?.id;
    Box::pin(control::remove(State(api), caller, TemplatePath(name))).await?;
    Ok(Json(Deleted::new("template", id)))
}
