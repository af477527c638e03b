//! Memory shared by requests or responses of any size: each reserves its part as it grows, and releases it when
//! dropped.
//!
//! - No deadlock: memory is granted only if all holders can still get the rest of their need in some order (the
//!   banker's algorithm). So an upload that has only begun blocks only those that need all of the memory.
//! - No monopoly: a key may begin another large body only while all of its bodies fit into three quarters of the
//!   memory, and callers without a key into one quarter. A single body may have any size.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::domain::id::KeyId;

/// The key of a body's caller; `None` without a key.
pub(super) type Owner = Option<KeyId>;

/// Memory for bodies, in bytes.
#[derive(Debug)]
pub(super) struct Room {
    capacity: u64,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    parts: BTreeMap<u64, Part>,
}

#[derive(Debug)]
struct Part {
    owner: Owner,
    held: u64,
    /// The maximum that it may need.
    need: u64,
    is_waiting: bool,
}

/// A share of a [`Room`], released when dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Room>,
    number: u64,
}

/// No memory became free in time.
#[derive(Debug)]
pub(super) struct Full;

impl Room {
    pub(super) fn new(capacity: u64) -> Arc<Self> {
        Arc::new(Self { capacity, state: Mutex::default(), freed: Notify::new() })
    }

    /// Begins an empty share for a body that may need up to `need` bytes, capped at the capacity.
    pub(super) fn begin(self: &Arc<Self>, owner: Owner, need: u64) -> Share {
        let mut state = self.state();
        state.last += 1;
        let number = state.last;
        let part = Part { owner, held: 0, need: need.min(self.capacity), is_waiting: false };
        state.parts.insert(number, part);
        Share { room: self.clone(), number }
    }

    /// Reserves `need` bytes, waiting at most `limit`.
    pub(super) async fn reserve(self: &Arc<Self>, owner: Owner, need: u64, limit: Duration) -> Result<Share, Full> {
        let share = self.begin(owner, need);
        share.grow(need, limit).await?;
        Ok(share)
    }

    /// Reserves memory for data that is in memory already. Does not wait if as much as the capacity is waiting.
    pub(super) async fn reserve_made(
        self: &Arc<Self>,
        owner: Owner,
        need: u64,
        limit: Duration,
    ) -> Result<Share, Full> {
        let waiting: u64 = self.state().parts.values().filter(|part| part.is_waiting).map(|part| part.need).sum();
        let limit = if waiting < self.capacity { limit } else { Duration::ZERO };
        self.reserve(owner, need, limit).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Share {
    /// Grows the share to `to` bytes, waiting at most `limit`.
    pub(super) async fn grow(&self, to: u64, limit: Duration) -> Result<(), Full> {
        let granted = async {
            loop {
                let freed = self.room.freed.notified();
                if self.try_grow(to) {
                    return;
                }
                freed.await;
            }
        };
        if self.try_grow(to) {
            return Ok(());
        }
        self.change(|part| part.is_waiting = true);
        let granted = tokio::time::timeout(limit, granted).await.map_err(|_| Full);
        self.change(|part| part.is_waiting = false);
        granted
    }

    /// Releases all bytes beyond `to`, and reduces the need to it.
    pub(super) fn shrink(&self, to: u64) {
        self.change(|part| {
            part.held = part.held.min(to);
            part.need = part.need.min(to);
        });
        self.room.freed.notify_waiters();
    }

    /// Returns whether another owner waits for memory.
    pub(super) fn blocks_others(&self) -> bool {
        let state = self.room.state();
        let own = state.parts.get(&self.number).map(|part| part.owner);
        state.parts.values().any(|part| part.is_waiting && Some(part.owner) != own)
    }

    fn try_grow(&self, to: u64) -> bool {
        let mut state = self.room.state();
        let may = state.may_grow(self.number, to, self.room.capacity);
        if may && let Some(part) = state.parts.get_mut(&self.number) {
            part.held = part.held.max(to.min(part.need));
        }
        may
    }

    fn change(&self, change: impl FnOnce(&mut Part)) {
        if let Some(part) = self.room.state().parts.get_mut(&self.number) {
            change(part);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.state().parts.remove(&self.number);
        self.room.freed.notify_waiters();
    }
}

impl State {
    fn may_grow(&self, number: u64, to: u64, capacity: u64) -> bool {
        let Some(part) = self.parts.get(&number) else { return false };
        let to = to.min(part.need);
        if to <= part.held {
            return true;
        }
        if part.held == 0 && !self.may_begin(number, part, capacity) {
            return false;
        }
        let held: u64 = self.parts.values().map(|part| part.held).sum();
        let Some(mut free) = capacity.checked_sub(held + to - part.held) else { return false };
        // In order of missing bytes: if all can be served in this order, there is no deadlock.
        let begun = self.parts.iter().filter(|(n, part)| **n == number || part.held > 0);
        let mut begun: Vec<(u64, u64)> = begun
            .map(|(n, part)| if *n == number { (part.need - to, to) } else { (part.need - part.held, part.held) })
            .collect();
        begun.sort_unstable();
        begun.into_iter().all(|(lacks, held)| {
            let is_served = lacks <= free;
            free += held;
            is_served
        })
    }

    /// Returns whether the owner may begin one more, and no earlier share needs most of the memory.
    fn may_begin(&self, number: u64, new: &Part, capacity: u64) -> bool {
        let quarter = capacity / 4;
        let others = self.parts.values().filter(|part| part.held > 0 && part.owner == new.owner);
        let (count, sum) = others.fold((0, 0), |(count, sum), part| (count + 1, sum + part.need));
        let limit = if new.owner.is_some() { capacity - quarter } else { quarter };
        let fits = count == 0 || sum + new.need <= limit;
        let earlier = self.parts.range(..number);
        let mut waiting = earlier.filter(|(_, part)| part.is_waiting && part.held == 0 && part.owner != new.owner);
        fits && (new.need <= quarter || waiting.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "so that it can stand beside `None`")]
    fn key(n: u128) -> Owner {
        Some(KeyId(Uuid::from_u128(n)))
    }

    #[test]
    fn begun_upload_does_not_block_smaller_ones_of_others() {
        let room = Room::new(64);
        let stalled = room.begin(key(1), 64);
        assert!(stalled.try_grow(1));
        let (large, small) = (room.begin(key(2), 64), room.begin(key(2), 40));
        assert!(!large.try_grow(1), "neither could be completed");
        assert!(small.try_grow(40));
        assert!(!stalled.try_grow(30));
        drop(small);
        assert!(stalled.try_grow(64));
        drop(stalled);
        assert!(large.try_grow(64));
    }

    #[test]
    fn one_key_leaves_a_quarter_to_others() {
        let room = Room::new(64);
        let all: Vec<Share> = (0..4).map(|_| room.begin(key(1), 20)).collect();
        let begun: Vec<bool> = all.iter().map(|share| share.try_grow(1)).collect();
        assert_eq!(begun, [true, true, false, false]);
        assert!(room.begin(key(2), 20).try_grow(1));
        assert!(room.begin(None, 64).try_grow(1) || room.begin(None, 16).try_grow(1));
    }

    #[test]
    fn callers_without_a_key_have_a_quarter() {
        let room = Room::new(64);
        let (one, two, three) = (room.begin(None, 8), room.begin(None, 8), room.begin(None, 8));
        assert!(one.try_grow(8) && two.try_grow(8) && !three.try_grow(8));
        drop(one);
        assert!(three.try_grow(8));
    }

    #[tokio::test]
    async fn waiting_share_grows_when_memory_is_released() {
        let room = Room::new(64);
        let first = room.reserve(key(1), 64, Duration::ZERO).await.unwrap();
        assert!(room.reserve(key(2), 30, Duration::ZERO).await.is_err());
        let second = tokio::spawn({
            let room = room.clone();
            async move { room.reserve(key(2), 30, Duration::from_secs(10)).await.map(drop) }
        });
        while !first.blocks_others() {
            tokio::task::yield_now().await;
        }
        first.shrink(34);
        second.await.unwrap().unwrap();
        assert!(!first.blocks_others());
        drop(first);
        assert!(room.state().parts.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn every_begun_share_can_be_completed(needs in proptest::collection::vec(1_u64..100, 1..20), steps in proptest::collection::vec((0_usize..20, 1_u64..30), 0..200)) {
            let room = Room::new(64);
            let owner = |n: usize| key(n as u128 % 3 + 1);
            let mut shares: Vec<_> = needs.iter().enumerate().map(|(n, need)| (room.begin(owner(n), *need), 0)).collect();
            for (n, step) in steps {
                let count = shares.len();
                let (share, held) = &mut shares[n % count];
                if share.try_grow(*held + step) {
                    *held += step;
                }
                let sum: u64 = room.state().parts.values().map(|part| part.held).sum();
                proptest::prop_assert!(sum <= 64);
            }
            // In every state, at least one share can be completed.
            while !shares.is_empty() {
                let done = shares.iter().position(|(share, held)| *held > 0 && share.try_grow(u64::MAX));
                let done = done.or_else(|| shares.iter().position(|(_, held)| *held == 0));
                proptest::prop_assert!(done.is_some(), "deadlock");
                shares.swap_remove(done.unwrap());
            }
        }
    }
}
