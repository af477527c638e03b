//! The cache of API keys, with what their tenants allow.
//!
//! A change of a key or a tenant takes effect in every process within a second ([`crate::db::changes`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use chrono::{DateTime, Utc};
use ipnet::IpNet;
use quick_cache::sync::Cache;

use super::failures::{AuthFailures, Lookup};
use super::key_lookup::KeyLookups;
use super::key_use::{KeyUses, LastUse};
use super::{Requester, request_key, secret};
use crate::cache::TtlCache;
use crate::cache::confirmations::{MAX_UNCONFIRMED, Moment};
use crate::clock::SharedClock;
use crate::db::Db;
use crate::db::changes::{Cached, Caches, Outdated};
use crate::db::keys::{FoundKey, KeyRow};
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::{KeyMode, KeyQuota, KeyRate, Secret};
use crate::domain::network::{contains, parse_network};
use crate::domain::tenant::TenantTerms;
use crate::http::auth::security_log::{Refusal, SecurityLog};
use crate::http::{ApiError, ProblemCode};

/// Maximum number of cached keys.
const MAX_CACHED_KEYS: usize = 20_000;
/// Interval at which the use of keys is recorded.
const WRITE_INTERVAL: Duration = Duration::from_millis(250);

const UNKNOWN: &str = "Invalid API key.";

/// A cached API key.
#[derive(Debug)]
pub(in crate::http) struct CachedKey {
    pub row: KeyRow,
    /// The tenant of the data that the key sends and reads: of a test key, the test tenant.
    pub data_tenant: TenantId,
    /// The networks that the key may be used from.
    pub allowed_ips: Option<Vec<IpNet>>,
    pub rate: Option<KeyRate>,
    /// The quota; `None` for a test key, whose messages do not count.
    pub quota: Option<KeyQuota>,
    /// What the key's tenant allows. Without a quota for a test key, too.
    pub tenant: TenantTerms,
    /// When the key was last used.
    last_use: LastUse,
}

impl From<FoundKey> for CachedKey {
    fn from(FoundKey { row, tenant }: FoundKey) -> Self {
        // A CHECK constraint does not allow an empty list, and an unreadable network admits nobody.
        let networks = |texts: &Vec<String>| texts.iter().filter_map(|text| parse_network(text).ok()).collect();
        let allowed_ips = row.allowed_ips.as_ref().map(networks);
        let live = TenantId(row.tenant_id);
        let (data_tenant, quota, tenant) = match row.mode() {
            KeyMode::Live => (live, row.quota(), tenant),
            KeyMode::Test => (live.test(), None, TenantTerms { quota: None, ..tenant }),
        };
        let (rate, last_use) = (row.rate(), LastUse::new(row.last_used_at));
        Self { row, data_tenant, allowed_ips, rate, quota, tenant, last_use }
    }
}

impl CachedKey {
    /// Returns the key with its tenant.
    pub fn requester(&self) -> Requester {
        Requester { tenant: TenantId(self.row.tenant_id), key: KeyId(self.row.id) }
    }

    /// Returns whether the key or its tenant has a limit.
    pub fn has_limits(&self) -> bool {
        let TenantTerms { rate, quota, .. } = &self.tenant;
        self.rate.is_some() || self.quota.is_some() || rate.is_some() || quota.is_some()
    }
}

/// A key that a client has sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub hash: [u8; 32],
    /// The text of the key; `None` if the key was accepted earlier in the request.
    pub text: Option<&'a str>,
    /// The client's address; `None` if it is unknown.
    pub client: Option<IpAddr>,
}

impl Attempt<'_> {
    /// Returns whether the key was accepted earlier in the request: the dashboard calls the API for a session.
    pub(super) fn is_known(&self) -> bool {
        self.text.is_none()
    }
}

/// A cache of API keys.
#[derive(Debug)]
pub struct KeyCache {
    db: Db,
    clock: SharedClock,
    /// The keys by the hash of their secret. Unknown keys are not cached.
    cache: TtlCache<[u8; 32], Arc<CachedKey>, Moment>,
    /// Hashes of keys that were accepted lately.
    accepted: Cache<[u8; 32], ()>,
    lookups: KeyLookups,
    failures: AuthFailures,
    uses: KeyUses,
    caches: Arc<Caches>,
    pub(super) log: Arc<SecurityLog>,
}

impl KeyCache {
    pub(in crate::http) fn new(
        db: Db,
        clock: SharedClock,
        caches: Arc<Caches>,
        auth_failures_per_minute: u32,
    ) -> Arc<Self> {
        let keys = Arc::new(Self {
            lookups: KeyLookups::start(&db),
            db,
            clock,
            cache: TtlCache::new(MAX_CACHED_KEYS, MAX_UNCONFIRMED),
            accepted: Cache::new(MAX_CACHED_KEYS),
            failures: AuthFailures::new(auth_failures_per_minute),
            uses: KeyUses::default(),
            caches,
            log: Arc::default(),
        });
        keys.caches.add(&keys);
        keys
    }

    /// Records the use of keys. Runs until it is cancelled.
    pub(in crate::http) async fn write_uses(self: Arc<Self>) {
        loop {
            tokio::time::sleep(WRITE_INTERVAL).await;
            self.uses.write(&self.db).await;
        }
    }

    async fn load(&self, attempt: Attempt<'_>) -> Result<Arc<CachedKey>, ApiError> {
        let is_accepted = self.accepted.get(&attempt.hash).is_some();
        let found = match attempt.text {
            Some(text) if !is_accepted => self.look_up(text, attempt).await?,
            _ => self.lookups.find(attempt.hash).await?.ok_or_else(|| self.unknown(attempt))?,
        };
        if found.row.revoked_at.is_none() && !is_accepted {
            self.accepted.insert(attempt.hash, ());
        }
        Ok(Arc::new(CachedKey::from(found)))
    }

    /// Looks up a key that was not accepted lately. It counts as a failure of the client's address until it is found.
    async fn look_up(&self, text: &str, attempt: Attempt<'_>) -> Result<FoundKey, ApiError> {
        // The checksum spares the lookup of most texts that are not keys.
        if !Secret::is_possible(text) {
            return Err(self.unknown(attempt));
        }
        let found = self.find_counted(attempt.client, self.lookups.find(attempt.hash)).await?;
        found.ok_or_else(|| {
            self.log.refused(Refusal::UnknownKey, None, UNKNOWN);
            ApiError::Unauthorized(UNKNOWN)
        })
    }

    /// Looks up what a secret belongs to. It counts as a failure of the client's address until it is found; the query does
    /// not run if the address has failed too often.
    pub(in crate::http) async fn find_counted<T, E: Into<ApiError>>(
        &self,
        client: Option<IpAddr>,
        query: impl Future<Output = Result<Option<T>, E>>,
    ) -> Result<Option<T>, ApiError> {
        let now = self.clock.now();
        let lookup = self.failures.begin_lookup(client, now).map_err(|until| self.limited(client, until, now))?;
        let found = query.await;
        if !matches!(found, Ok(None)) {
            self.failures.give_back(lookup, client, now);
        }
        match (found.map_err(Into::into)?, lookup) {
            (None, Lookup::Shared(until)) => Err(self.limited(client, until, now)),
            (found, _) => Ok(found),
        }
    }

    /// Returns the key. Fails, and writes to the security log, if it is unknown, revoked or expired.
    pub(super) async fn get_valid(&self, attempt: Attempt<'_>) -> Result<Arc<CachedKey>, ApiError> {
        let key = self.cache.get_or_load(&attempt.hash, self.caches.now(), || self.load(attempt)).await?;
        if key.row.revoked_at.is_some() {
            self.log.refused(Refusal::RevokedKey, Some(&key.row), "revoked");
            return Err(self.invalid(attempt, "This API key has been revoked."));
        }
        let now = self.clock.now();
        if key.row.expires_at.is_some_and(|at| at <= now) {
            self.log.refused(Refusal::ExpiredKey, Some(&key.row), "expired");
            return Err(self.invalid(attempt, "This API key has expired."));
        }
        self.uses.note(key.row.id, &key.last_use, now);
        Ok(key)
    }

    /// Fails, and writes to the security log, if the key may not be used from the client's address.
    pub(super) fn require_address(&self, key: &CachedKey, client: Option<IpAddr>) -> Result<(), ApiError> {
        let Some(networks) = &key.allowed_ips else { return Ok(()) };
        if client.is_some_and(|client| contains(networks, client)) {
            return Ok(());
        }
        let detail =
            format!("This key may not be used from {}; its `allowed_ips` lists the networks.", describe(client));
        self.log.refused(Refusal::Forbidden, Some(&key.row), &detail);
        Err(ApiError::Forbidden(detail))
    }

    /// Fails if the key of a request is no longer valid, or may no longer be used from the client's address, or if its
    /// tenant has been suspended. Otherwise the rest of the request uses the key's current state. Called once the body has
    /// arrived, which may take minutes.
    pub(in crate::http) async fn recheck(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(header) = headers.get(AUTHORIZATION) else { return Ok(()) };
        let text = secret(header).map_err(ApiError::Unauthorized)?;
        let attempt = Attempt { hash: Secret::hash(text), text: None, client: None };
        let key = self.get_valid(attempt).await?;
        let request = request_key::current();
        self.require_address(&key, request.as_ref().and_then(|request| request.client))?;
        if let Some(request) = request {
            request.access.check(&key)?;
            request.set_rechecked(key);
        }
        Ok(())
    }

    /// Returns the error of an unknown key.
    fn unknown(&self, attempt: Attempt<'_>) -> ApiError {
        self.log.refused(Refusal::UnknownKey, None, UNKNOWN);
        self.invalid(attempt, UNKNOWN)
    }

    /// Returns the error of a key that is not valid, and counts the failure.
    fn invalid(&self, attempt: Attempt<'_>, detail: &'static str) -> ApiError {
        self.accepted.remove(&attempt.hash);
        let (client, now) = (attempt.client, self.clock.now());
        // A key that was valid when the request began is no guess.
        let counted = if attempt.text.is_some() { self.failures.count(client, now) } else { Ok(()) };
        match counted {
            Ok(()) => ApiError::Unauthorized(detail),
            Err(until) => self.limited(client, until, now),
        }
    }

    /// Returns the error of an address that has sent too many invalid keys, and may send another at `until`.
    fn limited(&self, client: Option<IpAddr>, until: DateTime<Utc>, now: DateTime<Utc>) -> ApiError {
        let detail = format!("Too many requests with invalid API keys came from {}.", describe(client));
        self.log.refused(Refusal::LimitedClient, None, &detail);
        ApiError::LimitExceeded {
            code: ProblemCode::TooManyAuthFailures,
            detail,
            retry_after: (until - now).to_std().unwrap_or_default(),
        }
    }
}

impl Cached for KeyCache {
    fn forget(&self, outdated: Outdated) {
        match outdated {
            Outdated::Keys | Outdated::Everything => self.cache.clear(),
            Outdated::Settings(..) => {}
        }
    }
}

/// Returns the client's address for an error message.
fn describe(client: Option<IpAddr>) -> String {
    client.map_or_else(|| "an unknown address".to_owned(), |client| client.to_string())
}
