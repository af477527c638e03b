//! Creates, updates and deletes templates.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::body::{NewTemplateBody, TemplateChangeBody};
use super::view::TemplateView;
use super::{NO_TEMPLATE, TemplatePath, invalid, layout_id, load};
use crate::accept::request::resources::template::{self, TemplateChange};
use crate::accept::templates::{changed_row, empty_row};
use crate::db::changes::{Outdated, TenantSettings};
use crate::db::templates::{self, Changed, Removed, TemplateFields, TemplateRow};
use crate::domain::api::fault::Code;
use crate::domain::id::TemplateId;
use crate::domain::limits::Change;
use crate::domain::message::template::TemplateName;
use crate::http::auth::Caller;
use crate::http::located::with_location;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors, NotFound, ProblemCode};

/// Maximum number of tries of a change. A try fails if another request has changed the template in the meantime.
const MAX_ATTEMPTS: usize = 10;

/// Create a template
///
/// Creates a template as a draft. Publish it with `POST /v1/templates/{id}/publish` before messages use it. A draft may be
/// incomplete: its syntax, its variables and its layout are checked when it is published; `POST /v1/templates/validate`
/// checks them before.
#[utoipa::path(
    post, path = "/v1/templates", tag = "templates", operation_id = "create_template",
    request_body = NewTemplateBody,
    responses(
        (status = 201, description = "The template", body = TemplateView,
         headers(("Location" = String, description = "The path of the template"))),
        AuthErrors, JsonErrors,
        (status = 409, description = "A template with this alias already exists"),
    ),
)]
pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.require_live_admin("templates")?;
    let body = api.bodies.template(&headers, body).await?;
    let view = store(&api, &caller, &body.bytes).await?;
    Ok(with_location(format!("/v1/templates/{}", view.id), (StatusCode::CREATED, Json(view))))
}

/// Creates a template from the body of a request.
pub(in crate::http) async fn store(api: &Api, caller: &Caller, body: &[u8]) -> Result<TemplateView, ApiError> {
    let mut change = template::parse(body)?;
    let (tenant, now) = (caller.live_tenant(), api.clock.now());
    let id = TemplateId::new(now);
    let layout = match std::mem::take(&mut change.content.layout) {
        Change::Set(name) => Some(layout_id(api, tenant, &name).await?),
        Change::Keep | Change::Clear => None,
    };
    let fields = TemplateFields {
        alias: change.alias.value(),
        name: change.name.unwrap_or_default(),
        draft: changed_row(empty_row(), change.content, layout),
    };
    if !templates::insert(&api.db, tenant, id, &fields, now).await? {
        return Err(alias_taken(fields.alias.as_deref()));
    }
    tracing::info!(event = "template_created", by = %caller.key_id(), template = %id, "created a template");
    let view = TemplateView::from_row(load(api, tenant, &TemplateName::Id(id)).await?);
    caller.note_after(&id, &view);
    Ok(view)
}

/// Update a template
///
/// Changes the draft, the alias or the name. Published versions, and messages that use them, do not change; publish the
/// template to use the new draft.
#[utoipa::path(
    patch, path = "/v1/templates/{id}", tag = "templates", operation_id = "update_template",
    params(("id" = String, Path, description = "The id or alias of the template")),
    request_body = TemplateChangeBody,
    responses(
        (status = 200, description = "The updated template", body = TemplateView),
        AuthErrors, NotFound, JsonErrors,
        (status = 409, description = "Another template has this alias, or the template has another `revision`"),
    ),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Caller,
    TemplatePath(name): TemplatePath,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<TemplateView>, ApiError> {
    caller.require_live_admin("templates")?;
    let body = api.bodies.template(&headers, body).await?;
    let mut change = template::parse_change(&body.bytes)?;
    let tenant = caller.live_tenant();
    let layout = match std::mem::take(&mut change.content.layout) {
        Change::Set(layout) => Change::Set(layout_id(&api, tenant, &layout).await?),
        Change::Keep => Change::Keep,
        Change::Clear => Change::Clear,
    };
    let before = TemplateView::from_row(load(&api, tenant, &name).await?);
    for _ in 0..MAX_ATTEMPTS {
        let row = load(&api, tenant, &name).await?;
        let (id, revision, alias) = (TemplateId(row.id), row.revision, row.alias.clone());
        if let Some(expected) = change.revision.filter(|expected| *expected != revision) {
            return Err(template_changed(expected, revision));
        }
        if layout == Change::Set(id) {
            return Err(invalid("/layout", Code::InvalidValue, "a template cannot be its own layout".into()));
        }
        let fields = changed(row, change.clone(), layout);
        match templates::change(&api.db, tenant, id, revision, &fields, api.clock.now()).await? {
            Changed::Done => {
                if fields.alias != alias {
                    api.forget(Outdated::Settings(tenant, TenantSettings::Templates));
                }
                tracing::info!(event = "template_changed", by = %caller.key_id(), template = %id, "changed a template");
                let after = TemplateView::from_row(load(&api, tenant, &TemplateName::Id(id)).await?);
                caller.note_change(&id, &before, &after);
                return Ok(Json(after));
            }
            Changed::AliasTaken => return Err(alias_taken(fields.alias.as_deref())),
            Changed::Outdated => {}
        }
    }
    Err(BUSY)
}

/// The error if other requests keep changing the template.
pub(super) const BUSY: ApiError =
    ApiError::Unavailable("Other requests are changing this template. Nothing was changed; retry the request.");

/// Returns the fields of a template with these changes.
fn changed(row: TemplateRow, change: TemplateChange, layout: Change<TemplateId>) -> TemplateFields {
    let layout = layout.apply(row.draft.layout_id.map(TemplateId));
    TemplateFields {
        alias: change.alias.apply(row.alias),
        name: change.name.unwrap_or(row.name),
        draft: changed_row(row.draft, change.content, layout),
    }
}

/// The error if the template was changed after the revision that a request was made for.
fn template_changed(expected: i32, revision: i32) -> ApiError {
    ApiError::Conflict {
        code: ProblemCode::TemplateChanged,
        detail: format!(
            "The template was changed in the meantime: it has revision {revision}, not {expected}. Nothing was changed."
        ),
        retry_after: None,
    }
}

fn alias_taken(alias: Option<&str>) -> ApiError {
    let alias = alias.unwrap_or_default();
    ApiError::Conflict {
        code: ProblemCode::TemplateExists,
        detail: format!("Another template has the alias `{alias}`; update it with PATCH /v1/templates/{alias}."),
        retry_after: None,
    }
}

/// Delete a template
///
/// Deletes the template with its versions. Messages that were rendered from it keep their content. A template is not
/// deleted while it is the layout of another template, or while messages that use it are scheduled.
#[utoipa::path(
    delete, path = "/v1/templates/{id}", tag = "templates", operation_id = "delete_template",
    params(("id" = String, Path, description = "The id or alias of the template")),
    responses(
        (status = 204, description = "Deleted"),
        AuthErrors, NotFound,
        (status = 409, description = "Scheduled messages, or other templates, use the template"),
    ),
)]
pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    TemplatePath(name): TemplatePath,
) -> Result<StatusCode, ApiError> {
    caller.require_live_admin("templates")?;
    let tenant = caller.live_tenant();
    let before = TemplateView::from_row(load(&api, tenant, &name).await?);
    let id = before.id;
    match templates::remove(&api.db, tenant, id, api.clock.now()).await? {
        Removed::Done => {}
        Removed::Missing => return Err(NO_TEMPLATE),
        Removed::UsedByMessages => {
            return Err(in_use(format!(
                "Scheduled messages use this template; list them with GET /v1/messages?template={id}&status=scheduled."
            )));
        }
        Removed::LayoutOf(other) => return Err(in_use(format!("This template is the layout of {other}."))),
    }
    api.forget(Outdated::Settings(tenant, TenantSettings::Templates));
    caller.note_removed(&id, &before);
    tracing::info!(event = "template_removed", by = %caller.key_id(), template = %id, "removed a template");
    Ok(StatusCode::NO_CONTENT)
}

fn in_use(detail: String) -> ApiError {
    ApiError::Conflict { code: ProblemCode::TemplateInUse, detail, retry_after: None }
}
