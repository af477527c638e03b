//! How the domain of a mail's sender stands, and what signs for it; asked for at most every few seconds a domain. No answer
//! is older than a minute.
//!
//! API and workers ask the same: what would sign, and what does. A subdomain's mail is signed by the nearest domain
//! above it that is registered, which DMARC's relaxed rule counts as aligned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::SenderRow;
use crate::clock::SharedClock;
use crate::db::domains;
use crate::db::{Db, DbError};
use crate::domain::dkim::{Algorithm, KeyError, Signer, SigningKey};
use crate::domain::dns_records::{DmarcPolicy, DomainStatus, Strict, lineage};
use crate::domain::id::TenantId;
use crate::domain::keyring::Keyring;

/// How old an answer may be where nobody has to ask anew. The record of a key that signs no more stays for a week.
const CACHE_TTL: TimeDelta = TimeDelta::seconds(15);
/// How old it may be while one task asks anew, or the database is away. What is older says nothing of now: mail would go
/// unsigned from a domain that was registered since.
const STALE: TimeDelta = TimeDelta::seconds(60);
/// Domains remembered; beyond that the memory starts anew.
const REMEMBERED: usize = 10_000;

/// How a sender's domain stands.
#[derive(Debug, Clone)]
pub enum SenderStatus {
    /// The tenant has registered no domain at all: nothing is known of any.
    Unasked,
    /// Others are registered, this one is not.
    Stranger,
    /// It, or one above it, is registered.
    Known(Arc<Sender>),
}

impl SenderStatus {
    /// What signs the domain's mail; none also where a key cannot be opened.
    pub fn signer(&self) -> Option<Arc<Signer>> {
        match self {
            Self::Known(sender) => sender.signer.clone().ok().flatten(),
            Self::Unasked | Self::Stranger => None,
        }
    }
}

/// A registered domain as far as mail goes.
#[derive(Debug)]
pub struct Sender {
    /// Its name.
    pub domain: String,
    /// What its checks showed.
    pub status: DomainStatus,
    /// The DMARC policy that was last found to apply.
    pub dmarc: Option<DmarcPolicy>,
    /// Which alignment that policy wants exact.
    pub strict: Strict,
    /// What signs its mail: nothing, where the configuration says so, or a key that cannot be opened.
    pub signer: Result<Option<Arc<Signer>>, KeyError>,
}

/// An answer.
#[derive(Debug)]
struct CacheEntry {
    standing: SenderStatus,
    /// When the question was put that it answers.
    at: DateTime<Utc>,
    /// When somebody asked again.
    asked_at: DateTime<Utc>,
}

impl CacheEntry {
    fn is_younger(&self, age: TimeDelta, now: DateTime<Utc>) -> bool {
        (now - self.at).abs() < age
    }

    /// Whether it may be given without a question; that it is asked again is somebody else's matter.
    fn serves(&self, now: DateTime<Utc>) -> bool {
        self.is_younger(CACHE_TTL, now) || (self.is_younger(STALE, now) && (now - self.asked_at).abs() < CACHE_TTL)
    }
}

type Known = HashMap<(Uuid, String), CacheEntry>;

/// What is known of senders' domains.
#[derive(Debug)]
pub struct SenderCache {
    db: Db,
    clock: SharedClock,
    ring: Option<Keyring>,
    algorithms: Vec<Algorithm>,
    known: Mutex<Known>,
}

impl SenderCache {
    /// Asks nothing yet. Keys of other algorithms do not sign.
    pub fn new(db: Db, clock: SharedClock, ring: Option<Keyring>, algorithms: Vec<Algorithm>) -> Self {
        Self { db, clock, ring, algorithms, known: Mutex::default() }
    }

    /// Forgets what is known, so that a change shows at once.
    pub fn forget(&self) {
        self.lock().clear();
    }

    /// How a domain (as in [`Address::domain`](crate::domain::address::Address::domain)) stands. While the database is
    /// away the last answer holds for a minute.
    pub async fn of(&self, tenant: TenantId, domain: &str) -> Result<SenderStatus, DbError> {
        let (now, key) = (self.clock.now(), (tenant.0, domain.to_owned()));
        let last = {
            let mut known = self.lock();
            match known.get_mut(&key) {
                Some(answer) if answer.serves(now) => return Ok(answer.standing.clone()),
                // Before the answer is here, so that one task asks while the last one serves.
                Some(answer) => {
                    answer.asked_at = now;
                    answer.is_younger(STALE, now).then(|| answer.standing.clone())
                }
                None => None,
            }
        };
        match (self.ask(tenant, domain).await, last) {
            (Ok(standing), _) => {
                let mut known = self.lock();
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                // Who asked later may have been answered sooner.
                if known.get(&key).is_none_or(|answer| answer.at <= now) {
                    known.insert(key, CacheEntry { standing: standing.clone(), at: now, asked_at: now });
                }
                Ok(standing)
            }
            (Err(error), Some(last)) => {
                tracing::debug!(%error, domain, "could not ask for a sender's domain; the last answer holds");
                Ok(last)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn ask(&self, tenant: TenantId, domain: &str) -> Result<SenderStatus, DbError> {
        let rows = domains::senders(&self.db, tenant, &lineage(domain)).await?;
        // They are all on one line, so the longest is the nearest.
        let Some(nearest) = rows.iter().map(|row| row.name.clone()).max_by_key(String::len) else {
            let any = domains::any(&self.db, tenant).await?;
            return Ok(if any { SenderStatus::Stranger } else { SenderStatus::Unasked });
        };
        let rows: Vec<SenderRow> = rows.into_iter().filter(|row| row.name == nearest).collect();
        let signer = self.signer(tenant, &nearest, &rows);
        if let Err(error) = &signer {
            tracing::warn!(
                event = "dkim_key_unusable",
                %error,
                domain = nearest,
                "cannot open a DKIM key; deferring the domain's messages"
            );
        }
        let first = rows.first();
        Ok(SenderStatus::Known(Arc::new(Sender {
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
                            |source| KeyError::Unopened { selector: selector.clone(), source: Box::new(source) },
                        )?;
                    keys.push(Arc::new(key));
                }
                _ => {}
            }
        }
        let signer = Signer { domain: domain.to_owned(), keys };
        Ok((!signer.keys.is_empty()).then(|| Arc::new(signer)))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_serves_while_it_is_young_and_for_a_minute_while_somebody_asks() {
        let at = |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
        let serves = |asked_at, now| {
            CacheEntry { standing: SenderStatus::Unasked, at: at(0), asked_at: at(asked_at) }.serves(at(now))
        };
        assert_eq!([serves(0, 14), serves(0, 15), serves(15, 29), serves(15, 30)], [true, false, true, false]);
        assert_eq!([serves(50, 59), serves(59, 60), serves(259_200, 259_200)], [true, false, false]);
    }
}
