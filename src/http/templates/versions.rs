//! `GET /v1/templates/{id}/versions`.

use axum::Json;
use axum::extract::{Path, State};

use super::view::{VersionSummaryView, VersionView};
use super::{NO_TEMPLATE, TemplatePath, require_read};
use crate::db::templates::{self, versions};
use crate::domain::id::TemplateId;
use crate::domain::message::template::{TemplateName, TemplateVersion};
use crate::http::auth::Caller;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::Params;
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, NotFound};

pub(super) const NO_VERSION: ApiError = ApiError::NotFound("The template has no published version of this number.");

/// List versions of a template
///
/// Returns the published versions, newest first, without their bodies.
#[utoipa::path(
    get, path = "/v1/templates/{id}/versions", tag = "templates", operation_id = "list_template_versions",
    params(("id" = String, Path, description = "The id or alias of the template"), PageParams),
    responses(
        (status = 200, description = "A page of versions", body = Page<VersionSummaryView>),
        AuthErrors, NotFound, InvalidParameter,
    ),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    TemplatePath(name): TemplatePath,
    mut params: Params,
) -> Result<Json<Page<VersionSummaryView>>, ApiError> {
    require_read(&caller)?;
    let limit = params.limit();
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok());
    params.finish()?;
    let template = find(&api, &caller, &name).await?;
    let rows = versions::page(&api.db, caller.live_tenant(), template, after, limit + 1).await?;
    Ok(Json(Page::new(rows, limit, |row| row.version.to_string(), VersionSummaryView::from_row)))
}

/// Get a version of a template
///
/// Returns a published version: what was published, and what messages are rendered from.
#[utoipa::path(
    get, path = "/v1/templates/{id}/versions/{n}", tag = "templates", operation_id = "get_template_version",
    params(
        ("id" = String, Path, description = "The id or alias of the template"),
        ("n" = i32, Path, minimum = 1, description = "The number of the version"),
    ),
    responses((status = 200, description = "The version", body = VersionView), AuthErrors, NotFound),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path((name, number)): Path<(String, String)>,
) -> Result<Json<VersionView>, ApiError> {
    require_read(&caller)?;
    let name: TemplateName = name.parse().map_err(|_| NO_TEMPLATE)?;
    let version: i32 = number.parse().map_err(|_| NO_VERSION)?;
    let template = find(&api, &caller, &name).await?;
    let which = TemplateVersion { template, version };
    let row = versions::get(&api.db, caller.live_tenant(), which).await?.ok_or(NO_VERSION)?;
    Ok(Json(VersionView::from_row(template.0, row)))
}

async fn find(api: &Api, caller: &Caller, name: &TemplateName) -> Result<TemplateId, ApiError> {
    templates::find(&api.db, caller.live_tenant(), name).await?.ok_or(NO_TEMPLATE)
}
