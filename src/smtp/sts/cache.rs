//! Caches the policies of domains in bounded memory. The caller passes the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::policy::Policy;

/// Maximum cached domains.
const MAX_DOMAINS: usize = 10_000;
/// Time before a failed fetch is repeated (RFC 8461 §3.3 requires at least 5 minutes).
const RETRY_INTERVAL: Duration = Duration::from_mins(5);
/// Age at which an unchanged policy is fetched again. Otherwise an attacker who blocks its DNS record could let it
/// expire while it is still published (RFC 8461 §10.2).
const RENEWAL_AGE: Duration = Duration::from_hours(24);

/// Cached state of one domain.
#[derive(Debug, Default)]
pub(super) struct DomainState {
    policy: Option<CachedPolicy>,
    /// When the DNS was last queried.
    looked_up: Option<Instant>,
    /// The policy id whose fetch failed last, and when.
    failed: Option<(String, Instant)>,
}

/// A policy with its id and the time of its fetch.
#[derive(Debug)]
struct CachedPolicy {
    policy: Arc<Policy>,
    id: String,
    fetched: Instant,
}

impl DomainState {
    /// Returns the policy in force. A fetched policy is in force until the end of its `max_age`, whatever DNS and HTTPS
    /// return in the meantime; otherwise an attacker could disable it by blocking them (RFC 8461 §5.1).
    pub fn policy(&self, now: Instant) -> Option<Arc<Policy>> {
        let cached = self.policy.as_ref()?;
        (now.duration_since(cached.fetched) < cached.policy.max_age).then(|| cached.policy.clone())
    }

    /// Returns whether the DNS was queried within this period.
    pub fn was_looked_up_within(&self, now: Instant, period: Duration) -> bool {
        self.looked_up.is_some_and(|at| now.duration_since(at) < period)
    }

    /// Records that the DNS was queried.
    pub fn record_lookup(&mut self, now: Instant) {
        self.looked_up = Some(now);
    }

    /// Returns whether to fetch the policy with this id: the id is new, or the cached policy expires soon or is due for
    /// renewal; and the last fetch of this id has not just failed.
    pub fn should_fetch(&self, id: &str, now: Instant) -> bool {
        if self.failed.as_ref().is_some_and(|(failed, at)| failed == id && now.duration_since(*at) < RETRY_INTERVAL) {
            return false;
        }
        self.policy.as_ref().is_none_or(|cached| {
            let age = now.duration_since(cached.fetched);
            cached.id != id || age >= RENEWAL_AGE.min(cached.policy.max_age / 2)
        })
    }

    /// Records that the policy with this id was fetched.
    pub fn record_fetched(&mut self, id: &str, policy: Policy, now: Instant) {
        self.policy = Some(CachedPolicy { policy: Arc::new(policy), id: id.to_owned(), fetched: now });
        self.failed = None;
    }

    /// Records that the fetch failed.
    pub fn record_failure(&mut self, id: &str, now: Instant) {
        self.failed = Some((id.to_owned(), now));
    }
}

/// Cache entry of one domain.
#[derive(Debug, Default)]
pub(super) struct CacheEntry {
    state: Mutex<DomainState>,
    /// Locked while the domain's policy is looked up. Other messages wait for the result, or use the cached policy.
    pub lookup_lock: tokio::sync::Mutex<()>,
}

impl CacheEntry {
    /// Locks and returns the cached state.
    pub fn state(&self) -> MutexGuard<'_, DomainState> {
        self.state.lock()
    }
}

/// Cache of all domains.
#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<String, Arc<CacheEntry>>>);

impl Cache {
    /// Returns the domain's entry, and creates it if needed.
    pub fn entry(&self, domain: &str, now: Instant) -> Arc<CacheEntry> {
        let mut domains = self.0.lock();
        if let Some(entry) = domains.get(domain) {
            return entry.clone();
        }
        if domains.len() >= MAX_DOMAINS {
            evict(&mut domains, now);
        }
        domains.entry(domain.to_owned()).or_default().clone()
    }
}

/// Removes domains without a policy, and others only if that is not enough, since an attacker could block the next
/// fetch of a removed policy.
fn evict(domains: &mut HashMap<String, Arc<CacheEntry>>, now: Instant) {
    let is_in_lookup = |entry: &CacheEntry| entry.lookup_lock.try_lock().is_err();
    domains.retain(|_, entry| is_in_lookup(entry) || entry.state().policy(now).is_some());
    let mut surplus = domains.len().saturating_sub(MAX_DOMAINS * 9 / 10);
    domains.retain(|_, entry| {
        let is_removed = surplus > 0 && !is_in_lookup(entry);
        surplus -= usize::from(is_removed);
        !is_removed
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn policy(max_age: u64) -> Policy {
        Policy::parse(&format!("version: STSv1\nmode: enforce\nmx: a.test\nmax_age: {max_age}")).unwrap()
    }

    #[tokio::test]
    async fn a_policy_is_in_force_for_its_max_age() {
        let (mut state, start) = (DomainState::default(), Instant::now());
        assert!(state.policy(start).is_none() && state.should_fetch("1", start));
        state.record_fetched("1", policy(600), start);
        assert!(state.policy(start + 9 * MINUTE).is_some());
        assert!(state.policy(start + 10 * MINUTE).is_none());
    }

    #[tokio::test]
    async fn a_changed_or_expiring_policy_is_fetched_again() {
        let (mut state, start) = (DomainState::default(), Instant::now());
        state.record_fetched("1", policy(86_400 * 30), start);
        assert!(!state.should_fetch("1", start + Duration::from_hours(23)));
        assert!(state.should_fetch("2", start));
        assert!(state.should_fetch("1", start + Duration::from_hours(24)));
        state.record_fetched("1", policy(600), start);
        assert!(state.should_fetch("1", start + 5 * MINUTE));
    }

    #[tokio::test]
    async fn a_failure_keeps_the_old_policy_and_is_not_repeated_at_once() {
        let (mut state, start) = (DomainState::default(), Instant::now());
        state.record_fetched("1", policy(3_600), start);
        state.record_failure("2", start + MINUTE);
        assert!(state.policy(start + MINUTE).is_some());
        assert!(!state.should_fetch("2", start + 5 * MINUTE) && state.should_fetch("3", start + 5 * MINUTE));
        assert!(state.should_fetch("2", start + 6 * MINUTE));
    }

    #[tokio::test]
    async fn the_dns_is_queried_once_per_period() {
        let (mut state, start) = (DomainState::default(), Instant::now());
        assert!(!state.was_looked_up_within(start, MINUTE));
        state.record_lookup(start);
        assert!(
            state.was_looked_up_within(start + MINUTE / 2, MINUTE)
                && !state.was_looked_up_within(start + MINUTE, MINUTE)
        );
    }

    #[tokio::test]
    async fn the_cache_is_bounded_and_evicts_policies_last() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.entry("kept.test", now).state().record_fetched("1", policy(3_600), now);
        for index in 0..=MAX_DOMAINS {
            let _ = cache.entry(&format!("{index}.test"), now);
        }
        assert!(cache.0.lock().len() <= MAX_DOMAINS);
        assert!(cache.entry("kept.test", now).state().policy(now).is_some());
        for index in 0..=MAX_DOMAINS {
            cache.entry(&format!("p{index}.test"), now).state().record_fetched("1", policy(3_600), now);
        }
        assert!(cache.0.lock().len() <= MAX_DOMAINS);
    }
}
