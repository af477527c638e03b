//! What operators' tools read: the metrics, and the probes of a process without an API.
//!
//! `metrics.listen` serves both to everybody who can reach it, so it belongs into a private network. The API's listener
//! serves the metrics only to the addresses in `metrics.allow`, and with `metrics.token`.

pub(super) mod health;
pub(super) mod ledger;
pub(super) mod readiness;
pub(super) mod test_clock;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, FORWARDED, VIA};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use ipnet::IpNet;

use super::auth::{Peer, client_of};
use super::layer::request_id::ApiLayer;
use super::response::ResponseMemory;
use super::{Api, ApiError, Readiness, with_layer};
use crate::db::Db;
use crate::domain::key::Secret;
use crate::domain::network::contains;
use crate::metrics;
use health::Health;
use readiness::STARTING;

/// Media type of the text format of Prometheus.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Memory for large responses of these listeners, in bytes.
const MEMORY: u64 = 64 << 20;

/// Who may read the metrics at the API's listener.
#[derive(Debug, Clone, Default)]
pub struct MetricsAccess {
    /// Addresses of clients.
    pub networks: Vec<IpNet>,
    /// SHA-256 of the token that other clients need, if they may read the metrics at all.
    pub token: Option<[u8; 32]>,
}

impl MetricsAccess {
    fn admits(&self, parts: &Parts, proxies: &[IpNet]) -> bool {
        self.has_token(&parts.headers) || self.has_address(parts, proxies)
    }

    /// Compares hashes, so that the time does not depend on how much of a wrong token is right.
    fn has_token(&self, headers: &HeaderMap) -> bool {
        let sent = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
        sent.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer") && self.token == Some(Secret::hash(token.trim()))
        })
    }

    /// Returns whether the request comes from one of the networks. A request that a proxy forwarded comes from the
    /// address that a trusted proxy reports, and never from the proxy's own, which is often on this machine.
    fn has_address(&self, parts: &Parts, proxies: &[IpNet]) -> bool {
        let Some(Peer(peer)) = parts.extensions.get::<Peer>() else { return false };
        let is_trusted = |ip: IpAddr| contains(proxies, ip.to_canonical());
        let is_forwarded = [X_FORWARDED_FOR, FORWARDED, VIA].iter().any(|name| parts.headers.contains_key(name));
        let Some(client) = client_of(parts, proxies) else { return false };
        contains(&self.networks, client) && !is_trusted(client) && (is_trusted(*peer) || !is_forwarded)
    }
}

/// Returns the route of the metrics at the API's listener.
pub(super) fn metrics_route() -> Router<Api> {
    Router::new().route("/metrics", get(guarded_metrics))
}

async fn guarded_metrics(State(api): State<Api>, parts: Parts) -> Result<Response, ApiError> {
    if !api.metrics_access.admits(&parts, &api.trusted_proxies) {
        return Err(ApiError::Unauthorized(
            "Send `metrics.token` as `Authorization: Bearer TOKEN`, or read the metrics from an address in `metrics.allow`.",
        ));
    }
    Ok(metrics_text())
}

fn metrics_text() -> Response {
    ([(CONTENT_TYPE, TEXT_FORMAT)], metrics::render()).into_response()
}

/// The state of the listener for operators' tools.
#[derive(Debug, Clone)]
struct Ops {
    readiness: Arc<Readiness>,
    db: Db,
}

async fn readyz(State(ops): State<Ops>) -> Result<Json<Health>, ApiError> {
    ops.readiness.check(&ops.db).await?;
    Ok(Json(health::OK))
}

/// Returns the router of `metrics.listen`.
pub fn ops_router(readiness: Arc<Readiness>, db: Db) -> Router {
    let router = Router::new()
        .route("/metrics", get(async || metrics_text()))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(readyz))
        .with_state(Ops { readiness, db });
    with_layer(router, ApiLayer { responses: ResponseMemory::new(MEMORY), resend: false, is_read_only: false })
}

/// Returns the router of an API that cannot serve requests yet: it answers 503 with the reason, also if the process has
/// started in the meantime, because it cannot serve a request that it has begun to read.
pub fn starting_router(readiness: Arc<Readiness>, resend: bool) -> Router {
    let refuse = move || {
        let refused = readiness.check_phase().err().unwrap_or_else(|| ApiError::NotReady(STARTING.into()));
        async move { Err::<Json<Health>, _>(refused) }
    };
    Router::new().route("/healthz", get(health::healthz)).fallback(refuse).layer(ApiLayer {
        responses: ResponseMemory::new(MEMORY),
        resend,
        is_read_only: false,
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use tower::ServiceExt as _;

    use super::*;
    use crate::domain::network::parse_network;

    fn admits(access: &MetricsAccess, peer: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().uri("/metrics");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(Peer(peer.parse().unwrap()));
        access.admits(&parts, &[parse_network("10.0.0.1").unwrap(), parse_network("127.0.0.2").unwrap()])
    }

    fn access() -> MetricsAccess {
        let networks = ["127.0.0.0/8", "192.0.2.0/24"].map(|text| parse_network(text).unwrap()).to_vec();
        MetricsAccess { networks, token: Some(Secret::hash("a token")) }
    }

    #[tokio::test]
    async fn starting_api_refuses_requests_also_after_the_start() {
        let readiness = Arc::new(Readiness::default());
        let router = starting_router(readiness.clone(), false);
        readiness.set_running();
        let status = async |method: &str, path: &str| {
            let request =
                Request::builder().method(method).uri(path).header("host", "mail.test").body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap().status()
        };
        assert_eq!(status("POST", "/v1/messages").await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status("GET", "/healthz").await, StatusCode::OK);
    }

    #[test]
    fn metrics_are_read_from_allowed_addresses() {
        assert!(admits(&access(), "127.0.0.1", &[]) && admits(&access(), "::ffff:192.0.2.9", &[]));
        assert!(!admits(&access(), "198.51.100.1", &[]));
    }

    #[test]
    fn token_is_needed_from_other_addresses() {
        let with = |token: &str| admits(&access(), "198.51.100.1", &[("authorization", token)]);
        assert!(with("Bearer a token") && with("bearer  a token"));
        assert!(!with("Bearer another") && !with("a token") && !with("Bearer "));
        let open = MetricsAccess { token: None, ..access() };
        assert!(!admits(&open, "198.51.100.1", &[("authorization", "Bearer ")]), "no token is not an empty one");
    }

    #[test]
    fn forwarded_request_does_not_count_as_local() {
        let forwarded = |peer: &str, by: &str| admits(&access(), peer, &[("x-forwarded-for", by)]);
        assert!(!forwarded("127.0.0.1", "192.0.2.9"), "no trusted proxy");
        assert!(forwarded("10.0.0.1", "192.0.2.9") && !forwarded("10.0.0.1", "198.51.100.1"));
        assert!(!admits(&access(), "127.0.0.2", &[]), "the proxy itself");
        assert!(!admits(&access(), "127.0.0.1", &[("forwarded", "for=192.0.2.9")]));
    }
}
