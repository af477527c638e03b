//! `POST /v1/templates/{id}/publish`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::control::BUSY;
use super::engine::Loaded;
use super::view::VersionView;
use super::{TemplatePath, load};
use crate::db::changes::{Outdated, TenantSettings};
use crate::db::templates::TemplateRow;
use crate::db::templates::versions::{self, NewVersion, VersionRow};
use crate::domain::id::{TemplateId, TenantId};
use crate::domain::message::template::TemplateVersion;
use crate::http::auth::Caller;
use crate::http::located::with_location;
use crate::http::{Api, ApiError, AuthErrors, NotFound};
use crate::template::Compiled;

/// Maximum number of attempts to publish a template that other requests change in the meantime.
const MAX_ATTEMPTS: usize = 10;

/// Publish a template
///
/// Checks the draft, compiles it with its layouts, and stores it as the next version, which messages use from now on.
/// Messages that were accepted before keep their version, also if they are scheduled. If nothing has changed since the
/// last publication, the response is 200 with the latest version, and no version is created. A template that has a layout
/// must be published again to use a new version of the layout.
#[utoipa::path(
    post, path = "/v1/templates/{id}/publish", tag = "templates", operation_id = "publish_template",
    params(("id" = String, Path, description = "The id or alias of the template")),
    responses(
        (status = 200, description = "Nothing has changed: the latest version", body = VersionView),
        (status = 201, description = "The new version", body = VersionView,
         headers(("Location" = String, description = "The path of the version"))),
        AuthErrors, NotFound,
        (status = 422, description = "The draft cannot be published; `errors` lists every fault, with pointers into the template such as `/html`"),
    ),
)]
pub async fn publish(
    State(api): State<Api>,
    caller: Caller,
    TemplatePath(name): TemplatePath,
) -> Result<Response, ApiError> {
    caller.require_live_admin("templates")?;
    let tenant = caller.live_tenant();
    for _ in 0..MAX_ATTEMPTS {
        let row = load(&api, tenant, &name).await?;
        let compiled = compile(&api, &caller, &row).await?;
        if let Some(latest) = unchanged(&api, tenant, &row, &compiled).await? {
            return Ok(Json(VersionView::from_row(row.id, latest)).into_response());
        }
        let compiled = serde_json::to_value(&compiled).map_err(|_| ApiError::Internal)?;
        let (template, published_at) = (TemplateId(row.id), api.clock.now());
        let (revision, latest) = (row.revision, row.version);
        let new = NewVersion { tenant, template, revision, latest, compiled: &compiled, published_at };
        let Some(version) = versions::publish(&api.db, &new).await? else { continue };
        api.forget(Outdated::Settings(tenant, TenantSettings::Templates));
        tracing::info!(event = "template_published", by = %caller.key_id(), %template, version, "published a template");
        let path = format!("/v1/templates/{template}/versions/{version}");
        let row = VersionRow { version, published_at, source: row.draft, compiled };
        let view = VersionView::from_row(template.0, row);
        caller.note_after(&template, &view);
        return Ok(with_location(path, (StatusCode::CREATED, Json(view))));
    }
    Err(BUSY)
}

/// Compiles the draft of a template; fails with all faults.
pub(super) async fn compile(api: &Api, caller: &Caller, row: &TemplateRow) -> Result<Compiled, ApiError> {
    let id = TemplateId(row.id).to_string();
    let own_names: Vec<&str> = std::iter::once(id.as_str()).chain(row.alias.as_deref()).collect();
    let loaded = Loaded::new(api, caller.live_tenant(), &row.draft, &own_names).await?;
    loaded.map_err(ApiError::Invalid)?.compile(api, caller).await
}

/// Returns the latest version, if it is equal to what would be published.
async fn unchanged(
    api: &Api,
    tenant: TenantId,
    row: &TemplateRow,
    compiled: &Compiled,
) -> Result<Option<VersionRow>, ApiError> {
    let Some(version) = row.version.filter(|_| row.version_revision == Some(row.revision)) else { return Ok(None) };
    let which = TemplateVersion { template: TemplateId(row.id), version };
    let latest = versions::get(&api.db, tenant, which).await?;
    // The layouts may have changed.
    let is_same =
        |row: &VersionRow| serde_json::from_value(row.compiled.clone()).is_ok_and(|old: Compiled| old == *compiled);
    Ok(latest.filter(is_same))
}
