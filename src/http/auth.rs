//! Authentication by `Authorization: Bearer KEY`, and authorisation by the key's scopes and sender domains.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use chrono::TimeDelta;

use super::response::ResponseOwner;
use super::security_log::{Refusal, SecurityLog};
use super::{Api, ApiError};
use crate::cache::TtlCache;
use crate::clock::SharedClock;
use crate::db::Db;
use crate::db::keys::{self, KeyRow};
use crate::domain::fault::Fault;
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::{Scope, Secret};

/// Cache TTL. A key revoked on another replica stays valid in this process for up to this long.
const CACHE_TTL: Duration = Duration::from_secs(5);
/// Maximum number of cached keys.
const MAX_CACHED_KEYS: usize = 10_000;
/// Minimum interval between updates of `last_used_at`.
const MIN_TOUCH_INTERVAL: TimeDelta = TimeDelta::minutes(1);

/// A cache of API keys.
#[derive(Debug)]
pub struct KeyCache {
    db: Db,
    clock: SharedClock,
    /// The keys by the hash of their secret. Unknown keys are not cached.
    cache: TtlCache<[u8; 32], Arc<KeyRow>>,
    log: Arc<SecurityLog>,
}

impl KeyCache {
    pub(super) fn new(db: Db, clock: SharedClock) -> Self {
        Self { db, clock, cache: TtlCache::new(MAX_CACHED_KEYS, CACHE_TTL), log: Arc::default() }
    }

    /// Clears the cache, so that a change takes effect at once, even for lookups in progress.
    pub(super) fn clear(&self) {
        self.cache.clear();
    }

    async fn load(&self, hash: [u8; 32]) -> Result<Arc<KeyRow>, ApiError> {
        const UNKNOWN: &str = "Invalid API key.";
        let Some(key) = keys::find(&self.db, hash).await?.map(Arc::new) else {
            self.log.refused(Refusal::UnknownKey, None, UNKNOWN);
            return Err(ApiError::Unauthorized(UNKNOWN));
        };
        self.touch(&key);
        Ok(key)
    }

    /// Returns the key, at most [`CACHE_TTL`] old. Fails, and writes to the security log, if it is unknown, revoked or
    /// expired.
    async fn get_valid(&self, hash: [u8; 32]) -> Result<Arc<KeyRow>, ApiError> {
        let key = self.cache.get_or_load(&hash, Instant::now(), || self.load(hash)).await?;
        if key.revoked_at.is_some() {
            self.log.refused(Refusal::RevokedKey, Some(&key), "revoked");
            return Err(ApiError::Unauthorized("This API key has been revoked."));
        }
        if key.expires_at.is_some_and(|at| at <= self.clock.now()) {
            self.log.refused(Refusal::ExpiredKey, Some(&key), "expired");
            return Err(ApiError::Unauthorized("This API key has expired."));
        }
        Ok(key)
    }

    /// Fails if the key of a request is no longer valid. Called once the body has arrived, which may take minutes.
    pub(super) async fn recheck(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(header) = headers.get(AUTHORIZATION) else { return Ok(()) };
        let secret = secret(header).map_err(ApiError::Unauthorized)?;
        self.get_valid(Secret::hash(secret)).await.map(drop)
    }

    /// Records the use of a key in the background.
    fn touch(&self, key: &KeyRow) {
        let now = self.clock.now();
        if key.last_used_at.is_none_or(|at| now - at >= MIN_TOUCH_INTERVAL) {
            let (db, id) = (self.db.clone(), KeyId(key.id));
            tokio::spawn(async move {
                if let Err(error) = keys::touch(&db, id, now).await {
                    tracing::debug!(%error, "failed to record the use of an API key");
                }
            });
        }
    }
}

/// A caller with a valid key.
///
/// A key with `sender_domains` may only send and read messages from those domains. For such a key, other messages do
/// not exist, and data that all sender domains of a tenant share is forbidden.
#[derive(Debug, Clone)]
pub struct Caller {
    key: Arc<KeyRow>,
    hash: [u8; 32],
    log: Arc<SecurityLog>,
}

impl Caller {
    /// Returns the same caller with the key's current state; fails if the key is no longer valid. For long-running
    /// responses.
    pub async fn refresh(&self, api: &Api) -> Result<Self, ApiError> {
        Ok(Self { key: api.keys.get_valid(self.hash).await?, hash: self.hash, log: self.log.clone() })
    }

    /// Returns the caller's tenant.
    pub fn tenant(&self) -> TenantId {
        TenantId(self.key.tenant_id)
    }

    /// Returns the id of the caller's API key.
    pub fn key_id(&self) -> KeyId {
        KeyId(self.key.id)
    }

    /// Returns whether the key has this scope. `admin` includes every scope, except with `sender_domains`: keys that an
    /// earlier version created with both may send and read within their domains.
    pub fn has_scope(&self, scope: Scope) -> bool {
        let has = |scope: Scope| self.key.scopes.iter().any(|name| name == scope.as_str());
        match self.sender_domains() {
            Some(_) => scope != Scope::Admin && (has(scope) || has(Scope::Admin)),
            None => has(scope) || has(Scope::Admin),
        }
    }

    /// Fails if the key lacks this scope.
    pub fn require(&self, scope: Scope) -> Result<(), ApiError> {
        if self.has_scope(scope) {
            return Ok(());
        }
        let scope = scope.as_str();
        Err(self.forbidden(format!("This key lacks the scope `{scope}`.")))
    }

    /// Returns the sender domains that the key is limited to; `None` means that it is not limited.
    pub fn sender_domains(&self) -> Option<&[String]> {
        self.key.sender_domains.as_deref()
    }

    /// Fails if the key is limited to sender domains: for data that all of them share, such as the suppression list.
    /// `reason` is the first sentence of the error.
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
        self.log.refused(Refusal::Forbidden, Some(&self.key), &detail);
        ApiError::Forbidden(detail)
    }

    /// Logs forbidden fields and returns the error.
    pub fn forbidden_fields(&self, faults: Vec<Fault>) -> ApiError {
        let reason = faults.first().map_or("", |fault| fault.message.as_str());
        self.log.refused(Refusal::Forbidden, Some(&self.key), reason);
        ApiError::ForbiddenFields(faults)
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let header = parts
            .headers
            .get(AUTHORIZATION)
            .ok_or(ApiError::Unauthorized("Send an API key as `Authorization: Bearer KEY`."))?;
        let log = &api.keys.log;
        let unknown = |reason: &'static str| {
            log.refused(Refusal::UnknownKey, None, reason);
            ApiError::Unauthorized(reason)
        };
        let hash = Secret::hash(secret(header).map_err(unknown)?);
        let key = api.keys.get_valid(hash).await?;
        if let Some(owner) = parts.extensions.get::<ResponseOwner>() {
            owner.set(KeyId(key.id));
        }
        Ok(Self { key, hash, log: log.clone() })
    }
}

/// Returns the key in an `Authorization` header, or the reason why there is none.
fn secret(header: &HeaderValue) -> Result<&str, &'static str> {
    let parts = header.to_str().ok().and_then(|value| value.split_once(' '));
    let (_, secret) = parts
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .ok_or("The Authorization header must read `Bearer KEY`.")?;
    Ok(secret.trim())
}
