//! `/v1/keys`: creates, lists, changes and revokes API keys.

pub(super) mod control;
pub(super) mod read;
mod view;

use super::ApiError;

/// The error if no key has the id.
const NO_KEY: ApiError = ApiError::NotFound("No API key has this id.");
