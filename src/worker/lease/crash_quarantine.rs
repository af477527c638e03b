//! Admission of recipients that were in flight when a worker crashed.
//!
//! Most of them are innocent neighbours of the one that caused the crash, so they are tried again a few at a time, each
//! recorded before it begins. One that was being tried at a second crash is tried alone. The third crash therefore
//! identifies its cause, and no recipient is held for having been near.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::db::workers::CRASHES_TO_HOLD;

/// Messages tried at a time that were in flight at one crash.
const CONCURRENCY: u32 = 8;
/// Of those, messages to the servers of one domain: where these are unreachable, each attempt takes its full timeout.
const DOMAIN_CONCURRENCY: usize = 2;
/// Messages of one domain that may be in flight for each that is tried.
const QUEUED_PER_TURN: usize = 4;

/// Messages one domain may have in quarantine.
const DOMAIN_CAPACITY: usize = DOMAIN_CONCURRENCY * QUEUED_PER_TURN;

/// Which messages are in quarantine, and which of them may be tried now.
#[derive(Debug)]
pub(crate) struct CrashQuarantine {
    /// Messages in quarantine, waiting or being tried: they must not use up the capacity that other messages need.
    slots: Arc<Semaphore>,
    capacity: usize,
    /// Messages being tried, in the order of their arrival.
    turns: Semaphore,
    /// The same for the messages of one domain, by lane.
    domains: Mutex<HashMap<i64, Arc<Domain>>>,
}

#[derive(Debug)]
struct Domain {
    slots: Arc<Semaphore>,
    turns: Semaphore,
}

/// A message's slot in quarantine, until dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _overall: OwnedSemaphorePermit,
    domain: Option<(Arc<Domain>, OwnedSemaphorePermit)>,
}

/// Permission to try one message, until dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    _domain: Option<SemaphorePermit<'a>>,
    _overall: SemaphorePermit<'a>,
}

impl CrashQuarantine {
    /// Creates the quarantine of a worker that may have this many recipients in flight.
    pub(crate) fn new(concurrency: usize) -> Self {
        let capacity = (concurrency / 4).clamp(1, 64);
        Self {
            slots: Arc::new(Semaphore::new(capacity)),
            capacity,
            turns: Semaphore::new(CONCURRENCY as usize),
            domains: Mutex::default(),
        }
    }

    /// Returns a slot for a message, if there is one. `domain` is the lane of a message that goes directly to the servers
    /// of a domain.
    pub(crate) fn admit(&self, domain: Option<i64>) -> Option<Slot> {
        let overall = self.slots.clone().try_acquire_owned().ok()?;
        let domain = match domain.map(|lane| self.domain(lane)) {
            Some(domain) => {
                let slot = domain.slots.clone().try_acquire_owned().ok()?;
                Some((domain, slot))
            }
            None => None,
        };
        Some(Slot { _overall: overall, domain })
    }

    /// Returns how many messages, of one domain or of all, can be in quarantine.
    pub(crate) fn capacity(&self, is_domain: bool) -> usize {
        if is_domain { DOMAIN_CAPACITY.min(self.capacity) } else { self.capacity }
    }

    /// Waits until a message may be tried that was in flight at this many crashes. The domain's turn comes first, so that
    /// no message waits with an overall turn. The semaphores are never closed.
    pub(crate) async fn turn<'a>(&'a self, slot: &'a Slot, crashes: i16) -> Result<Turn<'a>, AcquireError> {
        // Alone where one more crash would hold the message.
        let permits = if crashes + 1 >= CRASHES_TO_HOLD { CONCURRENCY } else { 1 };
        let domain = match &slot.domain {
            Some((domain, _)) => Some(domain.turns.acquire().await?),
            None => None,
        };
        Ok(Turn { _domain: domain, _overall: self.turns.acquire_many(permits).await? })
    }

    fn domain(&self, lane: i64) -> Arc<Domain> {
        let mut domains = self.domains.lock();
        domains.retain(|id, domain| *id == lane || Arc::strong_count(domain) > 1);
        let new =
            || Domain { slots: Arc::new(Semaphore::new(DOMAIN_CAPACITY)), turns: Semaphore::new(DOMAIN_CONCURRENCY) };
        domains.entry(lane).or_insert_with(|| Arc::new(new())).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_domain_uses_few_places_and_returns_them() {
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
        drop(all);
        quarantine.domain(3);
        assert_eq!(quarantine.domains.lock().len(), 1, "unused domains are removed");
    }
}
