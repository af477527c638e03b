//! `GET /v1/templates`.

use axum::Json;
use axum::extract::State;

use super::view::{SummaryView, TemplateView};
use super::{TemplatePath, load, require_read};
use crate::db::templates;
use crate::domain::id::TemplateId;
use crate::http::auth::Caller;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::Params;
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, NotFound};

/// List templates
///
/// Returns templates, newest first, without their bodies.
#[utoipa::path(
    get, path = "/v1/templates", tag = "templates", operation_id = "list_templates",
    params(PageParams),
    responses(
        (status = 200, description = "A page of templates", body = Page<SummaryView>),
        AuthErrors, InvalidParameter,
    ),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<SummaryView>>, ApiError> {
    require_read(&caller)?;
    let limit = params.limit();
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok());
    params.finish()?;
    let rows = templates::page(&api.db, caller.live_tenant(), after, limit + 1).await?;
    Ok(Json(Page::new(rows, limit, |row| TemplateId(row.id).to_string(), SummaryView::from_row)))
}

/// Get a template
///
/// Returns the template with its draft. `GET /v1/templates/{id}/versions/{n}` returns a published version.
#[utoipa::path(
    get, path = "/v1/templates/{id}", tag = "templates", operation_id = "get_template",
    params(("id" = String, Path, description = "The id or alias of the template")),
    responses((status = 200, description = "The template", body = TemplateView), AuthErrors, NotFound),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    TemplatePath(name): TemplatePath,
) -> Result<Json<TemplateView>, ApiError> {
    require_read(&caller)?;
    Ok(Json(TemplateView::from_row(load(&api, caller.live_tenant(), &name).await?)))
}
