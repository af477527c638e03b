//! What an error answer says (RFC 9457), whoever gives it: plain data, written out by `http::request_id`, which knows
//! the request.

use std::borrow::Cow;

use serde::Serialize;

use super::fault::Fault;

/// An error answer, `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// Always `about:blank`: `code` tells the kinds apart.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    pub kind: &'static str,
    /// The status in words.
    #[schema(example = "Unprocessable Entity")]
    pub title: &'static str,
    /// The HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// What is wrong and what would mend it.
    pub detail: Cow<'static, str>,
    /// Stable, machine-readable word.
    #[schema(example = "invalid_request")]
    pub code: &'static str,
    /// As in the `X-Request-Id` header.
    pub request_id: String,
    /// Every single fault, where the request itself is at fault.
    pub errors: Vec<Fault>,
}
