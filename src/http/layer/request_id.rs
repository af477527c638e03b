//! The one layer around every request. Adds `X-Request-Id` to every response, problem and log line: the caller's value
//! if it is valid, otherwise a new one. Also applies [`security`] and the memory limit of large responses.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use axum::routing::Route;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::security::{self, Policy};
use super::unread;
use crate::http::auth::{current_audit, with_request_key};
use crate::http::resend::ErrorFormat;
use crate::http::response::{ResponseMemory, ResponseOwner};
use crate::http::{ApiError, Problem, audit, error};
use crate::metrics::http::RouteSeries;
use crate::telemetry::traces::{self, Scope};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The beginning of the dashboard's paths.
const DASHBOARD: &str = "/ui";
/// Stands for the route of a request to an unknown path.
const NO_ROUTE: &str = "none";
/// Number of headers that this layer, hyper and the router add to a response.
const EXTRA_HEADERS: usize = 8;

/// The layer that wraps every route. A single service rather than a stack of middleware, each of which would cost
/// several allocations per request.
#[derive(Debug, Clone)]
pub(in crate::http) struct ApiLayer {
    /// Memory for large responses.
    pub responses: ResponseMemory,
    /// Whether the API of Resend is served, whose errors have another form.
    pub resend: bool,
    /// Whether only reads are served.
    pub is_read_only: bool,
}

/// A route with the layer around it.
#[derive(Debug, Clone)]
pub(in crate::http) struct ApiService {
    route: Route,
    layer: ApiLayer,
    /// The metrics of the route.
    series: Arc<RouteSeries>,
}

impl Layer<Route> for ApiLayer {
    type Service = ApiService;

    fn layer(&self, route: Route) -> ApiService {
        ApiService { route, layer: self.clone(), series: Arc::default() }
    }
}

impl Service<Request> for ApiService {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    /// Routes are always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    /// Assigns the request's id, and writes the body of a problem.
    fn call(&mut self, mut request: Request) -> Self::Future {
        let id = request.headers().get(X_REQUEST_ID).filter(|id| is_valid_id(id)).cloned();
        let id = id.unwrap_or_else(new_id);
        if request.uri().path().starts_with(DASHBOARD) {
            // Its pages show the id, and pass it on to their calls of the API.
            request.headers_mut().insert(X_REQUEST_ID, id.clone());
        }
        // Logs the route, never the path, which may contain a secret (`/u/{token}`) or an address.
        let matched = request.extensions().get::<MatchedPath>().cloned();
        let route = matched.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
        let (method, started) = (request.method().clone(), Instant::now());
        let span = tracing::info_span!("request", request_id = id.to_str().unwrap_or_default(), %method, route);
        let trace =
            if is_probe(route) { Scope::default() } else { traces::request(request.headers(), method.as_str(), route) };
        let policy = Policy::new(request.uri().path());
        let audited = audit::operation(&request, route, &id);
        let is_audited = audited.is_some();
        let resend = self.layer.resend.then(|| ErrorFormat::new(&request)).flatten();
        let is_refused = self.layer.is_read_only && !request.method().is_safe();
        let checked = security::check(&request).and(if is_refused { Err(ApiError::ReadOnly) } else { Ok(()) });
        let owner = ResponseOwner::default();
        request.extensions_mut().insert(owner.clone());
        if let Some(operation) = audited {
            request.extensions_mut().insert(operation);
        }
        let (responses, series) = (self.layer.responses.clone(), self.series.clone());
        // The handler does not run before this future is polled.
        let (request, unread) = unread::track(request);
        let handled = AssertUnwindSafe(self.route.call(request)).catch_unwind();
        let work = with_request_key(completed(handled, is_audited));
        Box::pin(async move {
            let mut response = match checked {
                Ok(()) => {
                    let work = pin!(work.instrument(span));
                    let mut response = trace.run(work).await;
                    if let Some(unread) = unread {
                        unread.discard_or_close(&mut response);
                    }
                    responses.admit(&owner, response).await
                }
                Err(error) => security::refuse_and_close(error),
            };
            response.headers_mut().reserve(EXTRA_HEADERS);
            policy.add_to(response.headers_mut());
            owner.add_limits(response.headers_mut());
            if let Some(mut problem) = response.extensions_mut().remove::<Problem>() {
                let (body, kind) = if let Some(format) = resend {
                    let (status, body) = format.write(&problem);
                    *response.status_mut() = status;
                    (body, "application/json")
                } else {
                    id.to_str().unwrap_or_default().clone_into(&mut problem.request_id);
                    (serde_json::to_vec(&problem).unwrap_or_default(), "application/problem+json")
                };
                *response.body_mut() = Body::from(body);
                let headers = response.headers_mut();
                headers.remove(header::CONTENT_LENGTH);
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            response.headers_mut().insert(X_REQUEST_ID, id);
            let route = matched.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
            if trace.is_recorded() {
                trace.set("http.response.status_code", i64::from(response.status().as_u16()));
                if response.status().is_server_error() {
                    trace.fail(response.status().as_u16().to_string());
                }
            }
            series.record(method.as_str(), route, response.status().as_u16(), started.elapsed());
            Ok(response)
        })
    }
}

/// Returns the response of a handler, once the row of its request in the audit log is complete.
async fn completed(
    handled: impl Future<Output = std::thread::Result<Result<Response, Infallible>>>,
    is_audited: bool,
) -> Response {
    let response = match handled.await {
        Ok(Ok(response)) => response,
        Err(_) => error::panicked(),
    };
    if is_audited && let Some(record) = current_audit() {
        Box::pin(record.complete(response.status())).await;
    }
    response
}

/// Returns whether the route is called periodically by machines, which would fill a store of traces.
fn is_probe(route: &str) -> bool {
    matches!(route, "/healthz" | "/readyz" | "/metrics")
}

fn new_id() -> HeaderValue {
    let mut id = *b"req_00000000000000000000000000000000";
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().simple().encode_lower(&mut id[4..]);
    HeaderValue::from_bytes(&id).unwrap_or(HeaderValue::from_static("req_0"))
}

/// Returns whether the id is short and safe to log.
fn is_valid_id(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=128).contains(&id.len()) && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte))
}
