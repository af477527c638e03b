//! The memory that the messages in transfer of all sessions share. A message that finds none in time is refused with a
//! temporary error, and its memory is free for the others.
//!
//! Nobody can keep the memory for long by sending slowly: while a message waits, the network that has the most memory, and
//! more than that of the message, gives up the memory of a message that has taken more than a minute.

use std::collections::HashMap;
use std::future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Memory is reserved in units of this many bytes.
const UNIT: usize = 64 << 10;
/// How long a message waits for memory.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// How often a waiting message reclaims memory, and how long the chosen message has to release it before another one is chosen:
/// a session whose client reads no replies does not notice.
const RECLAIM_INTERVAL: Duration = Duration::from_secs(5);
/// Default of [`MessageMemory::slow`].
const SLOW: Duration = Duration::from_mins(1);

/// Memory for the messages in transfer; several listeners can share it.
#[derive(Debug, Clone)]
pub struct MessageMemory {
    units: Arc<Semaphore>,
    transfers: Arc<Mutex<Transfers>>,
    /// How long a message may have memory before that is reclaimed for another network.
    slow: Duration,
}

/// The messages in transfer that have memory, by number.
#[derive(Debug, Default)]
struct Transfers {
    last: u64,
    all: HashMap<u64, Transfer>,
}

/// A message in transfer.
#[derive(Debug)]
struct Transfer {
    network: IpAddr,
    units: usize,
    since: Instant,
    /// When its memory was reclaimed.
    reclaimed_at: Option<Instant>,
    reclaimed: CancellationToken,
}

impl MessageMemory {
    /// Creates a memory of this many bytes, rounded up.
    pub fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(UNIT);
        let units = Arc::new(Semaphore::new(units.clamp(1, Semaphore::MAX_PERMITS)));
        Self { units, transfers: Arc::default(), slow: SLOW }
    }

    /// Creates a memory in which every message counts as slow.
    #[cfg(test)]
    pub(in crate::smtp::inbound) fn impatient(bytes: u64) -> Self {
        Self { slow: Duration::ZERO, ..Self::new(bytes) }
    }

    /// Returns whether a message can have memory at once.
    #[cfg(test)]
    pub(in crate::smtp::inbound) fn has_free_units(&self) -> bool {
        self.units.available_permits() > 0
    }

    /// Reclaims the memory of a slow message, if there is one whose network has more memory than `network` would have
    /// with `more` units. Of the network with the most memory, its largest one.
    fn reclaim(&self, network: IpAddr, more: usize, now: Instant) {
        let transfers = &mut *self.transfers.lock();
        let is_recent = |at: Instant| now.duration_since(at) < RECLAIM_INTERVAL;
        if transfers.all.values().any(|transfer| transfer.reclaimed_at.is_some_and(is_recent)) {
            // It is about to be released.
            return;
        }
        let mut held: HashMap<IpAddr, usize> = HashMap::new();
        for transfer in transfers.all.values() {
            *held.entry(transfer.network).or_default() += transfer.units;
        }
        let held_by = |network: &IpAddr| held.get(network).copied().unwrap_or(0);
        let limit = held_by(&network).saturating_add(more);
        let is_slow = |transfer: &&mut Transfer| {
            transfer.reclaimed_at.is_none() && now.duration_since(transfer.since) >= self.slow
        };
        let slow = transfers.all.values_mut().filter(is_slow);
        let largest = slow.max_by_key(|transfer| (held_by(&transfer.network), transfer.units));
        if let Some(transfer) = largest.filter(|transfer| held_by(&transfer.network) > limit) {
            transfer.reclaimed_at = Some(now);
            transfer.reclaimed.cancel();
        }
    }
}

/// The memory of one message; released when dropped.
#[derive(Debug)]
pub(in crate::smtp::inbound) struct ReservedMemory {
    memory: Option<MessageMemory>,
    /// The client's network ([`ClientConnection::network`](super::clients::ClientConnection::network)).
    network: IpAddr,
    units: usize,
    permits: Option<OwnedSemaphorePermit>,
    /// The number in [`Transfers`], while memory may be reclaimed, and the signal that it is.
    transfer: Option<(u64, CancellationToken)>,
}

impl ReservedMemory {
    /// Creates the memory of a message from this network; without `memory`, it is not limited.
    pub(in crate::smtp::inbound) fn new(memory: Option<MessageMemory>, network: IpAddr) -> Self {
        Self { memory, network, units: 0, permits: None, transfer: None }
    }

    /// Reserves memory until it is at least `bytes`; the first unit is free. Returns false if there is none in time, or if
    /// what the message has is reclaimed. The caller then calls [`release`](Self::release).
    pub(in crate::smtp::inbound) async fn grow(&mut self, bytes: usize, deadline: Instant) -> bool {
        let Some(memory) = self.memory.clone() else { return true };
        let need = bytes.saturating_sub(1) / UNIT;
        let more = need.saturating_sub(self.units);
        let Ok(permits) = u32::try_from(more) else { return false };
        if more == 0 {
            return true;
        }
        let deadline = deadline.min(Instant::now() + MAX_WAIT);
        let mut acquired = std::pin::pin!(memory.units.clone().acquire_many_owned(permits));
        let permit = loop {
            let next = deadline.min(Instant::now() + RECLAIM_INTERVAL);
            tokio::select! {
                biased;
                permit = &mut acquired => break permit,
                () = self.reclaimed() => return false,
                () = tokio::time::sleep_until(deadline) => return false,
                // Not before the first poll of `acquired`: the memory may be free.
                () = async { memory.reclaim(self.network, more, Instant::now()); tokio::time::sleep_until(next).await } => {}
            }
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { return false };
        match &mut self.permits {
            Some(permits) => permits.merge(permit),
            None => self.permits = Some(permit),
        }
        self.units = need;
        self.register(&memory);
        true
    }

    /// Records how much memory the message has.
    fn register(&mut self, memory: &MessageMemory) {
        let transfers = &mut *memory.transfers.lock();
        if self.transfer.is_none() {
            transfers.last += 1;
            let (network, since, reclaimed) = (self.network, Instant::now(), CancellationToken::new());
            self.transfer = Some((transfers.last, reclaimed.clone()));
            transfers.all.insert(transfers.last, Transfer { network, units: 0, since, reclaimed_at: None, reclaimed });
        }
        let own = self.transfer.as_ref().and_then(|(number, _)| transfers.all.get_mut(number));
        if let Some(own) = own {
            own.units = self.units;
        }
    }

    /// Completes when other messages need the memory more. The caller then drops the message and calls
    /// [`release`](Self::release).
    pub(in crate::smtp::inbound) async fn reclaimed(&self) {
        match &self.transfer {
            Some((_, reclaimed)) => reclaimed.cancelled().await,
            None => future::pending().await,
        }
    }

    /// Keeps the memory of a whole message until this value is dropped: it is no longer reclaimed.
    pub(in crate::smtp::inbound) fn keep(&mut self) {
        if let (Some(memory), Some((number, _))) = (&self.memory, self.transfer.take()) {
            memory.transfers.lock().all.remove(&number);
        }
    }

    /// Releases the memory.
    pub(in crate::smtp::inbound) fn release(&mut self) {
        self.keep();
        (self.units, self.permits) = (0, None);
    }
}

impl Drop for ReservedMemory {
    fn drop(&mut self) {
        self.keep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved(memory: &MessageMemory, network: &str) -> ReservedMemory {
        ReservedMemory::new(Some(memory.clone()), network.parse().unwrap())
    }

    #[tokio::test]
    async fn message_without_memory_is_refused_in_time() {
        let memory = MessageMemory::new(3 << 16);
        // A request that cannot be served at once fails.
        let deadline = Instant::now();
        let (mut one, mut two) = (reserved(&memory, "192.0.2.1"), reserved(&memory, "192.0.2.2"));
        assert!(one.grow(UNIT, deadline).await && memory.units.available_permits() == 3, "free");
        assert!(one.grow(UNIT + 1, deadline).await && one.grow(3 * UNIT, deadline).await);
        assert_eq!(memory.units.available_permits(), 1);
        assert!(!two.grow(4 * UNIT, deadline).await);
        drop(one);
        assert!(two.grow(4 * UNIT, deadline).await);
        drop(two);
        assert_eq!(memory.units.available_permits(), 3);
        assert!(memory.transfers.lock().all.is_empty());
        assert!(ReservedMemory::new(None, "192.0.2.1".parse().unwrap()).grow(usize::MAX, deadline).await);
    }

    #[tokio::test]
    async fn slow_message_of_the_largest_network_gives_way() {
        let memory = MessageMemory::new(8 << 16);
        let (start, networks) = (Instant::now(), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let [mut one, mut two, mut other] = networks.map(|network| reserved(&memory, network));
        assert!(
            one.grow(4 * UNIT, start).await && two.grow(2 * UNIT, start).await && other.grow(5 * UNIT, start).await
        );
        let mut same = reserved(&memory, networks[0]);
        assert!(!same.grow(2 * UNIT, start).await, "there is no more");
        let is_reclaimed = |one: &ReservedMemory| one.transfer.as_ref().unwrap().1.is_cancelled();
        let after_reclaim = |network: &str, more, now| {
            memory.reclaim(network.parse().unwrap(), more, now);
            [&one, &two, &other].map(is_reclaimed)
        };
        let later = Instant::now() + SLOW;
        assert_eq!(after_reclaim(networks[1], 2, later - SLOW), [false; 3], "none is slow");
        assert_eq!(after_reclaim(networks[1], 3, later), [false; 3], "it would have as much as the largest");
        assert_eq!(after_reclaim(networks[1], 2, later), [false, false, true]);
        assert_eq!(after_reclaim("192.0.2.4", 1, later), [false, false, true], "one is being released");
        other.release();
        assert!(memory.has_free_units());
        memory.reclaim("192.0.2.4".parse().unwrap(), 1, later);
        assert!(is_reclaimed(&one), "the largest is released, and the next one is reclaimed");
        one.keep();
        assert_eq!((memory.units.available_permits(), memory.transfers.lock().all.len()), (4, 1));
    }

    #[tokio::test]
    async fn message_that_keeps_its_memory_protects_no_other_one() {
        let memory = MessageMemory::new(8 << 16);
        let start = Instant::now();
        let [mut stuck, mut other] = ["192.0.2.1", "192.0.2.2"].map(|network| reserved(&memory, network));
        assert!(stuck.grow(5 * UNIT, start).await && other.grow(4 * UNIT, start).await);
        let later = Instant::now() + SLOW;
        let after_reclaim = |now| {
            memory.reclaim("192.0.2.3".parse().unwrap(), 1, now);
            [&stuck, &other].map(|one| one.transfer.as_ref().unwrap().1.is_cancelled())
        };
        assert_eq!(after_reclaim(later), [true, false]);
        assert_eq!(after_reclaim(later + RECLAIM_INTERVAL / 2), [true, false], "it has some time");
        assert_eq!(after_reclaim(later + RECLAIM_INTERVAL), [true, true]);
    }
}
