//! A semaphore with a limit per key.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// A semaphore of which each key may use only a part. Keys without permits or waiters use no memory. It is never
/// closed.
#[derive(Debug)]
pub struct KeyedSemaphore<K> {
    total: Arc<Semaphore>,
    per_key: usize,
    keys: Mutex<HashMap<K, Arc<Semaphore>>>,
}

/// Acquired permits, released when dropped.
#[derive(Debug)]
pub struct KeyedPermit<K: Hash + Eq> {
    _total: OwnedSemaphorePermit,
    _own: Option<OwnPermit<K>>,
}

/// Some of a key's own permits, or the wait for them.
#[derive(Debug)]
struct OwnPermit<K: Hash + Eq> {
    keyed: Arc<KeyedSemaphore<K>>,
    key: K,
    permit: Option<OwnedSemaphorePermit>,
}

impl<K: Hash + Eq + Copy> KeyedSemaphore<K> {
    /// Creates a semaphore with this many permits in total, and for each key.
    pub fn new(total: usize, per_key: usize) -> Arc<Self> {
        Arc::new(Self { total: Arc::new(Semaphore::new(total)), per_key, keys: Mutex::default() })
    }

    /// Waits for `count` of the key's own permits, or all of them if it has fewer, and then for `count` permits of the
    /// total. In this order, a key that waits for its own permits blocks no other key. Without a key, only the total counts.
    pub async fn acquire(self: &Arc<Self>, key: Option<K>, count: u32) -> Result<KeyedPermit<K>, AcquireError> {
        let own = match key {
            Some(key) => {
                let (mut own, semaphore) = self.own(key);
                let count = count.min(u32::try_from(self.per_key).unwrap_or(u32::MAX));
                own.permit = Some(semaphore.acquire_many_owned(count).await?);
                Some(own)
            }
            None => None,
        };
        Ok(KeyedPermit { _total: self.total.clone().acquire_many_owned(count).await?, _own: own })
    }

    /// Acquires one permit of the total and one of the key, if both are free.
    pub fn try_acquire(self: &Arc<Self>, key: Option<K>) -> Result<KeyedPermit<K>, TryAcquireError> {
        let total = self.total.clone().try_acquire_owned()?;
        let own = match key {
            Some(key) => {
                let (mut own, semaphore) = self.own(key);
                own.permit = Some(semaphore.try_acquire_owned()?);
                Some(own)
            }
            None => None,
        };
        Ok(KeyedPermit { _total: total, _own: own })
    }

    /// Returns the key's semaphore, and an [`OwnPermit`] whose drop removes the semaphore once it is unused, even if
    /// the wait is cancelled.
    fn own(self: &Arc<Self>, key: K) -> (OwnPermit<K>, Arc<Semaphore>) {
        let new = || Arc::new(Semaphore::new(self.per_key));
        let semaphore = self.keys.lock().entry(key).or_insert_with(new).clone();
        (OwnPermit { keyed: self.clone(), key, permit: None }, semaphore)
    }
}

impl<K: Hash + Eq> Drop for OwnPermit<K> {
    fn drop(&mut self) {
        drop(self.permit.take());
        let mut keys = self.keyed.keys.lock();
        // Only the map refers to the semaphore: the key has no permit and waits for none.
        if keys.get(&self.key).is_some_and(|own| Arc::strong_count(own) == 1) {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn one_key_leaves_permits_to_others() {
        let limit = KeyedSemaphore::new(4, 2);
        let acquire = |key| limit.try_acquire(Some(key)).ok();
        let mut held = vec![acquire(1).unwrap(), acquire(1).unwrap()];
        assert!(acquire(1).is_none(), "the key has both of its permits");
        held.extend([acquire(2).unwrap(), acquire(2).unwrap()]);
        assert!(acquire(3).is_none(), "none is free");
        held.truncate(3);
        held.push(acquire(3).unwrap());
        drop(held);
        assert!(limit.keys.lock().is_empty(), "unused keys are removed");
    }

    #[test]
    fn without_a_key_only_the_total_counts() {
        let limit = KeyedSemaphore::new(3, 1);
        let all: Vec<_> = std::iter::from_fn(|| limit.try_acquire(None).ok()).collect();
        assert_eq!(all.len(), 3);
        assert!(limit.try_acquire(Some(1)).is_err());
        drop(all);
        assert!(limit.keys.lock().is_empty() && limit.try_acquire(Some(1)).is_ok());
    }

    #[tokio::test]
    async fn key_waits_for_its_own_permit_without_blocking_others() {
        let limit = KeyedSemaphore::new(3, 1);
        let held = limit.acquire(Some(1), 1).await.unwrap();
        let mut waiting = Box::pin(limit.acquire(Some(1), 1));
        assert!((&mut waiting).now_or_never().is_none());
        let others = [limit.try_acquire(Some(2)), limit.try_acquire(Some(3))];
        assert!(others.iter().all(Result::is_ok), "a waiting caller holds no permit of the total");
        drop((held, others));
        drop(waiting.await.unwrap());
        assert!(limit.keys.lock().is_empty());
    }

    #[tokio::test]
    async fn caller_that_counts_as_several_takes_as_many_of_its_key() {
        let limit = KeyedSemaphore::new(8, 4);
        let held = limit.acquire(Some(1), 3).await.unwrap();
        assert!(limit.acquire(Some(1), 3).now_or_never().is_none());
        assert!(limit.acquire(Some(2), 3).now_or_never().is_some(), "another key does not wait");
        drop(held);
        assert!(limit.acquire(Some(1), 3).now_or_never().is_some());
    }

    #[tokio::test]
    async fn cancelled_wait_removes_the_key() {
        let limit = KeyedSemaphore::new(1, 1);
        let held = limit.acquire(Some(1), 1).await.unwrap();
        assert!(limit.acquire(Some(1), 1).now_or_never().is_none());
        assert!(limit.acquire(Some(2), 1).now_or_never().is_none());
        drop(held);
        assert!(limit.keys.lock().is_empty());
    }

    #[tokio::test]
    async fn caller_that_acquires_all_permits_excludes_others() {
        let limit = KeyedSemaphore::new(4, 2);
        let held = limit.acquire(Some(1), 1).await.unwrap();
        let mut alone = Box::pin(limit.acquire(Some(2), 4));
        assert!((&mut alone).now_or_never().is_none());
        assert!(limit.try_acquire(Some(3)).is_err(), "later callers wait behind it");
        drop(held);
        drop(alone.await.unwrap());
    }
}
