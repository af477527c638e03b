//! The recipients that this worker has in flight, in total and by lane.
//!
//! Each recipient belongs to one task at a time. If a lease was lost, the worker may claim the recipient again while a
//! task still has it. No second task starts then: the newer claim replaces the older one, and the task continues with
//! the newer one ([`InFlight::adopt_claim`]).

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::db::lanes::ReadyLane;
use crate::db::queue::Claimed;

/// The recipients in flight, and signals for their changes. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct InFlight(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    capacity: usize,
    state: Mutex<State>,
    /// Wakes the claimer when capacity is free.
    released: Notify,
    /// Wakes the claimer when recipients were released to the queue.
    requeued: Notify,
    /// Wakes tasks that wait for certain recipients, or for capacity.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The newest claim of each recipient.
    claims: HashMap<(Uuid, Uuid), Claimed>,
    by_lane: HashMap<i64, LaneInFlight>,
}

/// The recipients of one lane that are in flight.
#[derive(Debug, Clone, Default)]
pub(crate) struct LaneInFlight {
    /// The number of recipients.
    pub recipients: usize,
    /// The number of recipients of each message.
    messages: HashMap<Uuid, usize>,
    /// The lane as of its latest claim, or `None` if it was closed.
    pub lane: Option<Arc<ReadyLane>>,
}

/// The number of recipients and messages of one lane that are in flight.
#[derive(Debug, Clone)]
pub(crate) struct LaneUsage {
    /// The number of recipients.
    pub recipients: usize,
    /// The number of messages; each uses one connection at a time.
    pub messages: usize,
    /// The lane as of its latest claim, or `None` if it was closed.
    pub lane: Option<Arc<ReadyLane>>,
}

impl LaneInFlight {
    /// Returns the number of messages; each uses one connection at a time.
    pub(crate) fn message_count(&self) -> usize {
        self.messages.len()
    }

    /// Iterates over the ids of these messages.
    pub(crate) fn messages(&self) -> impl Iterator<Item = Uuid> {
        self.messages.keys().copied()
    }
}

impl InFlight {
    /// Creates an empty set for at most `capacity` recipients.
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Arc::new(Shared {
            capacity,
            state: Mutex::default(),
            released: Notify::new(),
            requeued: Notify::new(),
            changed: Notify::new(),
        }))
    }

    /// Returns how many recipients may be in flight.
    pub(crate) fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// Returns how many more recipients may be claimed.
    pub(crate) fn free(&self) -> usize {
        self.0.capacity.saturating_sub(self.len())
    }

    /// Returns how many recipients are in flight.
    pub(crate) fn len(&self) -> usize {
        self.with(|state| state.claims.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the recipients in flight, by lane.
    pub(crate) fn by_lane(&self) -> HashMap<i64, LaneInFlight> {
        self.with(|state| state.by_lane.clone())
    }

    /// Returns how much each lane has in flight, without the ids of its messages.
    pub(crate) fn usage(&self) -> HashMap<i64, LaneUsage> {
        let usage = |in_lane: &LaneInFlight| LaneUsage {
            recipients: in_lane.recipients,
            messages: in_lane.messages.len(),
            lane: in_lane.lane.clone(),
        };
        self.with(|state| state.by_lane.iter().map(|(id, in_lane)| (*id, usage(in_lane))).collect())
    }

    /// Returns a lane with recipients in flight, as of its latest claim.
    pub(crate) fn lane(&self, id: i64) -> Option<Arc<ReadyLane>> {
        self.with(|state| state.by_lane.get(&id)?.lane.clone())
    }

    /// Returns those of these lanes that have recipients in flight, as of their latest claims.
    pub(crate) fn lanes(&self, ids: impl Iterator<Item = i64>) -> HashMap<i64, Arc<ReadyLane>> {
        self.with(|state| ids.filter_map(|id| Some((id, state.by_lane.get(&id)?.lane.clone()?))).collect())
    }

    /// Returns whether this recipient is in flight, under any claim.
    pub(crate) fn contains(&self, row: &Claimed) -> bool {
        self.with(|state| state.claims.contains_key(&row.key()))
    }

    /// Adds recipients claimed from these lanes. Returns those that no task has yet.
    pub(crate) fn insert(&self, claimed: Vec<Claimed>, lanes: &[Arc<ReadyLane>]) -> Vec<Claimed> {
        self.with(|state| {
            let new: Vec<Claimed> = claimed.into_iter().filter(|row| state.insert(row)).collect();
            state.update_lanes(lanes, |known, lane| *known = Some(lane.clone()));
            new
        })
    }

    /// Adds recipients of new messages, which were not claimed. A lane that a claim has read is not replaced.
    pub(crate) fn insert_new(&self, rows: &[Claimed], lanes: &[Arc<ReadyLane>]) {
        self.with(|state| {
            for row in rows {
                state.insert(row);
            }
            state.update_lanes(lanes, |known, lane| {
                known.get_or_insert_with(|| lane.clone());
            });
        });
    }

    /// Replaces an older claim of this recipient by the newest one.
    pub(crate) fn adopt_claim(&self, row: &mut Claimed) {
        self.with(|state| {
            if let Some(newest) = state.claims.get(&row.key()) {
                (row.lease, row.claims) = (newest.lease, newest.claims);
            }
        });
    }

    /// Removes these claims. Returns newer claims of the same recipients, which stay in flight without a task: the
    /// caller has to release them to the queue.
    pub(crate) fn release<'a>(&self, claimed: impl Iterator<Item = &'a Claimed>) -> Vec<Claimed> {
        let newer = self.with(|state| {
            let mut newer = Vec::new();
            for row in claimed {
                match state.claims.get(&row.key()) {
                    None => {}
                    Some(newest) if newest.claims != row.claims => newer.push(newest.clone()),
                    Some(_) => state.remove(row),
                }
            }
            newer
        });
        self.0.released.notify_one();
        self.0.changed.notify_waiters();
        newer
    }

    /// Waits until none of these recipients is in flight.
    pub(crate) async fn wait_until_released(&self, rows: &[Claimed]) {
        self.wait_for(|in_flight| rows.iter().all(|row| !in_flight.contains(row)).then_some(())).await;
    }

    /// Waits until more than `reserve` recipients may be claimed, and returns how many more.
    pub(crate) async fn wait_for_capacity(&self, reserve: usize) -> usize {
        self.wait_for(|in_flight| in_flight.free().checked_sub(reserve).filter(|free| *free > 0)).await
    }

    async fn wait_for<T>(&self, reached: impl Fn(&Self) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            // Enabled before the check, so that no change in between is missed.
            changed.as_mut().enable();
            if let Some(reached) = reached(self) {
                return reached;
            }
            changed.await;
        }
    }

    /// Notifies the claimer that recipients were released to the queue.
    pub(crate) fn notify_requeued(&self) {
        self.0.requeued.notify_one();
    }

    /// Waits until recipients have been released to the queue since the last call.
    pub(crate) async fn requeued(&self) {
        self.0.requeued.notified().await;
    }

    /// Waits until claims have been removed since the last call.
    pub(crate) async fn released(&self) {
        self.0.released.notified().await;
    }

    fn with<T>(&self, access: impl FnOnce(&mut State) -> T) -> T {
        access(&mut self.0.state.lock())
    }
}

impl State {
    /// Adds a claim. Returns whether its recipient was not in flight before.
    fn insert(&mut self, row: &Claimed) -> bool {
        match self.claims.insert(row.key(), row.clone()) {
            None => {
                let in_lane = self.by_lane.entry(row.lane_id).or_default();
                in_lane.recipients += 1;
                *in_lane.messages.entry(row.message_id).or_default() += 1;
                true
            }
            Some(older) => {
                // The recipient may have moved to another lane since then: it counts towards the old lane until
                // it is released.
                if let Some(claim) = self.claims.get_mut(&row.key()) {
                    claim.lane_id = older.lane_id;
                }
                false
            }
        }
    }

    /// Applies `update` to each of `lanes` that has recipients in flight.
    fn update_lanes(
        &mut self,
        lanes: &[Arc<ReadyLane>],
        update: impl Fn(&mut Option<Arc<ReadyLane>>, &Arc<ReadyLane>),
    ) {
        for lane in lanes {
            if let Some(in_lane) = self.by_lane.get_mut(&lane.id) {
                update(&mut in_lane.lane, lane);
            }
        }
    }

    fn remove(&mut self, row: &Claimed) {
        let Some(claim) = self.claims.remove(&row.key()) else { return };
        let Some(in_lane) = self.by_lane.get_mut(&claim.lane_id) else { return };
        in_lane.recipients -= 1;
        if let Some(left) = in_lane.messages.get_mut(&claim.message_id) {
            *left -= 1;
            if *left == 0 {
                in_lane.messages.remove(&claim.message_id);
            }
        }
        if in_lane.recipients == 0 {
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

    fn lane_count(in_flight: &InFlight, lane: i64) -> usize {
        in_flight.by_lane().get(&lane).map_or(0, |in_lane| in_lane.recipients)
    }

    #[test]
    fn recipients_count_once_until_they_are_released() {
        let in_flight = InFlight::new(3);
        let rows = [claimed(1, 1, 1), claimed(2, 1, 1), claimed(3, 2, 1)];
        assert_eq!(in_flight.insert(rows.to_vec(), &[]).len(), 3);
        assert_eq!((in_flight.free(), lane_count(&in_flight, 1), lane_count(&in_flight, 2)), (0, 2, 1));
        assert!(in_flight.release(rows[1..].iter()).is_empty());
        assert!(in_flight.release(rows[1..].iter()).is_empty());
        assert_eq!((in_flight.free(), lane_count(&in_flight, 1), lane_count(&in_flight, 2)), (2, 1, 0));
        assert!(in_flight.contains(&rows[0]) && !in_flight.contains(&rows[1]));
    }

    #[test]
    fn new_messages_do_not_replace_a_lane_read_by_a_claim() {
        let lane = |rate| {
            Arc::new(ReadyLane {
                id: 1,
                tenant_id: Uuid::nil(),
                stream: "bulk".into(),
                route: "relay".into(),
                domain: "*".into(),
                priority: 50,
                weight: 10,
                tenant_weight: 100,
                ready_at: DateTime::UNIX_EPOCH,
                connections: None,
                messages_per_connection: None,
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
    fn second_claim_starts_no_second_task_and_outlives_the_first() {
        let in_flight = InFlight::new(3);
        let (mut first, second) = (claimed(1, 1, 1), claimed(1, 1, 2));
        in_flight.insert(vec![first.clone()], &[]);
        assert!(in_flight.insert(vec![second.clone()], &[]).is_empty());
        assert_eq!(in_flight.release([&first].into_iter()).len(), 1, "the newer claim has to be released");
        assert_eq!(in_flight.len(), 1);
        in_flight.adopt_claim(&mut first);
        assert_eq!(first.claims, second.claims);
        assert!(in_flight.release([&first].into_iter()).is_empty());
        assert!(in_flight.is_empty());
    }
}
