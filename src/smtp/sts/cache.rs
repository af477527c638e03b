//! What is known of domains' policies, in memory and bounded: pure, the time comes from the caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::policy::Policy;

/// The most domains that are remembered.
const DOMAINS: usize = 10_000;
/// After a fetch that failed nobody tries again for so long (RFC 8461 §3.3 asks for 5 minutes or more).
const AFTER_FAILURE: Duration = Duration::from_mins(5);
/// A policy that is not renewed is fetched again after so long, so that it does not run out while it is still published
/// and somebody keeps us from its DNS record (RFC 8461 §10.2).
const RENEWAL: Duration = Duration::from_hours(24);

/// What is known of one domain.
#[derive(Debug, Default)]
pub(super) struct Known {
    policy: Option<Kept>,
    /// When the DNS was asked last.
    asked: Option<Instant>,
    /// The edition whose fetch failed last, and when.
    failed: Option<(String, Instant)>,
}

/// A policy and what it was fetched as.
#[derive(Debug)]
struct Kept {
    policy: Arc<Policy>,
    id: String,
    fetched: Instant,
}

impl Known {
    /// The policy that holds now. What was fetched once holds to the end of its `max_age`, whatever DNS and HTTPS say
    /// meanwhile: else an attacker had only to block them (RFC 8461 §5.1).
    pub fn policy(&self, now: Instant) -> Option<Arc<Policy>> {
        let kept = self.policy.as_ref()?;
        (now.duration_since(kept.fetched) < kept.policy.max_age).then(|| kept.policy.clone())
    }

    /// Whether the DNS was asked within this time.
    pub fn is_fresh(&self, now: Instant, period: Duration) -> bool {
        self.asked.is_some_and(|asked| now.duration_since(asked) < period)
    }

    /// The DNS has been asked.
    pub fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// Whether the edition `id` is to be fetched: it is new to us, ours runs out, or it is time to renew it; and its
    /// fetch has not failed just now.
    pub fn wants(&self, id: &str, now: Instant) -> bool {
        if self.failed.as_ref().is_some_and(|(failed, at)| failed == id && now.duration_since(*at) < AFTER_FAILURE) {
            return false;
        }
        self.policy.as_ref().is_none_or(|kept| {
            let age = now.duration_since(kept.fetched);
            kept.id != id || age >= RENEWAL.min(kept.policy.max_age / 2)
        })
    }

    /// The edition `id` has been fetched.
    pub fn fetched(&mut self, id: &str, policy: Policy, now: Instant) {
        self.policy = Some(Kept { policy: Arc::new(policy), id: id.to_owned(), fetched: now });
        self.failed = None;
    }

    /// It could not be had.
    pub fn failed(&mut self, id: &str, now: Instant) {
        self.failed = Some((id.to_owned(), now));
    }
}

/// One domain.
#[derive(Debug, Default)]
pub(super) struct Place {
    known: Mutex<Known>,
    /// Locked by whoever asks for it; the others wait for his answer, or go by what is known.
    pub asking: tokio::sync::Mutex<()>,
}

impl Place {
    /// What is known of it.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All domains.
#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<String, Arc<Place>>>);

impl Cache {
    /// The domain's place, made where there is none.
    pub fn of(&self, domain: &str, now: Instant) -> Arc<Place> {
        let mut domains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = domains.get(domain) {
            return place.clone();
        }
        if domains.len() >= DOMAINS {
            make_room(&mut domains, now);
        }
        domains.entry(domain.to_owned()).or_default().clone()
    }
}

/// Forgets domains that have no policy, and only where those are too few others: a policy that is forgotten could be
/// kept from us the next time.
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
    async fn it_is_fetched_again_when_its_id_changes_and_before_it_ends() {
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
    async fn the_dns_is_asked_once_in_a_while() {
        let (mut known, start) = (Known::default(), Instant::now());
        assert!(!known.is_fresh(start, MINUTE));
        known.asked(start);
        assert!(known.is_fresh(start + MINUTE / 2, MINUTE) && !known.is_fresh(start + MINUTE, MINUTE));
    }

    #[tokio::test]
    async fn the_cache_is_bounded_and_forgets_policies_last() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.of("kept.test", now).known().fetched("1", policy(3_600), now);
        for index in 0..=DOMAINS {
            let _ = cache.of(&format!("{index}.test"), now);
        }
        assert!(cache.0.lock().unwrap().len() <= DOMAINS);
        assert!(cache.of("kept.test", now).known().policy(now).is_some());
        for index in 0..=DOMAINS {
            cache.of(&format!("p{index}.test"), now).known().fetched("1", policy(3_600), now);
        }
        assert!(cache.0.lock().unwrap().len() <= DOMAINS);
    }
}
