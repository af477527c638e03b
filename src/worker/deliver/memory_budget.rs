//! The memory that large messages may use together. A quarter is reserved for urgent ones: a newsletter with a large
//! attachment to a slow server must not delay an invoice.

use tokio::sync::Semaphore;

use crate::limiter::{ReservedPermit, ReservedSemaphore};

/// A semaphore that counts kibibytes, because semaphores count in `u32`.
#[derive(Debug)]
pub(crate) struct MemoryBudget(ReservedSemaphore);

impl MemoryBudget {
    pub(crate) fn new(bytes: u64) -> Self {
        let size = kibibytes(bytes);
        Self(ReservedSemaphore::new(size, size / 4))
    }

    /// Waits until this many bytes are free. A message that needs more than the whole budget waits until it is the only
    /// one.
    pub(crate) async fn reserve(&self, bytes: u64, urgent: bool) -> ReservedPermit<'_> {
        loop {
            // The semaphore is never closed.
            if let Ok(permit) = self.0.acquire(kibibytes(bytes), urgent).await {
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
}
