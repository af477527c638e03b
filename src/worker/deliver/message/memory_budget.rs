//! The memory that messages in flight may use together. A quarter is reserved for urgent ones: a newsletter with a large
//! attachment to a slow server must not delay an invoice.
//!
//! A small message reserves its memory when it is claimed or handed off, if there is enough; its content then stays in
//! memory until it is sent. Other messages reserve their memory when they are sent, and read their content from the
//! database then.

use tokio::sync::Semaphore;

use crate::db::messages::stored::fits_inline;
use crate::limiter::{ReservedPermit, ReservedSemaphore};

/// Bytes of a message in flight besides its content.
const MESSAGE_OVERHEAD: u64 = 4 << 10;

/// The budgets of small and of large messages. They are separate, so that no small message waits behind a large one that
/// waits for memory.
#[derive(Debug)]
pub(crate) struct MessageMemory {
    small: MemoryBudget,
    large: MemoryBudget,
}

impl MessageMemory {
    /// Creates budgets of this many bytes each.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { small: MemoryBudget::new(bytes), large: MemoryBudget::new(bytes) }
    }

    /// Reserves the memory for a message with `size` bytes of content, if it is free.
    pub(crate) fn try_reserve(&self, size: i64, urgent: bool) -> Option<ReservedPermit> {
        self.budget(size).try_reserve(message_bytes(size), urgent)
    }

    /// Waits until the memory for a message with `size` bytes of content is free, and reserves it.
    pub(crate) async fn reserve(&self, size: i64, urgent: bool) -> ReservedPermit {
        self.budget(size).reserve(message_bytes(size), urgent).await
    }

    fn budget(&self, size: i64) -> &MemoryBudget {
        if fits_inline(size.unsigned_abs()) { &self.small } else { &self.large }
    }
}

/// A semaphore that counts kibibytes, because semaphores count in `u32`.
#[derive(Debug)]
struct MemoryBudget(ReservedSemaphore);

impl MemoryBudget {
    fn new(bytes: u64) -> Self {
        let size = kibibytes(bytes);
        Self(ReservedSemaphore::new(size, size / 4))
    }

    /// Waits until this many bytes are free. A message that needs more than the whole budget waits until no other
    /// message uses the budget.
    async fn reserve(&self, bytes: u64, urgent: bool) -> ReservedPermit {
        loop {
            // The semaphore is never closed.
            if let Ok(permit) = self.0.acquire(kibibytes(bytes), urgent).await {
                return permit;
            }
        }
    }

    /// Reserves this many bytes if they are free.
    fn try_reserve(&self, bytes: u64, urgent: bool) -> Option<ReservedPermit> {
        self.0.try_acquire(kibibytes(bytes), urgent)
    }
}

/// Returns the memory that a message with `size` bytes of content needs until it is sent: the content, the MIME that is
/// built from it (about a third larger), and the parts of fixed size.
fn message_bytes(size: i64) -> u64 {
    u64::try_from(size).unwrap_or(0).saturating_mul(5) / 2 + MESSAGE_OVERHEAD
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
    fn small_messages_do_not_wait_behind_a_large_one() {
        let memory = MessageMemory::new(8 * MIB);
        let _large = memory.try_reserve(2 << 20, true).unwrap();
        let mut waiting = Box::pin(memory.reserve(3 << 20, true));
        assert!((&mut waiting).now_or_never().is_none());
        for urgent in [false, true] {
            assert!(memory.reserve(100 << 10, urgent).now_or_never().is_some());
        }
    }

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
