//! The memory that large messages may use together. A quarter is reserved for urgent ones: a newsletter with a large
//! attachment to a slow server must not delay an invoice.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Counted in kibibytes, since semaphores count in `u32`.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    all: Pool,
    /// The part of it that messages may use that are not urgent.
    common: Pool,
}

#[derive(Debug)]
struct Pool {
    size: usize,
    free: Semaphore,
}

/// The memory reserved for one message, until dropped.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    _common: Option<SemaphorePermit<'a>>,
    _all: SemaphorePermit<'a>,
}

impl MemoryBudget {
    pub(crate) fn new(bytes: u64) -> Self {
        let size = kibibytes(bytes);
        Self { all: Pool::new(size), common: Pool::new(size - size / 4) }
    }

    /// Waits until this many bytes are free. A message that needs more than there are waits until it is the only one.
    pub(crate) async fn reserve(&self, bytes: u64, urgent: bool) -> Reservation<'_> {
        let size = kibibytes(bytes);
        let common = if urgent { None } else { Some(self.common.acquire(size).await) };
        Reservation { _common: common, _all: self.all.acquire(size).await }
    }
}

impl Pool {
    fn new(size: usize) -> Self {
        Self { size, free: Semaphore::new(size) }
    }

    async fn acquire(&self, size: usize) -> SemaphorePermit<'_> {
        let permits = u32::try_from(size.min(self.size)).unwrap_or(u32::MAX);
        loop {
            // The semaphore is never closed.
            if let Ok(permit) = self.free.acquire_many(permits).await {
                return permit;
            }
        }
    }
}

fn kibibytes(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(1024)).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_quarter_is_reserved_for_urgent_messages() {
        let budget = MemoryBudget::new(8 * MIB);
        let reserve = |mib, urgent| budget.reserve(mib * MIB, urgent).now_or_never();
        let newsletters = reserve(6, false).unwrap();
        assert!(reserve(1, false).is_none());
        let _invoice = reserve(2, true).unwrap();
        assert!(reserve(1, true).is_none());
        drop(newsletters);
        assert!(reserve(1, false).is_some());
    }

    #[test]
    fn message_larger_than_the_budget_goes_alone() {
        let budget = MemoryBudget::new(8 * MIB);
        let reserve = |mib, urgent| budget.reserve(mib * MIB, urgent).now_or_never();
        for urgent in [true, false] {
            let large = reserve(100, urgent).unwrap();
            assert!(reserve(3, urgent).is_none());
            drop(large);
        }
    }
}
