//! What this worker has in hand, in all and of each lane.
//!
//! A recipient is in one task's hand at a time. Where the worker claims one again that a task still has (its first lease
//! was lost meanwhile), no second task begins: the newer claim takes the place of the older, and whatever the task does
//! next it does under the newer one ([`Hands::refresh`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::db::queue::Claimed;

/// What is held, and a signal when some of it is let go.
#[derive(Debug, Clone)]
pub(super) struct Hands(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    capacity: usize,
    held: Mutex<Held>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// The newest claim of each.
    claims: HashMap<(Uuid, Uuid), Claimed>,
    by_lane: HashMap<i64, usize>,
}

impl Hands {
    pub(super) fn new(capacity: usize) -> Self {
        Self(Arc::new(Inner { capacity, held: Mutex::default(), freed: Notify::new() }))
    }

    /// How many more may be taken.
    pub(super) fn free(&self) -> usize {
        self.0.capacity.saturating_sub(self.len())
    }

    /// How many are in hand.
    pub(super) fn len(&self) -> usize {
        self.held(|held| held.claims.len())
    }

    pub(super) fn are_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of a lane are in hand.
    pub(super) fn of_lane(&self, lane: i64) -> usize {
        self.held(|held| held.by_lane.get(&lane).copied().unwrap_or(0))
    }

    /// Whether this recipient is in hand, under whichever claim.
    pub(super) fn has(&self, row: &Claimed) -> bool {
        self.held(|held| held.claims.contains_key(&row.key()))
    }

    /// Takes what was claimed. Answers what no task has yet.
    pub(super) fn take(&self, claimed: Vec<Claimed>) -> Vec<Claimed> {
        self.held(|held| {
            let is_new = |row: &Claimed| {
                let is_new = held.claims.insert(row.key(), row.clone()).is_none();
                if is_new {
                    *held.by_lane.entry(row.lane_id).or_default() += 1;
                }
                is_new
            };
            claimed.into_iter().filter(is_new).collect()
        })
    }

    /// Puts the newest claim of this recipient in place of an older one.
    pub(super) fn refresh(&self, row: &mut Claimed) {
        self.held(|held| {
            if let Some(newest) = held.claims.get(&row.key()) {
                (row.lease, row.claims) = (newest.lease, newest.claims);
            }
        });
    }

    /// Lets go of claims. Answers newer claims of the same recipients, which came in between and stay in hand: nobody
    /// works on them, so they have to be given back.
    pub(super) fn let_go<'a>(&self, claimed: impl Iterator<Item = &'a Claimed>) -> Vec<Claimed> {
        let newer = self.held(|held| {
            let mut newer = Vec::new();
            for row in claimed {
                match held.claims.get(&row.key()) {
                    None => {}
                    Some(newest) if newest.claims != row.claims => newer.push(newest.clone()),
                    Some(_) => held.remove(row),
                }
            }
            newer
        });
        self.0.freed.notify_one();
        newer
    }

    /// Waits until some were let go since this was last awaited.
    pub(super) async fn freed(&self) {
        self.0.freed.notified().await;
    }

    fn held<T>(&self, look: impl FnOnce(&mut Held) -> T) -> T {
        look(&mut self.0.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Held {
    fn remove(&mut self, row: &Claimed) {
        self.claims.remove(&row.key());
        if let Some(count) = self.by_lane.get_mut(&row.lane_id) {
            *count -= 1;
            if *count == 0 {
                self.by_lane.remove(&row.lane_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn claimed(n: u128, lane_id: i64, claims: i32) -> Claimed {
        Claimed {
            message_id: Uuid::from_u128(n),
            recipient_id: Uuid::from_u128(n),
            tenant_id: Uuid::nil(),
            lane_id,
            attempts: 0,
            first_due_at: DateTime::UNIX_EPOCH,
            lease: Uuid::nil(),
            claims,
        }
    }

    #[test]
    fn what_is_taken_is_counted_until_let_go_and_only_once() {
        let hands = Hands::new(3);
        let rows = [claimed(1, 1, 1), claimed(2, 1, 1), claimed(3, 2, 1)];
        assert_eq!(hands.take(rows.to_vec()).len(), 3);
        assert_eq!((hands.free(), hands.of_lane(1), hands.of_lane(2)), (0, 2, 1));
        assert!(hands.let_go(rows[1..].iter()).is_empty());
        assert!(hands.let_go(rows[1..].iter()).is_empty());
        assert_eq!((hands.free(), hands.of_lane(1), hands.of_lane(2)), (2, 1, 0));
        assert!(hands.has(&rows[0]) && !hands.has(&rows[1]));
    }

    #[test]
    fn a_second_claim_starts_no_second_task_and_is_not_forgotten_with_the_first() {
        let hands = Hands::new(3);
        let (mut first, second) = (claimed(1, 1, 1), claimed(1, 1, 2));
        hands.take(vec![first.clone()]);
        assert!(hands.take(vec![second.clone()]).is_empty());
        assert_eq!(hands.let_go([&first].into_iter()).len(), 1, "the newer claim has to be given back");
        assert_eq!(hands.len(), 1);
        hands.refresh(&mut first);
        assert_eq!(first.claims, second.claims);
        assert!(hands.let_go([&first].into_iter()).is_empty());
        assert!(hands.are_empty());
    }
}
