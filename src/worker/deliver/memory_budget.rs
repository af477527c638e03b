//! What large mails may take up in memory together. A quarter is for urgent ones: a newsletter with a large attachment
//! that a slow server takes its time over must not keep an invoice waiting.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Counted in kibibytes: semaphores count in `u32`, and octets are too many.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    all: Share,
    /// Of it, what mail that is not urgent may take.
    common: Share,
}

#[derive(Debug)]
struct Share {
    size: usize,
    free: Semaphore,
}

/// A mail's part, until dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    _common: Option<SemaphorePermit<'a>>,
    _all: SemaphorePermit<'a>,
}

impl MemoryBudget {
    /// Of so many octets.
    pub(crate) fn new(octets: u64) -> Self {
        let size = kibibytes(octets);
        Self { all: Share::of(size), common: Share::of(size - size / 4) }
    }

    /// Waits for so many octets. One mail that wants more than there are goes alone.
    pub(crate) async fn hold(&self, octets: u64, urgent: bool) -> Held<'_> {
        let size = kibibytes(octets);
        let common = if urgent { None } else { Some(self.common.take(size).await) };
        Held { _common: common, _all: self.all.take(size).await }
    }
}

impl Share {
    fn of(size: usize) -> Self {
        Self { size, free: Semaphore::new(size) }
    }

    async fn take(&self, size: usize) -> SemaphorePermit<'_> {
        let permits = u32::try_from(size.min(self.size)).unwrap_or(u32::MAX);
        loop {
            // Never closed: there is always a permit in the end.
            if let Ok(permit) = self.free.acquire_many(permits).await {
                return permit;
            }
        }
    }
}

fn kibibytes(octets: u64) -> usize {
    usize::try_from(octets.div_ceil(1024)).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_quarter_is_for_what_is_urgent() {
        let budget = MemoryBudget::new(8 * MIB);
        let hold = |mib, urgent| budget.hold(mib * MIB, urgent).now_or_never();
        let newsletters = hold(6, false).unwrap();
        assert!(hold(1, false).is_none());
        let _invoice = hold(2, true).unwrap();
        assert!(hold(1, true).is_none());
        drop(newsletters);
        assert!(hold(1, false).is_some());
    }

    #[test]
    fn what_is_larger_than_all_goes_alone() {
        let budget = MemoryBudget::new(8 * MIB);
        let hold = |mib, urgent| budget.hold(mib * MIB, urgent).now_or_never();
        for urgent in [true, false] {
            let large = hold(100, urgent).unwrap();
            assert!(hold(3, urgent).is_none());
            drop(large);
        }
    }
}
