//! `POST /v1/templates/validate`.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;

use super::body::ValidateBody;
use super::engine::Loaded;
use super::view::ValidationView;
use super::{layout_id, require_read};
use crate::accept::request::resources::template;
use crate::accept::templates::{changed_row, empty_row};
use crate::domain::limits::Change;
use crate::http::auth::Caller;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors};

/// Validate a template
///
/// Checks a template that is not saved as publishing does, suggests its variables, and renders it. A template with faults
/// is answered 200 with `valid: false`. Variables that are not declared are faults only if the template declares any.
#[utoipa::path(
    post, path = "/v1/templates/validate", tag = "templates", operation_id = "validate_template",
    request_body = ValidateBody,
    responses(
        (status = 200, description = "The faults, warnings and variables of the template", body = ValidationView),
        AuthErrors, JsonErrors,
    ),
)]
pub async fn validate(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ValidationView>, ApiError> {
    require_read(&caller)?;
    let body = api.bodies.template(&headers, body).await?;
    let template::Validation { mut content, values } = template::parse_validation(&body.bytes)?;
    let layout = match std::mem::take(&mut content.layout) {
        Change::Set(name) => Some(layout_id(&api, caller.live_tenant(), &name).await?),
        Change::Keep | Change::Clear => None,
    };
    let row = changed_row(empty_row(), content, layout);
    Ok(Json(match Loaded::new(&api, caller.live_tenant(), &row, &[]).await? {
        Ok(loaded) => {
            let (report, rendered) = loaded.validate(&api, &caller, values).await?;
            ValidationView::new(report, rendered)
        }
        Err(faults) => ValidationView::unscannable(faults),
    }))
}
