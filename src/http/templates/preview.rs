//! `POST /v1/templates/{id}/preview`.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;

use super::body::PreviewBody;
use super::publish::compile;
use super::versions::NO_VERSION;
use super::view::RenderedView;
use super::{NO_TEMPLATE, TemplatePath, engine, load, require_read};
use crate::accept::request::resources::template;
use crate::db::templates::{self, versions};
use crate::domain::message::template::TemplateVersion;
use crate::http::auth::Caller;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors};
use crate::template::Compiled;

/// Preview a template
///
/// Renders the draft, or a published version, with these variables. Sends and stores nothing.
#[utoipa::path(
    post, path = "/v1/templates/{id}/preview", tag = "templates", operation_id = "preview_template",
    params(("id" = String, Path, description = "The id or alias of the template")),
    request_body = PreviewBody,
    responses(
        (status = 200, description = "The rendered template", body = RenderedView),
        AuthErrors, JsonErrors,
        (status = 404, description = "Not found: there is no such template, or no such version"),
        (status = 422, description = "Invalid request, or a draft that cannot be rendered; `errors` lists every fault, with pointers into the request such as `/variables/name`, or into the draft such as `/html`"),
    ),
)]
pub async fn preview(
    State(api): State<Api>,
    caller: Caller,
    TemplatePath(name): TemplatePath,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<RenderedView>, ApiError> {
    require_read(&caller)?;
    let body = api.bodies.json(&headers, body).await?;
    let template::Preview { variables, version } = template::parse_preview(&body.bytes)?;
    let compiled = match version {
        None => compile(&api, &caller, &load(&api, caller.live_tenant(), &name).await?).await?,
        Some(version) => {
            let template = templates::find(&api.db, caller.live_tenant(), &name).await?.ok_or(NO_TEMPLATE)?;
            let which = TemplateVersion { template, version };
            let compiled = versions::compiled(&api.db, caller.live_tenant(), which).await?.ok_or(NO_VERSION)?;
            serde_json::from_value::<Compiled>(compiled).map_err(|_| ApiError::Internal)?
        }
    };
    engine::render(&api, &caller, compiled, variables).await.map(Json)
}
