//! Authentication by `Authorization: Bearer KEY`, and authorisation by the key's scopes, sender domains and networks.

mod cache;
mod client_address;
mod failures;
mod key_lookup;
mod key_use;
mod request_key;
pub(super) mod security_log;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderValue;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use super::audit::{AuditRecord, AuditedOperation};
use super::in_process::KnownKey;
use super::response::ResponseOwner;
use super::{Api, ApiError};
use crate::domain::api::fault::Fault;
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::{Scope, Secret};
use crate::domain::network::contains;
use crate::http::auth::security_log::{Refusal, SecurityLog};
use crate::telemetry::traces;

use cache::Attempt;
pub(super) use cache::{CachedKey, KeyCache};
pub(super) use client_address::{Peer, client as client_of};
use request_key::{Access, RequestKey};
pub(super) use request_key::{current_audit, with_request_key};

/// The beginning of the error for a missing scope.
pub(super) const LACKS_SCOPE: &str = "This key lacks the scope";

/// A caller with a valid key.
///
/// A key with `sender_domains` may only send and read messages from those domains. For such a key, other messages do
/// not exist, and data that all sender domains of a tenant share is forbidden.
#[derive(Debug, Clone)]
pub struct Caller {
    request: Arc<RequestKey>,
    hash: [u8; 32],
    log: Arc<SecurityLog>,
}

impl Caller {
    /// Returns the same caller with the key's current state; fails if the key is no longer valid, or its tenant has been
    /// suspended. For long-running requests.
    pub async fn refresh(&self, api: &Api) -> Result<Self, ApiError> {
        let attempt = Attempt { hash: self.hash, text: None, client: None };
        let key = api.keys.get_valid(attempt).await?;
        let RequestKey { client, access, .. } = *self.request;
        api.keys.require_address(&key, client)?;
        access.check(&key)?;
        let request = RequestKey::new(key, client, access, self.request.audit.clone());
        Ok(Self { request: Arc::new(request), hash: self.hash, log: self.log.clone() })
    }

    /// Returns the tenant of the data that the caller sends and reads: messages, events, streams, lanes, suppressions,
    /// webhook endpoints. Of a test key, it is the test tenant.
    pub fn tenant(&self) -> TenantId {
        self.key().data_tenant
    }

    /// Returns the tenant whose domains, templates and keys the caller uses. Test and live keys share them.
    pub fn live_tenant(&self) -> TenantId {
        TenantId(self.key().row.tenant_id)
    }

    /// Fails if the key lacks the scope `admin`, or is a test key: a change of `what` would affect live messages.
    pub fn require_live_admin(&self, what: &str) -> Result<(), ApiError> {
        self.require(Scope::Admin)?;
        self.require_live_key(what)
    }

    /// Fails if the key is a test key: a change of `what` would affect live messages.
    pub fn require_live_key(&self, what: &str) -> Result<(), ApiError> {
        if self.tenant().is_test() {
            return Err(self.forbidden(format!("Test keys cannot change {what}; use a live key.")));
        }
        Ok(())
    }

    /// Fails if the key is a live key. `reason` is the first sentence of the error.
    pub fn require_test_key(&self, reason: &str) -> Result<(), ApiError> {
        if self.tenant().is_test() { Ok(()) } else { Err(self.forbidden(format!("{reason} Use a test key."))) }
    }

    /// Returns the id of the caller's API key.
    pub fn key_id(&self) -> KeyId {
        KeyId(self.key().row.id)
    }

    /// Returns what the caller's requests count against in limits that all tenants share.
    pub(super) fn requester(&self) -> Requester {
        self.key().requester()
    }

    /// Returns the caller's API key, as it was last loaded: when the headers had arrived, or again when the body had
    /// arrived.
    pub(super) fn key(&self) -> &CachedKey {
        self.request.key()
    }

    /// Returns the row of the request in the audit log; `None` if the request is not audited.
    pub(super) fn audit(&self) -> Option<&AuditRecord> {
        self.request.audit.as_deref()
    }

    /// Returns whether the key has this scope. `admin` includes `send` and `read`, and `read` includes `metadata`. With `sender_domains`, it only includes
    /// these: keys that an earlier version created with both may send and read within their domains. Test keys never have
    /// the scope `operator`.
    pub fn has_scope(&self, scope: Scope) -> bool {
        let has = |scope: &Scope| self.key().row.scopes.iter().any(|name| name == scope.as_str());
        let is_granted = scope.granted_by().iter().any(has);
        match scope {
            Scope::Operator => is_granted && self.sender_domains().is_none() && !self.tenant().is_test(),
            Scope::Admin => is_granted && self.sender_domains().is_none(),
            Scope::Send | Scope::Read | Scope::Metadata => is_granted,
        }
    }

    /// Fails if the key lacks this scope.
    pub fn require(&self, scope: Scope) -> Result<(), ApiError> {
        if self.has_scope(scope) {
            return Ok(());
        }
        // The scope that such keys usually have.
        let scope = if scope == Scope::Metadata { Scope::Read } else { scope }.as_str();
        Err(self.forbidden(format!("{LACKS_SCOPE} `{scope}`.")))
    }

    /// Returns the sender domains that the key is limited to; `None` means that it is not limited.
    pub fn sender_domains(&self) -> Option<&[String]> {
        self.key().row.sender_domains.as_deref()
    }

    /// Fails if the key is limited to sender domains. Used for data that all sender domains share, such as the
    /// suppression list. `reason` is the first sentence of the error.
    pub fn require_all_domains(&self, reason: &str) -> Result<(), ApiError> {
        let Some(domains) = self.sender_domains() else { return Ok(()) };
        Err(self.forbidden(format!(
            "{reason} This key is limited to {}; use a key without `sender_domains`.",
            domains.join(", ")
        )))
    }

    /// Returns whether the caller may read messages of this sender.
    pub fn can_see(&self, sender: &str) -> bool {
        let domain = sender.rsplit_once('@').map_or("", |(_, domain)| domain);
        self.sender_domains().is_none_or(|domains| domains.iter().any(|allowed| allowed == domain))
    }

    /// Fails if the key may not send from this domain.
    pub fn require_sender_domain(&self, domain: &str) -> Result<(), ApiError> {
        self.sender_domain_refusal(domain).map_or(Ok(()), |reason| Err(self.forbidden(reason)))
    }

    /// Returns the reason why the key may not send from this domain, if it may not.
    pub fn sender_domain_refusal(&self, domain: &str) -> Option<String> {
        let domains = self.sender_domains()?;
        let is_allowed = domains.iter().any(|allowed| allowed == domain);
        (!is_allowed).then(|| format!("This key may send only from {}, not from {domain}.", domains.join(", ")))
    }

    fn forbidden(&self, detail: String) -> ApiError {
        self.log.refused(Refusal::Forbidden, Some(&self.key().row), &detail);
        ApiError::Forbidden(detail)
    }

    /// Logs forbidden fields and returns the error.
    pub fn forbidden_fields(&self, faults: Vec<Fault>) -> ApiError {
        let reason = faults.first().map_or("", |fault| fault.message.as_str());
        self.log.refused(Refusal::Forbidden, Some(&self.key().row), reason);
        ApiError::ForbiddenFields(faults)
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let access = if parts.method.is_safe() { Access::WhileSuspended } else { Access::WhileActive };
        Self::authenticate(parts, api, access).await
    }
}

/// An API key with its tenant. Test and live keys of a tenant have the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Requester {
    pub tenant: TenantId,
    pub key: KeyId,
}

/// A caller whose tenant may be suspended: the request only records what other mail servers report.
#[derive(Debug, Clone)]
pub struct Reporter(pub Caller);

impl FromRequestParts<Api> for Reporter {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        Caller::authenticate(parts, api, Access::WhileSuspended).await.map(Self)
    }
}

/// A caller whose key has the scope `operator`. Its own tenant may be suspended, so that an operator can resume it.
#[derive(Debug, Clone)]
pub struct Operator(pub Caller);

impl FromRequestParts<Api> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let caller = Caller::authenticate(parts, api, Access::WhileSuspended).await?;
        caller.require(Scope::Operator)?;
        Ok(Self(caller))
    }
}

impl Caller {
    async fn authenticate(parts: &mut Parts, api: &Api, access: Access) -> Result<Self, ApiError> {
        let log = &api.keys.log;
        let unknown = |reason: &'static str| {
            log.refused(Refusal::UnknownKey, None, reason);
            ApiError::Unauthorized(reason)
        };
        let attempt = if let Some(header) = parts.headers.get(AUTHORIZATION) {
            let text = secret(header).map_err(unknown)?;
            let client = client_address::client(parts, &api.trusted_proxies);
            Attempt { hash: Secret::hash(text), text: Some(text), client }
        } else if let Some(known) = parts.extensions.get::<KnownKey>() {
            // Only a call within this process can have this extension.
            Attempt { hash: known.hash, text: None, client: known.client }
        } else {
            return Err(ApiError::Unauthorized("Send an API key as `Authorization: Bearer KEY`."));
        };
        let Attempt { hash, client, .. } = attempt;
        let key = api.keys.get_valid(attempt).await?;
        traces::authenticated();
        let owner = parts.extensions.get::<ResponseOwner>();
        if let Some(owner) = owner {
            owner.set(key.requester());
        }
        api.keys.require_address(&key, client)?;
        // Looking at the dashboard does not take requests from the application that shares its key.
        let is_looking = attempt.is_known() && parts.method.is_safe();
        // A process that only reads cannot take requests from the limits that all processes share.
        if key.has_limits() && !is_looking && !api.db.is_read_only() {
            // Boxed, because the future is part of every request.
            Box::pin(api.allowances.admit(&key, owner)).await?;
        }
        let audit = match parts.extensions.get::<AuditedOperation>() {
            Some(operation) => {
                let begun = AuditRecord::begin(api, operation, &key, client, parts);
                Some(Arc::new(Box::pin(begun).await?))
            }
            None => None,
        };
        let request = Arc::new(RequestKey::new(key, client, access, audit));
        request_key::set(request.clone());
        // After the row of the audit log, which also records requests that are refused.
        access.check(request.key())?;
        Ok(Self { request, hash, log: log.clone() })
    }
}

impl Caller {
    /// Returns the caller of a client that has sent its key in another way than with a request, such as SMTP. A failure
    /// counts against the client's address. [`Caller::refresh`] returns the key's state for later uses.
    pub(super) async fn sign_in(api: &Api, text: &str, client: IpAddr) -> Result<Self, ApiError> {
        let client = Some(client.to_canonical());
        let attempt = Attempt { hash: Secret::hash(text), text: Some(text), client };
        let key = api.keys.get_valid(attempt).await?;
        api.keys.require_address(&key, client)?;
        Access::WhileActive.check(&key)?;
        let request = RequestKey::new(key, client, Access::WhileActive, None);
        Ok(Self { request: Arc::new(request), hash: attempt.hash, log: api.keys.log.clone() })
    }
}

/// Checks a key that arrived in another way than the `Authorization` header. A failure counts against the client's address.
pub(super) async fn check_secret(api: &Api, text: &str, parts: &Parts) -> Result<Arc<CachedKey>, ApiError> {
    let client = client_address::client(parts, &api.trusted_proxies);
    let key = api.keys.get_valid(Attempt { hash: Secret::hash(text), text: Some(text), client }).await?;
    api.keys.require_address(&key, client)?;
    Ok(key)
}

/// Returns the address of the client that sent a request; `None` if it is unknown.
pub(super) fn client_address(api: &Api, parts: &Parts) -> Option<IpAddr> {
    client_address::client(parts, &api.trusted_proxies)
}

/// Returns whether a request came directly from a trusted proxy.
pub(super) fn is_from_proxy(api: &Api, parts: &Parts) -> bool {
    let peer = parts.extensions.get::<Peer>();
    peer.is_some_and(|Peer(peer)| contains(&api.trusted_proxies, peer.to_canonical()))
}

/// Returns whether a request came directly from a program on this machine that is not a trusted proxy.
pub(super) fn is_local(api: &Api, parts: &Parts) -> bool {
    let peer = parts.extensions.get::<Peer>();
    peer.is_some_and(|Peer(peer)| peer.to_canonical().is_loopback()) && !is_from_proxy(api, parts)
}

/// Returns the key in an `Authorization` header, or the reason why there is none.
fn secret(header: &HeaderValue) -> Result<&str, &'static str> {
    let parts = header.to_str().ok().and_then(|value| value.split_once(' '));
    let (_, secret) = parts
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .ok_or("The Authorization header must read `Bearer KEY`.")?;
    Ok(secret.trim())
}
