//! Responses with the path of the created object.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// Returns the response with the header `Location`.
pub(super) fn with_location(path: String, response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    if let Ok(path) = HeaderValue::try_from(path) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    response
}
