//! Admission of recipients that were in flight when a worker crashed.
//!
//! Most of them did not cause the crash, so they are tried again a few at a time, each marked before its attempt
//! starts. A message that was being tried at a second crash is tried alone. The third crash therefore identifies its
//! cause, and no recipient is held only because it was in flight at the same time.

use std::sync::Arc;

use tokio::sync::AcquireError;

use crate::db::workers::CRASHES_TO_HOLD;
use crate::limiter::{KeyedPermit, KeyedSemaphore};

/// Maximum number of quarantined messages that are tried at a time.
const CONCURRENCY: u32 = 8;
/// Maximum number of these messages that go to the servers of one domain: if the servers are unreachable, each attempt
/// takes its full timeout.
const DOMAIN_CONCURRENCY: usize = 2;
/// Number of messages of one domain in quarantine for each message of the domain that may be tried at a time.
const SLOTS_PER_PERMIT: usize = 4;

/// Maximum number of messages of one domain in quarantine.
const DOMAIN_CAPACITY: usize = DOMAIN_CONCURRENCY * SLOTS_PER_PERMIT;

/// Limits the messages in quarantine and those that are being tried. A message that goes directly to the servers of a
/// domain also counts for that domain, by its lane.
#[derive(Debug)]
pub(crate) struct CrashQuarantine {
    /// Messages in quarantine, waiting or being tried: they must not use up the capacity that other messages need.
    slots: Arc<KeyedSemaphore<i64>>,
    capacity: usize,
    /// Messages being tried, in the order of their arrival.
    permits: Arc<KeyedSemaphore<i64>>,
}

/// A message's slot in quarantine, until dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The lane, if the message goes directly to the servers of a domain.
    mx_lane: Option<i64>,
    _permit: KeyedPermit<i64>,
}

impl CrashQuarantine {
    /// Creates the quarantine of a worker with this many concurrent SMTP transactions.
    pub(crate) fn new(concurrency: usize) -> Self {
        let capacity = (concurrency / 4).clamp(1, 64);
        Self {
            slots: KeyedSemaphore::new(capacity, DOMAIN_CAPACITY),
            capacity,
            permits: KeyedSemaphore::new(CONCURRENCY as usize, DOMAIN_CONCURRENCY),
        }
    }

    /// Returns a slot for a message, if there is one. `mx_lane` is the lane of a message that goes directly to the
    /// servers of a domain.
    pub(crate) fn admit(&self, mx_lane: Option<i64>) -> Option<Slot> {
        let permit = self.slots.try_acquire(mx_lane).ok()?;
        Some(Slot { mx_lane, _permit: permit })
    }

    /// Returns how many messages, of one domain or of all, can be in quarantine.
    pub(crate) fn capacity(&self, of_one_domain: bool) -> usize {
        if of_one_domain { DOMAIN_CAPACITY.min(self.capacity) } else { self.capacity }
    }

    /// Waits until a message that was in flight at this many crashes may be tried, and returns the permit to hold
    /// during the attempt. Fails only if the semaphore is closed, which never happens.
    pub(crate) async fn permit(&self, slot: &Slot, crashes: i16) -> Result<KeyedPermit<i64>, AcquireError> {
        // The message is tried alone if one more crash would hold it.
        let permits = if crashes + 1 >= CRASHES_TO_HOLD { CONCURRENCY } else { 1 };
        self.permits.acquire(slot.mx_lane, permits).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_domain_uses_few_slots_and_returns_them() {
        let quarantine = CrashQuarantine::new(256);
        let mut unreachable: Vec<Slot> = std::iter::from_fn(|| quarantine.admit(Some(1))).collect();
        assert_eq!(unreachable.len(), DOMAIN_CAPACITY);
        assert!(quarantine.admit(Some(2)).is_some() && quarantine.admit(None).is_some());
        unreachable.pop();
        assert!(quarantine.admit(Some(1)).is_some());
        drop(unreachable);
        let all: Vec<Slot> = std::iter::from_fn(|| quarantine.admit(None)).collect();
        assert_eq!(all.len(), 64, "none was lost");
        assert!(quarantine.admit(Some(1)).is_none());
    }
}
