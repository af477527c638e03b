//! What this worker has in hand, in all and of each lane.

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
    lanes: HashMap<(Uuid, Uuid), i64>,
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
        self.held(|held| held.lanes.len())
    }

    pub(super) fn are_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of a lane are in hand.
    pub(super) fn of_lane(&self, lane: i64) -> usize {
        self.held(|held| held.by_lane.get(&lane).copied().unwrap_or(0))
    }

    /// Everything in hand: message and recipient.
    pub(super) fn keys(&self) -> Vec<(Uuid, Uuid)> {
        self.held(|held| held.lanes.keys().copied().collect())
    }

    /// Takes what was claimed.
    pub(super) fn take(&self, claimed: &[Claimed]) {
        self.held(|held| {
            for row in claimed {
                if held.lanes.insert(row.key(), row.lane_id).is_none() {
                    *held.by_lane.entry(row.lane_id).or_default() += 1;
                }
            }
        });
    }

    /// Lets go; what is not in hand is passed over.
    pub(super) fn let_go<'a>(&self, claimed: impl Iterator<Item = &'a Claimed>) {
        self.held(|held| {
            for row in claimed {
                let Some(lane) = held.lanes.remove(&row.key()) else { continue };
                if let Some(count) = held.by_lane.get_mut(&lane) {
                    *count -= 1;
                    if *count == 0 {
                        held.by_lane.remove(&lane);
                    }
                }
            }
        });
        self.0.freed.notify_one();
    }

    /// Waits until some were let go since this was last awaited.
    pub(super) async fn freed(&self) {
        self.0.freed.notified().await;
    }

    fn held<T>(&self, look: impl FnOnce(&mut Held) -> T) -> T {
        look(&mut self.0.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn claimed(n: u128, lane_id: i64) -> Claimed {
        Claimed {
            message_id: Uuid::from_u128(n),
            recipient_id: Uuid::from_u128(n),
            tenant_id: Uuid::nil(),
            lane_id,
            attempts: 0,
            first_due_at: DateTime::UNIX_EPOCH,
            lease: Uuid::nil(),
            claims: 1,
        }
    }

    #[test]
    fn what_is_taken_is_counted_until_let_go_and_only_once() {
        let hands = Hands::new(3);
        let rows = [claimed(1, 1), claimed(2, 1), claimed(3, 2)];
        hands.take(&rows);
        assert_eq!((hands.free(), hands.of_lane(1), hands.of_lane(2)), (0, 2, 1));
        hands.let_go(rows[1..].iter());
        hands.let_go(rows[1..].iter());
        assert_eq!((hands.free(), hands.of_lane(1), hands.of_lane(2)), (2, 1, 0));
        assert_eq!(hands.keys(), [rows[0].key()]);
    }
}
