//! `/v1/suppressions`: addresses that no messages are sent to.
//!
//! Keys with the scope `read` may list and export, and keys with `send` may add entries, so that an application can
//! maintain its own opt-outs. Removing and changing entries requires `admin`.

pub mod control;
pub mod export;
pub mod import;
pub mod list;
pub mod view;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::ApiError;
use crate::domain::address::Address;
use crate::domain::suppression::AddressKey;

const NOT_SUPPRESSED: ApiError = ApiError::NotFound("This address is not on the suppression list.");

/// An address in the path. An invalid address returns 404.
#[derive(Debug)]
pub struct PathAddress(AddressKey);

impl<S: Send + Sync> FromRequestParts<S> for PathAddress {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Ok(Path(text)) = Path::<String>::from_request_parts(parts, state).await else { return Err(NOT_SUPPRESSED) };
        let address: Address = text.parse().map_err(|_| NOT_SUPPRESSED)?;
        Ok(Self(AddressKey::from(&address)))
    }
}
