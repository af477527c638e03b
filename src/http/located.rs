//! Responses that name the path of what the request created.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// Adds the header `Location`.
pub(super) fn located(path: String, response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    if let Ok(path) = HeaderValue::try_from(path) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    response
}
