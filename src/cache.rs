//! A bounded cache whose entries expire.
//!
//! - Concurrent loads of one key: one caller loads, the others wait for its value. If the load fails, each waiting
//!   caller loads the value itself, so that no caller waits for more than one load of another caller.
//! - A failed load is not stored.
//! - Clearing the cache, or removing a value, takes precedence over a load in progress: a value read before is not stored
//!   afterwards.
//! - Optionally, an expired value is used for some time longer while loads fail.

pub mod confirmations;
pub mod generations;

use std::hash::Hash;
use std::pin::pin;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use quick_cache::Equivalent;
use quick_cache::sync::{Cache, EntryAction, EntryResult};

/// A point in time, which the caller passes in.
pub trait Timestamp: Copy {
    /// Returns the time from this point to `now`.
    fn age(self, now: Self) -> Duration;
}

impl Timestamp for Instant {
    fn age(self, now: Self) -> Duration {
        now.saturating_duration_since(self)
    }
}

impl Timestamp for DateTime<Utc> {
    /// A clock that was set back ages entries as well.
    fn age(self, now: Self) -> Duration {
        (now - self).abs().to_std().unwrap_or_default()
    }
}

/// A bounded cache of values by key. Entries that are not used are evicted first.
#[derive(Debug)]
pub struct TtlCache<K, V, T = Instant> {
    entries: Cache<K, Entry<V, T>>,
    ttl: Duration,
    max_stale: Duration,
}

#[derive(Debug, Clone)]
struct Entry<V, T> {
    value: V,
    /// When the load of the value started.
    loaded_at: T,
    /// When a load of the key last started, of the value or after it.
    tried_at: T,
}

impl<V, T: Copy> Entry<V, T> {
    fn new(value: V, now: T) -> Self {
        Self { value, loaded_at: now, tried_at: now }
    }
}

impl<K, V, T> TtlCache<K, V, T>
where
    K: Hash + Eq,
    V: Clone,
    T: Timestamp,
{
    /// Creates a cache of about `capacity` entries.
    pub fn new(capacity: usize, ttl: Duration) -> Self {
        Self::with_fallback(capacity, ttl, ttl)
    }

    /// Creates a cache whose values are used up to the age of `max_stale` while loads fail. After a failure, a key is loaded again
    /// once the TTL has passed.
    pub fn with_fallback(capacity: usize, ttl: Duration, max_stale: Duration) -> Self {
        Self { entries: Cache::new(capacity), ttl, max_stale }
    }

    /// Returns the value of a key, if it can be used without a load.
    fn get<Q>(&self, key: &Q, now: T) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.entries.get(key).filter(|entry| self.serves(entry, now)).map(|entry| entry.value)
    }

    /// Stores a value unless the key has one that can be used without a load. Returns whether it was stored.
    pub fn insert_if_absent<Q>(&self, key: &Q, value: V, now: T) -> bool
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let keep_or_replace = |_: &K, entry: &mut Entry<V, T>| {
            if self.serves(entry, now) { EntryAction::Retain(()) } else { EntryAction::ReplaceWithGuard }
        };
        match self.entries.entry(key, Some(Duration::ZERO), keep_or_replace) {
            EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => {
                guard.insert(Entry::new(value, now)).is_ok()
            }
            EntryResult::Retained(()) | EntryResult::Removed(..) | EntryResult::Timeout => false,
        }
    }

    /// Removes all values.
    pub fn clear(&self) {
        self.entries.clear();
    }

    /// Removes the value of a key.
    pub fn remove<Q>(&self, key: &Q)
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        // This also removes the placeholder of a load in progress.
        drop(self.entries.remove(key));
    }

    /// Returns the value of a key, and loads it if it is missing or has expired.
    pub async fn get_or_load<Q, E, F>(&self, key: &Q, now: T, load: impl FnOnce() -> F) -> Result<V, E>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = Result<V, E>>,
    {
        match self.get(key, now) {
            Some(value) => Ok(value),
            // Boxed, so that a look-up that finds a value does not carry the state of a load.
            None => Box::pin(self.load(key, now, load)).await,
        }
    }

    async fn load<Q, E, F>(&self, key: &Q, now: T, load: impl FnOnce() -> F) -> Result<V, E>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = Result<V, E>>,
    {
        let retain_or_replace = |_: &K, entry: &mut Entry<V, T>| {
            if self.serves(entry, now) {
                EntryAction::Retain(entry.value.clone())
            } else {
                EntryAction::ReplaceWithGuard
            }
        };
        let mut claim = pin!(self.entries.entry_async(key, retain_or_replace));
        let (claimed, has_waited) = match claim.as_mut().now_or_never() {
            Some(claimed) => (claimed, false),
            None => (claim.await, true),
        };
        let (guard, expired) = match claimed {
            EntryResult::Retained(value) => return Ok(value),
            EntryResult::Vacant(guard) if !has_waited => (guard, None),
            EntryResult::Replaced(guard, expired) if !has_waited => (guard, Some(expired)),
            // The load that this caller waited for has failed. Dropping the guard lets the other waiting callers
            // continue.
            other => {
                drop(other);
                return load().await;
            }
        };
        // Inserting fails if the value was removed during the load.
        match (load().await, expired) {
            (Ok(value), _) => {
                let _ = guard.insert(Entry::new(value.clone(), now));
                Ok(value)
            }
            (Err(_), Some(expired)) if expired.loaded_at.age(now) < self.max_stale => {
                let value = expired.value.clone();
                // Callers that wait for this load use the expired value, too.
                let _ = guard.insert(Entry { tried_at: now, ..expired });
                Ok(value)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Returns whether the entry can be used without a load: it is fresh, or a load has just failed.
    fn serves(&self, entry: &Entry<V, T>, now: T) -> bool {
        let age = entry.loaded_at.age(now);
        age < self.ttl || (age < self.max_stale && entry.tried_at.age(now) < self.ttl)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};

    use tokio::sync::Notify;

    use super::*;

    const TTL: Duration = Duration::from_secs(15);

    type TestCache = TtlCache<u32, u32>;

    fn seconds(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn load(value: u32) -> Ready<Result<u32, &'static str>> {
        ready(Ok(value))
    }

    fn fail() -> Ready<Result<u32, &'static str>> {
        ready(Err("down"))
    }

    #[tokio::test]
    async fn value_is_loaded_again_after_its_ttl() {
        let (cache, start) = (TestCache::new(10, TTL), Instant::now());
        assert_eq!(cache.get_or_load(&1, start, || load(1)).await, Ok(1));
        assert_eq!(cache.get_or_load(&1, seconds(start, 14), || load(2)).await, Ok(1));
        assert_eq!(cache.get(&1, seconds(start, 15)), None);
        assert_eq!(cache.get_or_load(&1, seconds(start, 15), || load(3)).await, Ok(3));
        assert_eq!(cache.get(&1, seconds(start, 29)), Some(3));
    }

    #[test]
    fn clock_that_is_set_back_ages_entries() {
        let (cache, start) = (TtlCache::new(10, TTL), DateTime::UNIX_EPOCH);
        assert!(cache.insert_if_absent(&1, 1, start));
        let get = |seconds| cache.get(&1, start + chrono::TimeDelta::seconds(seconds));
        assert_eq!([get(-15), get(-14), get(14), get(15)], [None, Some(1), Some(1), None]);
    }

    #[test]
    fn number_of_entries_is_bounded() {
        let (cache, now) = (TestCache::new(100, TTL), Instant::now());
        for key in 0..10_000 {
            assert!(cache.insert_if_absent(&key, key, now));
        }
        assert!(cache.entries.len() <= 128, "{}", cache.entries.len());
    }

    #[tokio::test]
    async fn failed_load_is_not_stored() {
        let (cache, now) = (TestCache::new(10, TTL), Instant::now());
        assert_eq!(cache.get_or_load(&1, now, fail).await, Err("down"));
        assert_eq!(cache.get(&1, now), None);
        assert_eq!(cache.get_or_load(&1, now, || load(1)).await, Ok(1));
    }

    #[tokio::test]
    async fn concurrent_callers_share_one_load() {
        let (cache, now, go) = (TestCache::new(10, TTL), Instant::now(), Notify::new());
        let first = cache.get_or_load(&1, now, || async {
            go.notified().await;
            Ok::<_, Infallible>(1)
        });
        let second = cache.get_or_load(&1, now, || async { unreachable!("the first caller loads") });
        let third = async {
            tokio::task::yield_now().await;
            go.notify_one();
        };
        let results: (Result<u32, Infallible>, Result<u32, Infallible>, ()) = tokio::join!(first, second, third);
        assert_eq!((results.0, results.1), (Ok(1), Ok(1)));
    }

    #[tokio::test]
    async fn callers_wait_for_one_failed_load_at_most() {
        let (cache, now, go) = (TestCache::new(10, TTL), Instant::now(), Notify::new());
        let failing = |wait: bool| {
            let go = &go;
            cache.get_or_load(&1, now, move || async move {
                if wait {
                    go.notified().await;
                }
                fail().await
            })
        };
        let first = failing(true);
        // If these callers loaded one after the other, each would wait for the one before.
        let stuck = cache.get_or_load(&1, now, std::future::pending::<Result<u32, &str>>);
        let others = async { tokio::join!(failing(false), failing(false)) };
        let wake = async {
            tokio::task::yield_now().await;
            go.notify_one();
        };
        tokio::select! {
            biased;
            (first, (), others) = async { tokio::join!(first, wake, others) } => {
                assert_eq!((first, others), (Err("down"), (Err("down"), Err("down"))));
            }
            _ = stuck => unreachable!("never ends"),
        }
    }

    #[tokio::test]
    async fn next_caller_loads_after_a_cancelled_load() {
        let (cache, now) = (TestCache::new(10, TTL), Instant::now());
        {
            let stuck = cache.get_or_load(&1, now, std::future::pending::<Result<u32, &str>>);
            assert!(stuck.now_or_never().is_none());
        }
        assert_eq!(cache.get_or_load(&1, now, || load(1)).await, Ok(1));
    }

    #[tokio::test]
    async fn value_read_before_the_cache_was_cleared_is_not_stored() {
        let (cache, now) = (TestCache::new(10, TTL), Instant::now());
        let old = cache.get_or_load(&1, now, || async {
            cache.clear();
            load(1).await
        });
        assert_eq!(old.await, Ok(1), "the caller called before the clear");
        assert_eq!(cache.get(&1, now), None);
        let overtaken = cache.get_or_load(&1, now, || async {
            cache.clear();
            assert_eq!(cache.get_or_load(&1, now, || load(3)).await, Ok(3), "does not wait for the old load");
            load(2).await
        });
        assert_eq!(overtaken.await, Ok(2));
        assert_eq!(cache.get(&1, now), Some(3));
    }

    #[tokio::test]
    async fn value_read_before_it_was_removed_is_not_stored() {
        let (cache, now) = (TestCache::new(10, TTL), Instant::now());
        assert!(cache.insert_if_absent(&1, 1, now) && cache.insert_if_absent(&2, 2, now));
        cache.remove(&1);
        assert_eq!((cache.get(&1, now), cache.get(&2, now)), (None, Some(2)), "the others stay");
        let old = cache.get_or_load(&1, now, || async {
            cache.remove(&1);
            load(1).await
        });
        assert_eq!(old.await, Ok(1), "the caller called before");
        assert_eq!(cache.get(&1, now), None);
        let overtaken = cache.get_or_load(&1, now, || async {
            cache.remove(&1);
            assert_eq!(cache.get_or_load(&1, now, || load(3)).await, Ok(3), "does not wait for the old load");
            load(2).await
        });
        assert_eq!(overtaken.await, Ok(2));
        assert_eq!(cache.get(&1, now), Some(3));
    }

    #[tokio::test]
    async fn caller_after_a_clear_does_not_get_the_old_value() {
        let (cache, now, go) = (TestCache::new(10, TTL), Instant::now(), Notify::new());
        let first = cache.get_or_load(&1, now, || async {
            go.notified().await;
            load(1).await
        });
        let after = async {
            tokio::task::yield_now().await;
            cache.clear();
            let value = cache.get_or_load(&1, now, || load(2)).await;
            go.notify_one();
            value
        };
        assert_eq!(tokio::join!(first, after), (Ok(1), Ok(2)));
        assert_eq!(cache.get(&1, now), Some(2));
    }

    #[tokio::test]
    async fn callers_wait_for_the_load_of_an_expired_value() {
        let (cache, start, go) = (TestCache::with_fallback(10, TTL, 4 * TTL), Instant::now(), Notify::new());
        for (outcome, expected) in [(Ok(2), 2), (Err("down"), 1)] {
            cache.clear();
            assert!(cache.insert_if_absent(&1, 1, start));
            let later = seconds(start, 15);
            let first = cache.get_or_load(&1, later, || async {
                go.notified().await;
                outcome
            });
            let second = cache.get_or_load(&1, later, || async { unreachable!("the first caller loads") });
            let third = async {
                tokio::task::yield_now().await;
                go.notify_one();
            };
            let results: (Result<u32, &str>, Result<u32, &str>, ()) = tokio::join!(first, second, third);
            assert_eq!((results.0, results.1), (Ok(expected), Ok(expected)));
        }
    }

    #[tokio::test]
    async fn expired_value_is_used_for_some_time_while_loads_fail() {
        let (cache, start) = (TestCache::with_fallback(10, TTL, 4 * TTL), Instant::now());
        assert!(cache.insert_if_absent(&1, 1, start));
        for (at, expected) in [(15, Ok(1)), (30, Ok(1)), (59, Ok(1)), (60, Err("down"))] {
            assert_eq!(cache.get_or_load(&1, seconds(start, at), fail).await, expected, "{at}");
        }
    }

    #[tokio::test]
    async fn key_is_loaded_once_per_ttl_while_loads_fail() {
        let (cache, start) = (TestCache::with_fallback(10, TTL, 4 * TTL), Instant::now());
        assert!(cache.insert_if_absent(&1, 1, start));
        assert_eq!(cache.get_or_load(&1, seconds(start, 15), fail).await, Ok(1));
        assert_eq!((cache.get(&1, seconds(start, 29)), cache.get(&1, seconds(start, 30))), (Some(1), None));
        assert_eq!(cache.get_or_load(&1, seconds(start, 30), || load(2)).await, Ok(2));
        assert_eq!(cache.get(&1, seconds(start, 44)), Some(2));
    }

    #[tokio::test]
    async fn value_removed_during_a_failed_load_is_not_kept() {
        let (cache, start) = (TestCache::with_fallback(10, TTL, 4 * TTL), Instant::now());
        let later = seconds(start, 20);
        assert!(cache.insert_if_absent(&1, 1, start));
        let old = cache.get_or_load(&1, later, || async {
            cache.remove(&1);
            fail().await
        });
        assert_eq!(old.await, Ok(1), "the caller called before");
        assert_eq!(cache.get_or_load(&1, later, fail).await, Err("down"));
    }

    #[test]
    fn value_is_inserted_once_per_ttl_if_absent() {
        let (cache, start) = (TestCache::new(10, TTL), Instant::now());
        let insert = |at| cache.insert_if_absent(&1, 0, seconds(start, at));
        assert_eq!([insert(0), insert(14), insert(15), insert(16)], [true, false, true, false]);
    }
}
