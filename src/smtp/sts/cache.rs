//! Cached policies of domains, in bounded memory; the caller passes the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::policy::Policy;

/// Maximum domains remembered.
const DOMAINS: usize = 10_000;
/// Time before a failed fetch is repeated (RFC 8461 §3.3 requires at least 5 minutes).
const AFTER_FAILURE: Duration = Duration::from_mins(5);
/// Time after which an unchanged policy is fetched again, so that it does not expire while it is still published and an
/// attacker blocks its DNS record (RFC 8461 §10.2).
const RENEWAL: Duration = Duration::from_hours(24);

/// Cached state of one domain.
#[derive(Debug, Default)]
pub(super) struct Known {
    policy: Option<Kept>,
    /// When the DNS was last queried.
    asked: Option<Instant>,
    /// The policy id whose fetch failed last, and when.
    failed: Option<(String, Instant)>,
}

/// A policy with its id and the time of its fetch.
#[derive(Debug)]
struct Kept {
    policy: Arc<Policy>,
    id: String,
    fetched: Instant,
}

impl Known {
    /// Returns the policy in force. A fetched policy is in force until the end of its `max_age`, whatever DNS and HTTPS
    /// return in the meantime; otherwise an attacker would only have to block them (RFC 8461 §5.1).
    pub fn policy(&self, now: Instant) -> Option<Arc<Policy>> {
        let kept = self.policy.as_ref()?;
        (now.duration_since(kept.fetched) < kept.policy.max_age).then(|| kept.policy.clone())
    }

    /// Returns whether the DNS was queried within this period.
    pub fn is_fresh(&self, now: Instant, period: Duration) -> bool {
        self.asked.is_some_and(|asked| now.duration_since(asked) < period)
    }

    /// Records that the DNS was queried.
    pub fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// Returns whether the policy with this id is to be fetched: the id is new, the cached policy expires soon, or is
    /// due for renewal; and its last fetch has not just failed.
    pub fn wants(&self, id: &str, now: Instant) -> bool {
        if self.failed.as_ref().is_some_and(|(failed, at)| failed == id && now.duration_since(*at) < AFTER_FAILURE) {
            return false;
        }
        self.policy.as_ref().is_none_or(|kept| {
            let age = now.duration_since(kept.fetched);
            kept.id != id || age >= RENEWAL.min(kept.policy.max_age / 2)
        })
    }

    /// Records that the policy with this id was fetched.
    pub fn fetched(&mut self, id: &str, policy: Policy, now: Instant) {
        self.policy = Some(Kept { policy: Arc::new(policy), id: id.to_owned(), fetched: now });
        self.failed = None;
    }

    /// Records that the fetch failed.
    pub fn failed(&mut self, id: &str, now: Instant) {
        self.failed = Some((id.to_owned(), now));
    }
}

/// Cache entry of one domain.
#[derive(Debug, Default)]
pub(super) struct Place {
    known: Mutex<Known>,
    /// Locked while the domain's policy is looked up; others wait for the result, or use the cached policy.
    pub asking: tokio::sync::Mutex<()>,
}

impl Place {
    /// Locks and returns the cached state.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }
}

/// Cache of all domains.
#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<String, Arc<Place>>>);

impl Cache {
    /// Returns the domain's entry, and creates it if needed.
    pub fn entry(&self, domain: &str, now: Instant) -> Arc<Place> {
        let mut domains = self.0.lock();
        if let Some(place) = domains.get(domain) {
            return place.clone();
        }
        if domains.len() >= DOMAINS {
            make_room(&mut domains, now);
        }
        domains.entry(domain.to_owned()).or_default().clone()
    }
}

/// Removes domains without a policy, and others only if that is not enough: an attacker could block the next fetch of a
/// policy that was removed.
fn make_room(domains: &mut HashMap<String, Arc<Place>>, now: Instant) {
    let is_asked_for = |place: &Place| place.asking.try_lock().is_err();
    domains.retain(|_, place| is_asked_for(place) || place.known().policy(now).is_some());
    let mut surplus = domains.len().saturating_sub(DOMAINS * 9 / 10);
    domains.retain(|_, place| {
        let goes = surplus > 0 && !is_asked_for(place);
        surplus -= usize::from(goes);
        !goes
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
    async fn a_policy_holds_for_its_time() {
        let (mut known, start) = (Known::default(), Instant::now());
        assert!(known.policy(start).is_none() && known.wants("1", start));
        known.fetched("1", policy(600), start);
        assert!(known.policy(start + 9 * MINUTE).is_some());
        assert!(known.policy(start + 10 * MINUTE).is_none());
    }

    #[tokio::test]
    async fn a_changed_or_expiring_policy_is_fetched_again() {
        let (mut known, start) = (Known::default(), Instant::now());
        known.fetched("1", policy(86_400 * 30), start);
        assert!(!known.wants("1", start + Duration::from_hours(23)));
        assert!(known.wants("2", start));
        assert!(known.wants("1", start + Duration::from_hours(24)));
        known.fetched("1", policy(600), start);
        assert!(known.wants("1", start + 5 * MINUTE));
    }

    #[tokio::test]
    async fn a_failure_keeps_the_old_policy_and_is_not_repeated_at_once() {
        let (mut known, start) = (Known::default(), Instant::now());
        known.fetched("1", policy(3_600), start);
        known.failed("2", start + MINUTE);
        assert!(known.policy(start + MINUTE).is_some());
        assert!(!known.wants("2", start + 5 * MINUTE) && known.wants("3", start + 5 * MINUTE));
        assert!(known.wants("2", start + 6 * MINUTE));
    }

    #[tokio::test]
    async fn the_dns_is_queried_once_per_period() {
        let (mut known, start) = (Known::default(), Instant::now());
        assert!(!known.is_fresh(start, MINUTE));
        known.asked(start);
        assert!(known.is_fresh(start + MINUTE / 2, MINUTE) && !known.is_fresh(start + MINUTE, MINUTE));
    }

    #[tokio::test]
    async fn the_cache_is_bounded_and_forgets_policies_last() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.entry("kept.test", now).known().fetched("1", policy(3_600), now);
        for index in 0..=DOMAINS {
            let _ = cache.entry(&format!("{index}.test"), now);
        }
        assert!(cache.0.lock().len() <= DOMAINS);
        assert!(cache.entry("kept.test", now).known().policy(now).is_some());
        for index in 0..=DOMAINS {
            cache.entry(&format!("p{index}.test"), now).known().fetched("1", policy(3_600), now);
        }
        assert!(cache.0.lock().len() <= DOMAINS);
    }
}
