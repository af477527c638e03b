//! What this worker has in hand, in all and of each lane.
//!
//! A recipient is in one task's hand at a time. Where the worker claims one again that a task still has (its first lease
//! was lost meanwhile), no second task begins: the newer claim takes the place of the older, and whatever the task does
//! next it does under the newer one ([`InFlight::adopt_claim`]).

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::db::lanes::ReadyLane;
use crate::db::queue::Claimed;

/// What is held, and a signal when some of it is let go.
#[derive(Debug, Clone)]
pub(crate) struct InFlight(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    capacity: usize,
    held: Mutex<Held>,
    /// For the one that claims.
    freed: Notify,
    /// The same, of what is free for a claim again.
    given_back: Notify,
    /// For tasks that wait for certain rows, or for room.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// The newest claim of each.
    claims: HashMap<(Uuid, Uuid), Claimed>,
    by_lane: HashMap<i64, LaneInFlight>,
}

/// What is in hand of a lane.
#[derive(Debug, Clone, Default)]
pub(crate) struct LaneInFlight {
    /// Recipients.
    pub rows: usize,
    /// Mails, and how many recipients each has in hand.
    mails: HashMap<Uuid, usize>,
    /// The lane as it was when last claimed from; none where it was closed.
    pub lane: Option<Arc<ReadyLane>>,
}

impl LaneInFlight {
    /// Mails, each of which takes one connection at a time.
    pub(crate) fn mails(&self) -> usize {
        self.mails.len()
    }

    /// Those mails.
    pub(crate) fn messages(&self) -> impl Iterator<Item = Uuid> {
        self.mails.keys().copied()
    }
}

impl InFlight {
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Arc::new(Inner {
            capacity,
            held: Mutex::default(),
            freed: Notify::new(),
            given_back: Notify::new(),
            changed: Notify::new(),
        }))
    }

    /// How many more may be taken.
    pub(crate) fn free(&self) -> usize {
        self.0.capacity.saturating_sub(self.len())
    }

    /// How many are in hand.
    pub(crate) fn len(&self) -> usize {
        self.held(|held| held.claims.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is in hand, lane by lane.
    pub(crate) fn by_lane(&self) -> HashMap<i64, LaneInFlight> {
        self.held(|held| held.by_lane.clone())
    }

    /// A lane of which something is in hand, as it was when last claimed from.
    pub(crate) fn lane(&self, id: i64) -> Option<Arc<ReadyLane>> {
        self.held(|held| held.by_lane.get(&id)?.lane.clone())
    }

    /// Whether this recipient is in hand, under whichever claim.
    pub(crate) fn contains(&self, row: &Claimed) -> bool {
        self.held(|held| held.claims.contains_key(&row.key()))
    }

    /// Takes what was claimed from these lanes. Answers what no task has yet.
    pub(crate) fn insert(&self, claimed: Vec<Claimed>, lanes: &[Arc<ReadyLane>]) -> Vec<Claimed> {
        self.held(|held| {
            let new: Vec<Claimed> = claimed.into_iter().filter(|row| held.add(row)).collect();
            held.know(lanes, |known, lane| *known = Some(lane.clone()));
            new
        })
    }

    /// Takes new mail of these lanes, of which nothing has been claimed for it: what a claim has told of a lane stays as it is.
    pub(crate) fn insert_new(&self, rows: &[Claimed], lanes: &[Arc<ReadyLane>]) {
        self.held(|held| {
            for row in rows {
                held.add(row);
            }
            held.know(lanes, |known, lane| {
                known.get_or_insert_with(|| lane.clone());
            });
        });
    }

    /// Puts the newest claim of this recipient in place of an older one.
    pub(crate) fn adopt_claim(&self, row: &mut Claimed) {
        self.held(|held| {
            if let Some(newest) = held.claims.get(&row.key()) {
                (row.lease, row.claims) = (newest.lease, newest.claims);
            }
        });
    }

    /// Lets go of claims. Answers newer claims of the same recipients, which came in between and stay in hand: nobody
    /// works on them, so they have to be given back.
    pub(crate) fn release<'a>(&self, claimed: impl Iterator<Item = &'a Claimed>) -> Vec<Claimed> {
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
        self.0.changed.notify_waiters();
        newer
    }

    /// Waits until none of these is in hand any more.
    pub(crate) async fn gone(&self, rows: &[Claimed]) {
        self.when(|in_flight| rows.iter().all(|row| !in_flight.contains(row)).then_some(())).await;
    }

    /// Waits until more hands are free than are to stay so, and answers how many more.
    pub(crate) async fn room_beside(&self, kept: usize) -> usize {
        self.when(|in_flight| in_flight.free().checked_sub(kept).filter(|room| *room > 0)).await
    }

    async fn when<T>(&self, reached: impl Fn(&Self) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            // Before the look, so that nothing is missed in between.
            changed.as_mut().enable();
            if let Some(reached) = reached(self) {
                return reached;
            }
            changed.await;
        }
    }

    /// Tells the one that claims that there is something to claim again.
    pub(crate) fn note_given_back(&self) {
        self.0.given_back.notify_one();
    }

    /// Waits until some were given back since this was last awaited.
    pub(crate) async fn given_back(&self) {
        self.0.given_back.notified().await;
    }

    /// Waits until some were let go since this was last awaited.
    pub(crate) async fn freed(&self) {
        self.0.freed.notified().await;
    }

    fn held<T>(&self, look: impl FnOnce(&mut Held) -> T) -> T {
        look(&mut self.0.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Held {
    /// Answers whether it was not in hand before.
    fn add(&mut self, row: &Claimed) -> bool {
        let newer = row.clone();
        match self.claims.insert(row.key(), newer) {
            None => {
                let in_lane = self.by_lane.entry(row.lane_id).or_default();
                in_lane.rows += 1;
                *in_lane.mails.entry(row.message_id).or_default() += 1;
                true
            }
            Some(older) => {
                // It may have been moved to another lane meanwhile: it stays counted where it was, until it is let go.
                if let Some(claim) = self.claims.get_mut(&row.key()) {
                    claim.lane_id = older.lane_id;
                }
                false
            }
        }
    }

    /// Tells of these lanes, where something of them is in hand.
    fn know(&mut self, lanes: &[Arc<ReadyLane>], tell: impl Fn(&mut Option<Arc<ReadyLane>>, &Arc<ReadyLane>)) {
        for lane in lanes {
            if let Some(in_lane) = self.by_lane.get_mut(&lane.id) {
                tell(&mut in_lane.lane, lane);
            }
        }
    }

    fn remove(&mut self, row: &Claimed) {
        let Some(claim) = self.claims.remove(&row.key()) else { return };
        let Some(in_lane) = self.by_lane.get_mut(&claim.lane_id) else { return };
        in_lane.rows -= 1;
        if let Some(left) = in_lane.mails.get_mut(&claim.message_id) {
            *left -= 1;
            if *left == 0 {
                in_lane.mails.remove(&claim.message_id);
            }
        }
        if in_lane.rows == 0 {
            self.by_lane.remove(&claim.lane_id);
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
            crashes: 0,
            first_due_at: DateTime::UNIX_EPOCH,
            lease: Uuid::nil(),
            claims,
        }
    }

    fn of_lane(in_flight: &InFlight, lane: i64) -> usize {
        in_flight.by_lane().get(&lane).map_or(0, |in_lane| in_lane.rows)
    }

    #[test]
    fn what_is_taken_is_counted_until_let_go_and_only_once() {
        let in_flight = InFlight::new(3);
        let rows = [claimed(1, 1, 1), claimed(2, 1, 1), claimed(3, 2, 1)];
        assert_eq!(in_flight.insert(rows.to_vec(), &[]).len(), 3);
        assert_eq!((in_flight.free(), of_lane(&in_flight, 1), of_lane(&in_flight, 2)), (0, 2, 1));
        assert!(in_flight.release(rows[1..].iter()).is_empty());
        assert!(in_flight.release(rows[1..].iter()).is_empty());
        assert_eq!((in_flight.free(), of_lane(&in_flight, 1), of_lane(&in_flight, 2)), (2, 1, 0));
        assert!(in_flight.contains(&rows[0]) && !in_flight.contains(&rows[1]));
    }

    #[test]
    fn new_mail_changes_nothing_of_what_a_claim_has_told_of_its_lane() {
        let lane = |rate| {
            Arc::new(ReadyLane {
                id: 1,
                tenant_id: Uuid::nil(),
                stream: "bulk".into(),
                route: "relay".into(),
                domain: "*".into(),
                priority: 50,
                weight: 10,
                ready_at: DateTime::UNIX_EPOCH,
                connections: None,
                mails_per_connection: None,
                rate,
                learned_rate: None,
                blocked_since: None,
                stream_rate: None,
                stream_concurrency: None,
            })
        };
        let rate = |in_flight: &InFlight| in_flight.lane(1).and_then(|lane| lane.rate);
        let in_flight = InFlight::new(3);
        in_flight.insert_new(&[claimed(1, 1, 0)], &[lane(None)]);
        assert!(in_flight.lane(1).is_some() && rate(&in_flight).is_none());
        in_flight.insert(vec![claimed(2, 1, 1)], &[lane(Some(3.0))]);
        in_flight.insert_new(&[claimed(3, 1, 0)], &[lane(None)]);
        assert_eq!((rate(&in_flight), in_flight.len()), (Some(3.0), 3));
    }

    #[test]
    fn a_second_claim_starts_no_second_task_and_is_not_forgotten_with_the_first() {
        let in_flight = InFlight::new(3);
        let (mut first, second) = (claimed(1, 1, 1), claimed(1, 1, 2));
        in_flight.insert(vec![first.clone()], &[]);
        assert!(in_flight.insert(vec![second.clone()], &[]).is_empty());
        assert_eq!(in_flight.release([&first].into_iter()).len(), 1, "the newer claim has to be given back");
        assert_eq!(in_flight.len(), 1);
        in_flight.adopt_claim(&mut first);
        assert_eq!(first.claims, second.claims);
        assert!(in_flight.release([&first].into_iter()).is_empty());
        assert!(in_flight.is_empty());
    }
}
