//! Memory shared by requests or responses of any size: each reserves memory as it grows, and releases it when
//! dropped.
//!
//! - No deadlock: memory is granted only if all holders can still get the rest of their need in some order (the
//!   banker's algorithm). So an upload that has just started blocks only requests that need all of the memory.
//! - No monopoly: a key may have several bodies at once only if together they fit into three quarters of the memory, and
//!   all callers without a key share one quarter in the same way. A single body may have any size.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::http::auth::Requester;

/// The API key and its tenant that memory is reserved for; `None` without a key.
pub(in crate::http) type Owner = Option<Requester>;

/// A limited amount of memory that bodies share.
#[derive(Debug)]
pub(in crate::http) struct MemoryLimit {
    capacity: u64,
    state: Mutex<State>,
    released: Notify,
}

#[derive(Debug, Default)]
struct State {
    last_number: u64,
    holders: BTreeMap<u64, Holder>,
}

/// The state of one reservation.
#[derive(Debug)]
struct Holder {
    owner: Owner,
    /// Reserved bytes.
    reserved: u64,
    /// The maximum that it may need, in bytes.
    need: u64,
    is_waiting: bool,
}

/// A part of the memory of a [`MemoryLimit`], released when dropped.
#[derive(Debug)]
pub(in crate::http) struct Reservation {
    limit: Arc<MemoryLimit>,
    number: u64,
}

/// The error when no memory became free in time.
#[derive(Debug)]
pub(in crate::http) struct OutOfMemory;

impl MemoryLimit {
    pub(in crate::http) fn new(capacity: u64) -> Arc<Self> {
        Arc::new(Self { capacity, state: Mutex::default(), released: Notify::new() })
    }

    /// Begins an empty reservation for a body that may need up to `need` bytes, capped at the capacity.
    pub(in crate::http) fn begin(self: &Arc<Self>, owner: Owner, need: u64) -> Reservation {
        let mut state = self.state();
        state.last_number += 1;
        let number = state.last_number;
        let holder = Holder { owner, reserved: 0, need: need.min(self.capacity), is_waiting: false };
        state.holders.insert(number, holder);
        Reservation { limit: self.clone(), number }
    }

    /// Reserves `need` bytes, waiting at most `wait`.
    pub(in crate::http) async fn reserve(
        self: &Arc<Self>,
        owner: Owner,
        need: u64,
        wait: Duration,
    ) -> Result<Reservation, OutOfMemory> {
        let reservation = self.begin(owner, need);
        reservation.grow(need, wait).await?;
        Ok(reservation)
    }

    /// Reserves memory for data that is in memory already. Does not wait if the waiting reservations already need the
    /// whole capacity.
    pub(in crate::http) async fn reserve_for_built(
        self: &Arc<Self>,
        owner: Owner,
        need: u64,
        wait: Duration,
    ) -> Result<Reservation, OutOfMemory> {
        let waiting: u64 =
            self.state().holders.values().filter(|holder| holder.is_waiting).map(|holder| holder.need).sum();
        let wait = if waiting < self.capacity { wait } else { Duration::ZERO };
        self.reserve(owner, need, wait).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Reservation {
    /// Grows the reservation to `to` bytes, waiting at most `wait`.
    pub(in crate::http) async fn grow(&self, to: u64, wait: Duration) -> Result<(), OutOfMemory> {
        let granted = async {
            loop {
                let released = self.limit.released.notified();
                if self.try_grow(to) {
                    return;
                }
                released.await;
            }
        };
        if self.try_grow(to) {
            return Ok(());
        }
        self.change(|holder| holder.is_waiting = true);
        let granted = tokio::time::timeout(wait, granted).await.map_err(|_| OutOfMemory);
        self.change(|holder| holder.is_waiting = false);
        granted
    }

    /// Releases all bytes beyond `to`, and reduces the need to at most `to`.
    pub(in crate::http) fn shrink(&self, to: u64) {
        self.change(|holder| {
            holder.reserved = holder.reserved.min(to);
            holder.need = holder.need.min(to);
        });
        self.limit.released.notify_waiters();
    }

    /// Returns whether another owner waits for memory.
    pub(in crate::http) fn blocks_others(&self) -> bool {
        let state = self.limit.state();
        let own = state.holders.get(&self.number).map(|holder| holder.owner);
        state.holders.values().any(|holder| holder.is_waiting && Some(holder.owner) != own)
    }

    fn try_grow(&self, to: u64) -> bool {
        let mut state = self.limit.state();
        let can_grow = state.can_grow(self.number, to, self.limit.capacity);
        if can_grow && let Some(holder) = state.holders.get_mut(&self.number) {
            holder.reserved = holder.reserved.max(to.min(holder.need));
        }
        can_grow
    }

    fn change(&self, change: impl FnOnce(&mut Holder)) {
        if let Some(holder) = self.limit.state().holders.get_mut(&self.number) {
            change(holder);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.limit.state().holders.remove(&self.number);
        self.limit.released.notify_waiters();
    }
}

impl State {
    fn can_grow(&self, number: u64, to: u64, capacity: u64) -> bool {
        let Some(holder) = self.holders.get(&number) else { return false };
        let to = to.min(holder.need);
        if to <= holder.reserved {
            return true;
        }
        if holder.reserved == 0 && !self.can_begin(number, holder, capacity) {
            return false;
        }
        let reserved: u64 = self.holders.values().map(|holder| holder.reserved).sum();
        let Some(mut free) = capacity.checked_sub(reserved + to - holder.reserved) else { return false };
        // Sorts by missing bytes: if every reservation can be completed in this order, there is no deadlock.
        let active = self.holders.iter().filter(|(n, holder)| **n == number || holder.reserved > 0);
        let mut active: Vec<(u64, u64)> =
            active
                .map(|(n, holder)| {
                    if *n == number { (holder.need - to, to) } else { (holder.need - holder.reserved, holder.reserved) }
                })
                .collect();
        active.sort_unstable();
        active.into_iter().all(|(missing, reserved)| {
            let is_served = missing <= free;
            free += reserved;
            is_served
        })
    }

    /// Returns whether the owner may begin another reservation. A reservation of more than a quarter of the memory must
    /// also let earlier reservations of other owners begin first, if they wait.
    fn can_begin(&self, number: u64, new: &Holder, capacity: u64) -> bool {
        let quarter = capacity / 4;
        let fits = match new.owner {
            None => self.fits(new, quarter, |owner| owner.is_none()),
            Some(Requester { key, .. }) => {
                self.fits(new, capacity - quarter, |owner| owner.is_some_and(|other| other.key == key))
            }
        };
        let earlier = self.holders.range(..number);
        let mut waiting =
            earlier.filter(|(_, holder)| holder.is_waiting && holder.reserved == 0 && holder.owner != new.owner);
        fits && (new.need <= quarter || waiting.next().is_none())
    }

    /// Returns whether a new reservation and the others of the same owners need at most `limit` bytes, or there are no others.
    fn fits(&self, new: &Holder, limit: u64, is_same: impl Fn(Owner) -> bool) -> bool {
        let others = self.holders.values().filter(|holder| holder.reserved > 0 && is_same(holder.owner));
        let (count, sum) = others.fold((0, 0), |(count, sum), holder| (count + 1, sum + holder.need));
        count == 0 || sum + new.need <= limit
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::id::{KeyId, TenantId};

    #[expect(clippy::unnecessary_wraps, reason = "the same type as the owner `None`")]
    fn key_of(tenant: u128, key: u128) -> Owner {
        Some(Requester { tenant: TenantId(Uuid::from_u128(tenant)), key: KeyId(Uuid::from_u128(key)) })
    }

    /// Returns the only key of a tenant.
    fn key(n: u128) -> Owner {
        key_of(n, n)
    }

    #[test]
    fn stalled_upload_does_not_block_smaller_uploads_of_other_keys() {
        let limit = MemoryLimit::new(64);
        let stalled = limit.begin(key(1), 64);
        assert!(stalled.try_grow(1));
        let (large, small) = (limit.begin(key(2), 64), limit.begin(key(2), 40));
        assert!(!large.try_grow(1), "neither of two uploads of the whole memory could be completed");
        assert!(small.try_grow(40));
        assert!(!stalled.try_grow(30));
        drop(small);
        assert!(stalled.try_grow(64));
        drop(stalled);
        assert!(large.try_grow(64));
    }

    #[test]
    fn one_key_leaves_a_quarter_to_others() {
        let limit = MemoryLimit::new(64);
        let all: Vec<Reservation> = (0..4).map(|_| limit.begin(key(1), 20)).collect();
        let active: Vec<bool> = all.iter().map(|reservation| reservation.try_grow(1)).collect();
        assert_eq!(active, [true, true, false, false]);
        assert!(limit.begin(key(2), 20).try_grow(1));
        assert!(limit.begin(None, 64).try_grow(1) || limit.begin(None, 16).try_grow(1));
    }

    #[test]
    fn callers_without_a_key_have_a_quarter() {
        let limit = MemoryLimit::new(64);
        let (one, two, three) = (limit.begin(None, 8), limit.begin(None, 8), limit.begin(None, 8));
        assert!(one.try_grow(8) && two.try_grow(8) && !three.try_grow(8));
        drop(one);
        assert!(three.try_grow(8));
    }

    #[tokio::test]
    async fn waiting_reservation_grows_when_memory_is_released() {
        let limit = MemoryLimit::new(64);
        let first = limit.reserve(key(1), 64, Duration::ZERO).await.unwrap();
        assert!(limit.reserve(key(2), 30, Duration::ZERO).await.is_err());
        let second = tokio::spawn({
            let limit = limit.clone();
            async move { limit.reserve(key(2), 30, Duration::from_secs(10)).await.map(drop) }
        });
        while !first.blocks_others() {
            tokio::task::yield_now().await;
        }
        first.shrink(34);
        second.await.unwrap().unwrap();
        assert!(!first.blocks_others());
        drop(first);
        assert!(limit.state().holders.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn every_active_reservation_can_be_completed(needs in proptest::collection::vec(1_u64..100, 1..20), steps in proptest::collection::vec((0_usize..20, 1_u64..30), 0..200)) {
            let limit = MemoryLimit::new(64);
            let owner = |n: usize| key(n as u128 % 3 + 1);
            let mut reservations: Vec<_> = needs.iter().enumerate().map(|(n, need)| (limit.begin(owner(n), *need), 0)).collect();
            for (n, step) in steps {
                let count = reservations.len();
                let (reservation, reserved) = &mut reservations[n % count];
                if reservation.try_grow(*reserved + step) {
                    *reserved += step;
                }
                let sum: u64 = limit.state().holders.values().map(|holder| holder.reserved).sum();
                proptest::prop_assert!(sum <= 64);
            }
            // In every state, at least one reservation can be completed.
            while !reservations.is_empty() {
                let done = reservations.iter().position(|(reservation, reserved)| *reserved > 0 && reservation.try_grow(u64::MAX));
                let done = done.or_else(|| reservations.iter().position(|(_, reserved)| *reserved == 0));
                proptest::prop_assert!(done.is_some(), "deadlock");
                reservations.swap_remove(done.unwrap());
            }
        }
    }
}
