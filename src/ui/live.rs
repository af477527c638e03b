//! Live updates: the event stream of the API, for the browser. `app.js` uses the ids in it to refresh the rows that they
//! are about.

use axum::extract::Request;
use axum::http::{Method, header};
use axum::response::Response;

use super::error::UiError;
use super::session::Visitor;

/// Streams the tenant's events from now on.
pub(super) async fn events(visitor: Visitor, request: Request) -> Result<Response, UiError> {
    let mut call = Request::builder()
        .method(Method::GET)
        .uri("/v1/events?after=latest")
        .header(header::ACCEPT, "text/event-stream");
    if let Some(last) = request.headers().get("last-event-id") {
        call = call.header("last-event-id", last);
    }
    let call = call.body(axum::body::Body::empty()).map_err(|error| UiError::unreadable(&error))?;
    visitor.run(call).await
}
