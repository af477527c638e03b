//! `/v1/streams`: what kinds of mail there are, how urgent each is, how fast it goes, and when it is tried again. There is
//! no call to delete one: lanes and messages name it.

pub mod control;
pub mod read;
mod view;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::ApiError;

const NO_STREAM: ApiError = ApiError::NotFound("There is no stream with this name.");

/// A stream's name in the path. Text that is not UTF-8, or that Postgres would refuse, names nothing.
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
