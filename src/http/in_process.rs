//! Calls to the API within this process, for the dashboard.
//!
//! The dashboard runs no queries itself: it calls the same routes as every client, with the API key that its user signed
//! in with. So scopes, sender domains, tenants, limits and validation are enforced in one place. Reads use a small pool of
//! their own, so that looking at the dashboard never takes connections from accepting and sending.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, header};
use axum::response::Response;
use chrono::{DateTime, Utc};
use tower::ServiceExt as _;

use super::layer::request_id::ApiLayer;
use super::limits::concurrency_limit::{self, ConcurrencyLimit};
use super::{Api, ApiError, Shared, auth, routes, with_layer};
use crate::db::{Db, DbError};
use crate::dev::inbox::Inbox;
use crate::domain::id::{KeyId, TenantId};
use crate::domain::installation::restore::Hold;
use crate::domain::key::Scope;

/// An API key that was authenticated before the call. As an extension of a request, it replaces the `Authorization`
/// header.
#[derive(Debug, Clone, Copy)]
pub struct KnownKey {
    /// SHA-256 of the key's secret.
    pub hash: [u8; 32],
    /// The address of the client that the call is made for; `None` if it is unknown.
    pub client: Option<IpAddr>,
}

/// An API key that somebody signed in with.
#[derive(Debug, Clone, Copy)]
pub struct SignedIn {
    /// The tenant of the key.
    pub tenant: TenantId,
    /// The key.
    pub key: KeyId,
    /// Whether the dashboard has any page for the key: with its tenant's data, or with that of all tenants.
    pub may_look: bool,
}

/// The API, to be called within this process. Its routers are built at the first call.
#[derive(Debug)]
pub struct InProcessApi {
    api: Api,
    /// The same API with a pool of its own.
    reading_api: Api,
    /// The inbox of `postrider dev`, whose routes are part of the API there.
    inbox: Option<Arc<Inbox>>,
    reads: OnceLock<Router>,
    writes: OnceLock<Router>,
}

impl InProcessApi {
    /// Creates the API with a separate pool for reads.
    pub fn new(api: &Api, db: Db, inbox: Option<Arc<Inbox>>) -> Self {
        let reading_api = Api(Arc::new(Shared {
            db,
            slow_queries: ConcurrencyLimit::new(concurrency_limit::SLOW_QUERIES),
            // Each open page has an event stream. It must not use up the limit for the event streams of applications.
            long_requests: ConcurrencyLimit::new(concurrency_limit::LONG_REQUESTS),
            ..(*api.0).clone()
        }));
        Self { api: api.clone(), reading_api, inbox, reads: OnceLock::new(), writes: OnceLock::new() }
    }

    /// Calls a route. Errors have the same bodies as those of the API.
    pub async fn call(&self, key: KnownKey, mut request: Request) -> Response {
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
        request.extensions_mut().insert(key);
        let (cell, api) = match *request.method() {
            Method::GET => (&self.reads, &self.reading_api),
            _ => (&self.writes, &self.api),
        };
        let router = cell.get_or_init(|| router(api.clone(), self.inbox.clone()));
        router.clone().oneshot(request).await.unwrap_or_else(|never: Infallible| match never {})
    }

    /// Checks the secret of an API key. A failure counts against the client's address, as with every request.
    pub async fn sign_in(&self, secret: &str, parts: &Parts) -> Result<SignedIn, ApiError> {
        let key = auth::check_secret(&self.api, secret, parts).await?;
        let has = |scope: &Scope| key.row.scopes.iter().any(|name| name == scope.as_str());
        let may_look = Scope::Metadata.granted_by().iter().chain(Scope::Operator.granted_by()).any(has);
        Ok(SignedIn { tenant: TenantId(key.row.tenant_id), key: KeyId(key.row.id), may_look })
    }

    /// Returns the address of the client that sent a request.
    pub fn client(&self, parts: &Parts) -> Option<IpAddr> {
        auth::client_address(&self.api, parts)
    }

    /// Returns whether a request came directly from a trusted proxy, whose headers are believed.
    pub fn is_from_proxy(&self, parts: &Parts) -> bool {
        auth::is_from_proxy(&self.api, parts)
    }

    /// Returns whether a request came directly from a program on this machine that is not a trusted proxy.
    pub fn is_local(&self, parts: &Parts) -> bool {
        auth::is_local(&self.api, parts)
    }

    /// Runs a query that looks up a secret, such as the token of a session. If the secret is not found, it counts as an
    /// invalid key from the client's address. An address that has sent too many may be refused without a query.
    pub async fn find_counted<T>(
        &self,
        parts: &Parts,
        query: impl Future<Output = Result<Option<T>, DbError>>,
    ) -> Result<Option<T>, ApiError> {
        self.api.keys.find_counted(self.client(parts), query).await
    }

    /// Returns whether the inbox of `postrider dev` is served.
    pub fn has_inbox(&self) -> bool {
        self.inbox.is_some()
    }

    /// Returns the pool for reads.
    pub fn db(&self) -> &Db {
        &self.reading_api.db
    }

    /// Returns the restore guard's hold; `None` if messages may be sent.
    pub fn restore_hold(&self) -> Option<Hold> {
        self.api.restore_gate.hold()
    }

    /// Returns the current time.
    pub fn now(&self) -> DateTime<Utc> {
        self.api.clock.now()
    }
}

fn router(api: Api, inbox: Option<Arc<Inbox>>) -> Router {
    let layer = ApiLayer { responses: api.responses.clone(), resend: false, is_read_only: api.db.is_read_only() };
    let inbox = inbox.map(crate::dev::routes::router).unwrap_or_default();
    with_layer(Router::from(routes()).with_state(api).merge(inbox), layer)
}
