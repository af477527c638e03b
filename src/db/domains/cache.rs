//! Cache of sender domains with their status and signing keys, each until it changes ([`crate::db::changes`]).
//!
//! The API and the workers use the same lookup. Messages from a subdomain are signed with the keys of the nearest
//! registered parent domain, which is aligned under DMARC's relaxed rule.

use std::sync::Arc;
use std::time::Duration;

use super::SenderRow;
use crate::cache::TtlCache;
use crate::cache::confirmations::{MAX_UNCONFIRMED, Moment};
use crate::cache::generations::Generations;
use crate::db::changes::{Cached, Caches, Outdated, TenantSettings};
use crate::db::{Db, DbError, domains};
use crate::domain::id::TenantId;
use crate::domain::installation::keyring::Keyring;
use crate::domain::sender_domain::dkim::{Algorithm, KeyError, Signer, SigningKey};
use crate::domain::sender_domain::dns_records::{DmarcPolicy, DomainStatus, Strict, with_parents};

/// Maximum time for which a domain is used without a confirmation while the database is unavailable, so that messages in memory are
/// sent nevertheless. The DNS record of a retired key stays published for a week, so a stale key still verifies.
const MAX_STALE: Duration = Duration::from_mins(1);
/// Maximum number of cached domains.
const MAX_CACHED_DOMAINS: usize = 10_000;

/// The status of a sender's domain.
#[derive(Debug, Clone)]
pub enum SenderStatus {
    /// The tenant has not registered any domain.
    NoDomains,
    /// The tenant has registered other domains, not this one.
    Unregistered,
    /// The domain, or a parent domain, is registered.
    Registered(Arc<Sender>),
}

impl SenderStatus {
    /// Returns the signer of the domain's messages; `None` if there is none, or if a key cannot be decrypted.
    pub fn signer(&self) -> Option<Arc<Signer>> {
        match self {
            Self::Registered(sender) => sender.signer.clone().ok().flatten(),
            Self::NoDomains | Self::Unregistered => None,
        }
    }
}

/// A registered domain, as needed for sending.
#[derive(Debug)]
pub struct Sender {
    /// Domain name.
    pub domain: String,
    /// Result of the DNS checks.
    pub status: DomainStatus,
    /// The DMARC policy found by the last check.
    pub dmarc: Option<DmarcPolicy>,
    /// Which alignments that policy requires to be strict.
    pub strict: Strict,
    /// The signer of its messages; `None` if no active key has a configured algorithm, an error if a key cannot be
    /// decrypted.
    pub signer: Result<Option<Arc<Signer>>, KeyError>,
}

/// Cache of sender domains.
#[derive(Debug)]
pub struct SenderCache {
    db: Db,
    caches: Arc<Caches>,
    ring: Option<Keyring>,
    algorithms: Vec<Algorithm>,
    cache: TtlCache<Key, SenderStatus, Moment>,
    /// The generation of each tenant's domains.
    generations: Generations,
}

/// A tenant, the generation of its domains, and a domain.
type Key = (TenantId, u64, String);

impl SenderCache {
    /// Creates an empty cache. Only keys of these algorithms are used for signing.
    pub fn new(db: Db, caches: Arc<Caches>, ring: Option<Keyring>, algorithms: Vec<Algorithm>) -> Arc<Self> {
        let cache = TtlCache::with_fallback(MAX_CACHED_DOMAINS, MAX_UNCONFIRMED, MAX_STALE);
        let senders = Arc::new(Self { db, caches, ring, algorithms, cache, generations: Generations::default() });
        senders.caches.add(&senders);
        senders
    }

    /// Returns the status of a domain (as in [`Address::domain`](crate::domain::address::Address::domain)). Test
    /// messages use the domains of the live tenant. While the database is unavailable, the last entry is used for up to
    /// a minute.
    pub async fn get(&self, tenant: TenantId, domain: &str) -> Result<SenderStatus, DbError> {
        let tenant = tenant.live();
        // The moment before the generation: values are confirmed after another generation has begun for those that have changed.
        let now = self.caches.now();
        let key = (tenant, self.generations.get(tenant), domain.to_owned());
        let load = async || {
            let loaded = self.fetch(tenant, domain).await;
            if let Err(error) = &loaded {
                tracing::debug!(%error, domain, "failed to look up sender domain; using cached status, if there is one");
            }
            loaded
        };
        self.cache.get_or_load(&key, now, load).await
    }

    async fn fetch(&self, tenant: TenantId, domain: &str) -> Result<SenderStatus, DbError> {
        let rows = domains::senders(&self.db, tenant, &with_parents(domain)).await?;
        // All names are the domain or its parents, so the longest is the nearest.
        let Some(nearest) = rows.iter().map(|row| row.name.clone()).max_by_key(String::len) else {
            let any = domains::any(&self.db, tenant).await?;
            return Ok(if any { SenderStatus::Unregistered } else { SenderStatus::NoDomains });
        };
        let rows: Vec<SenderRow> = rows.into_iter().filter(|row| row.name == nearest).collect();
        let signer = self.signer(tenant, &nearest, &rows);
        if let Err(error) = &signer {
            tracing::warn!(
                event = "dkim_key_unusable",
                %error,
                domain = nearest,
                "cannot decrypt a DKIM key; deferring the domain's messages"
            );
        }
        let first = rows.first();
        Ok(SenderStatus::Registered(Arc::new(Sender {
            status: DomainStatus::from_checks(
                first.and_then(|row| row.checked_at),
                first.and_then(|row| row.verified_at),
            ),
            dmarc: first.and_then(|row| row.dmarc.as_deref()?.parse().ok()),
            strict: first
                .map_or_else(Strict::default, |row| Strict { dkim: row.dmarc_strict_dkim, spf: row.dmarc_strict_spf }),
            signer,
            domain: nearest,
        })))
    }

    fn signer(&self, tenant: TenantId, domain: &str, rows: &[SenderRow]) -> Result<Option<Arc<Signer>>, KeyError> {
        let mut keys = Vec::new();
        for row in rows {
            let (Some(selector), Some(algorithm), Some(sealed)) = (&row.selector, &row.algorithm, &row.sealed) else {
                continue;
            };
            match algorithm.parse::<Algorithm>() {
                Ok(algorithm) if self.algorithms.contains(&algorithm) => {
                    let key =
                        SigningKey::open(self.ring.as_ref(), tenant, domain, selector, algorithm, sealed).map_err(
                            |source| KeyError::Undecryptable { selector: selector.clone(), source: Box::new(source) },
                        )?;
                    keys.push(Arc::new(key));
                }
                _ => {}
            }
        }
        let signer = Signer { domain: domain.to_owned(), keys };
        Ok((!signer.keys.is_empty()).then(|| Arc::new(signer)))
    }
}

impl Cached for SenderCache {
    fn forget(&self, outdated: Outdated) {
        match outdated {
            Outdated::Settings(tenant, TenantSettings::Domains) => self.generations.advance(tenant.live()),
            Outdated::Everything => self.cache.clear(),
            Outdated::Keys | Outdated::Settings(..) => {}
        }
    }
}
