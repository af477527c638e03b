//! `/v1/keys`: creates, lists, changes and revokes API keys.

pub(super) mod control;
pub(super) mod read;
mod view;

use super::ApiError;

/// The error if there is no key with an id.
const NO_KEY: ApiError = ApiError::NotFound("No API key has this id.");
