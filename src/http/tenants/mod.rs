//! `/v1/tenants`: creates, lists, changes, suspends, resumes and deletes tenants, for callers with the scope `operator`.

pub mod control;
pub mod read;
mod view;

use super::ApiError;

/// The error if no tenant has the id.
const NO_TENANT: ApiError = ApiError::NotFound("No tenant has this id.");
