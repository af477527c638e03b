//! What surrounds every request, in one layer. `X-Request-Id`: the caller's own where it is sensible, else a new one; on every
//! answer, in every problem and in the log. The checks and headers of [`security`], and the share of a large response.

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;
use uuid::Uuid;

use super::Problem;
use super::response::{Asker, Responses};
use super::security::{self, Policy};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives the request its id, and writes the body of a problem.
pub(super) async fn layer(State(responses): State<Responses>, mut request: Request, next: Next) -> Response {
    let id = request.headers().get(X_REQUEST_ID).filter(|id| is_sensible(id)).cloned();
    let id = id.unwrap_or_else(|| {
        HeaderValue::from_str(&format!("req_{}", Uuid::now_v7().simple())).unwrap_or(HeaderValue::from_static("req_0"))
    });
    let text = id.to_str().unwrap_or_default().to_owned();
    // The route and never the path, which may hold what is secret (`/u/{token}`) or somebody's address.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    let span = tracing::info_span!("request", id = text, method = %request.method(), route);
    let (policy, asker) = (Policy::new(request.uri().path()), Asker::default());
    request.extensions_mut().insert(asker.clone());
    let mut response = match security::check(&request) {
        Ok(()) => responses.admit(&asker, next.run(request).instrument(span).await).await,
        Err(error) => security::refused(error),
    };
    policy.add_to(response.headers_mut());
    if let Some(mut problem) = response.extensions_mut().remove::<Problem>() {
        problem.request_id = text;
        *response.body_mut() = Body::from(serde_json::to_vec(&problem).unwrap_or_default());
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    }
    response.headers_mut().insert(X_REQUEST_ID, id);
    response
}

/// Short and printable, so that it can stand in a log.
fn is_sensible(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=128).contains(&id.len()) && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte))
}
