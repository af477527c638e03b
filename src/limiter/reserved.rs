//! A semaphore of which a part is reserved for urgent users.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// A semaphore of which a part is reserved for urgent users.
#[derive(Debug)]
pub struct ReservedSemaphore {
    all: Pool,
    /// The permits that callers without urgency may use.
    common: Pool,
}

#[derive(Debug)]
struct Pool {
    size: usize,
    free: Arc<Semaphore>,
}

/// Acquired permits, released when dropped.
#[derive(Debug)]
pub struct ReservedPermit {
    _common: Option<OwnedSemaphorePermit>,
    _all: OwnedSemaphorePermit,
}

impl ReservedSemaphore {
    /// Creates a semaphore with this many permits, of which `reserved` are for urgent users.
    pub fn new(permits: usize, reserved: usize) -> Self {
        let permits = permits.min(Semaphore::MAX_PERMITS);
        Self { all: Pool::new(permits), common: Pool::new(permits.saturating_sub(reserved)) }
    }

    /// Waits until `count` permits are free. A caller that requests more than all permits waits until it is the only
    /// one. Returns an error if the semaphore was closed.
    pub async fn acquire(&self, count: usize, urgent: bool) -> Result<ReservedPermit, AcquireError> {
        // Common permits are acquired first, so that a caller that waits for them holds no other permits.
        let common = if urgent { None } else { Some(self.common.acquire(count).await?) };
        Ok(ReservedPermit { _common: common, _all: self.all.acquire(count).await? })
    }

    /// Acquires `count` permits if they are free and no caller waits for permits. A request for more than all permits
    /// fails.
    pub fn try_acquire(&self, count: usize, urgent: bool) -> Option<ReservedPermit> {
        let common = if urgent { None } else { Some(self.common.try_acquire(count)?) };
        Some(ReservedPermit { _common: common, _all: self.all.try_acquire(count)? })
    }

    /// Refuses all current and future waiters.
    pub fn close(&self) {
        self.common.free.close();
        self.all.free.close();
    }
}

impl Pool {
    fn new(size: usize) -> Self {
        Self { size, free: Arc::new(Semaphore::new(size)) }
    }

    async fn acquire(&self, count: usize) -> Result<OwnedSemaphorePermit, AcquireError> {
        let count = u32::try_from(count.min(self.size)).unwrap_or(u32::MAX);
        self.free.clone().acquire_many_owned(count).await
    }

    fn try_acquire(&self, count: usize) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_many_owned(u32::try_from(count).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// Acquires permits if they are free.
    fn acquire(semaphore: &ReservedSemaphore, count: usize, urgent: bool) -> Option<ReservedPermit> {
        semaphore.acquire(count, urgent).now_or_never()?.ok()
    }

    #[test]
    fn reserved_permits_are_left_to_urgent_users() {
        let semaphore = ReservedSemaphore::new(8, 2);
        let common = acquire(&semaphore, 6, false).unwrap();
        assert!(acquire(&semaphore, 1, false).is_none());
        let _urgent = acquire(&semaphore, 2, true).unwrap();
        assert!(acquire(&semaphore, 1, true).is_none());
        drop(common);
        assert!(acquire(&semaphore, 1, false).is_some());
    }

    #[test]
    fn urgent_users_may_use_all_permits() {
        let semaphore = ReservedSemaphore::new(8, 2);
        let _urgent = acquire(&semaphore, 8, true).unwrap();
        assert!(acquire(&semaphore, 1, false).is_none());
    }

    #[test]
    fn request_for_more_than_all_permits_excludes_others() {
        for urgent in [true, false] {
            let semaphore = ReservedSemaphore::new(8, 2);
            let large = acquire(&semaphore, 100, urgent).unwrap();
            assert!(acquire(&semaphore, 3, urgent).is_none());
            drop(large);
            assert!(acquire(&semaphore, 3, urgent).is_some());
        }
    }

    #[tokio::test]
    async fn waiters_are_served_in_order() {
        let semaphore = ReservedSemaphore::new(4, 0);
        let held = acquire(&semaphore, 4, false).unwrap();
        let mut first = Box::pin(semaphore.acquire(3, false));
        let mut second = Box::pin(semaphore.acquire(1, false));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(held);
        let first = first.await.unwrap();
        assert!(acquire(&semaphore, 1, false).is_none(), "the second waiter has the last permit");
        drop((first, second.await.unwrap()));
    }

    #[test]
    fn closed_semaphore_refuses_waiters() {
        let semaphore = ReservedSemaphore::new(4, 1);
        semaphore.close();
        assert!(matches!(semaphore.acquire(1, true).now_or_never(), Some(Err(_))));
    }
}
