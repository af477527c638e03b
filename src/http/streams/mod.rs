//! `/v1/streams`: kinds of traffic with their priority, limits and retry policy. A stream cannot be deleted, since
//! lanes and messages refer to it.

pub mod control;
pub mod read;
mod view;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::ApiError;

const NO_STREAM: ApiError = ApiError::NotFound("No stream has this name.");

/// A stream name in the path. A name that is not UTF-8 or contains NUL returns 404.
#[derive(Debug)]
pub struct StreamName(String);

impl<S: Send + Sync> FromRequestParts<S> for StreamName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) if !name.contains('\0') => Ok(Self(name)),
            _ => Err(NO_STREAM),
        }
    }
}
