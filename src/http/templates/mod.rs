//! `/v1/templates`: templates, their drafts and published versions, previews and validation.

mod body;
pub mod control;
mod engine;
pub mod preview;
pub mod publish;
pub mod read;
pub mod validate;
pub mod versions;
pub(super) mod view;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::auth::Caller;
use super::{Api, ApiError};
use crate::db::templates::{self, TemplateRow};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::id::{TemplateId, TenantId};
use crate::domain::key::Scope;
use crate::domain::message::template::TemplateName;

const NO_TEMPLATE: ApiError = ApiError::NotFound("No template has this id or alias.");

/// A template's id or alias in the path. A text that is neither returns 404.
#[derive(Debug)]
pub struct TemplatePath(pub(super) TemplateName);

impl<S: Send + Sync> FromRequestParts<S> for TemplatePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Ok(Path(text)) = Path::<String>::from_request_parts(parts, state).await else { return Err(NO_TEMPLATE) };
        text.parse().map(Self).map_err(|_| NO_TEMPLATE)
    }
}

/// Fails if the caller may not read templates.
pub(super) fn require_read(caller: &Caller) -> Result<(), ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains("Templates are shared by all sender domains.")
}

/// Reads a template; fails if it does not exist.
pub(super) async fn load(api: &Api, tenant: TenantId, name: &TemplateName) -> Result<TemplateRow, ApiError> {
    templates::get(&api.db, tenant, name).await?.ok_or(NO_TEMPLATE)
}

/// Returns the id of the template that a request names as a layout; fails if it does not exist.
async fn layout_id(api: &Api, tenant: TenantId, name: &TemplateName) -> Result<TemplateId, ApiError> {
    templates::find(&api.db, tenant, name)
        .await?
        .ok_or_else(|| invalid("/layout", Code::UnknownTemplate, format!("there is no template `{name}`")))
}

/// Returns the error of one invalid field.
fn invalid(pointer: &str, code: Code, message: String) -> ApiError {
    ApiError::Invalid(vec![Fault { pointer: pointer.into(), code: code.as_str(), message }])
}
