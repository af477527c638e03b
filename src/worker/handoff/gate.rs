//! Decides which new messages may be handed off directly, from the results of claims: only while claims leave nothing
//! due, only in streams that a claim has read recently, and only in lanes that were not closed for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::db::lanes::{NamedLane, ReadyLane};

/// Maximum number of entries in each map; when it is reached, all of them are removed.
const MAX_ENTRIES: usize = 8_192;
/// How long a lane stays closed. After it, the lane's next message may be handed off, because the limits may have been
/// removed.
const CLOSED_TTL: Duration = Duration::from_secs(10);
/// How long a stream's priority and weights are used. After it, the stream's next message is claimed, because they may
/// have changed. Until then, messages are at most handed off with the old ones, and only while no others are due (`docs/tenants.md`); the
/// transaction that commits them checks limits, pauses and suspensions itself.
const STREAM_TTL: Duration = Duration::from_mins(5);

/// Decides which messages may be handed off, from what the latest claims found.
#[derive(Debug, Default)]
pub(crate) struct HandoffGate {
    /// Whether the last claim leased every due recipient.
    is_open: AtomicBool,
    lanes: Mutex<Lanes>,
}

#[derive(Debug, Default)]
struct Lanes {
    /// The priority of each stream that had no limits when a claim last read it, by tenant and name.
    streams: HashMap<Uuid, HashMap<String, (Instant, Priority)>>,
    /// Lanes whose messages are not handed off, with the time at which they were closed.
    closed: HashMap<i64, Instant>,
}

/// The values by which capacity is allocated among tenants and their streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Priority {
    stream: i16,
    weight: i16,
    tenant_weight: i16,
}

impl HandoffGate {
    /// Records the lanes that a claim has read.
    pub(crate) fn note_claim(&self, ready: &[Arc<ReadyLane>]) {
        let (mut lanes, now) = (self.lanes(), Instant::now());
        for lane in ready {
            lanes.note(lane, now);
        }
    }

    /// Stops handing off messages of a lane in which a reserved message stayed in the queue, because the lane is
    /// paused, unreachable or limited, or an older message waits in it.
    pub(crate) fn close_lane(&self, lane: i64) {
        insert_bounded(&mut self.lanes().closed, lane, Instant::now());
    }

    /// Opens or closes the gate. It must be open only while a claim would find no recipients older than the messages
    /// that are accepted now.
    pub(crate) fn set_open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Relaxed);
    }

    /// Returns whether any message may be handed off.
    pub(crate) fn allows(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Returns the lanes whose messages may be handed off, as far as this process knows. The transaction that commits
    /// the messages checks whether these lanes are in fact open, without limits and empty.
    pub(crate) fn open_lanes<'a>(&self, lanes: impl Iterator<Item = &'a NamedLane>) -> HashMap<i64, Arc<ReadyLane>> {
        let mut open = HashMap::new();
        {
            let known = self.lanes();
            for lane in lanes {
                if !open.contains_key(&lane.id)
                    && let Some(priority) = known.priority(lane)
                {
                    open.insert(lane.id, (lane, priority));
                }
            }
        }
        open.into_iter().map(|(id, (lane, priority))| (id, Arc::new(unlimited(lane, priority)))).collect()
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock()
    }
}

impl Lanes {
    fn note(&mut self, lane: &ReadyLane, now: Instant) {
        if lane.is_stream_limited() {
            // Messages in a limited stream are not handed off.
            if let Some(streams) = self.streams.get_mut(&lane.tenant_id) {
                streams.remove(&lane.stream);
            }
            return;
        }
        if !self.streams.contains_key(&lane.tenant_id) {
            insert_bounded(&mut self.streams, lane.tenant_id, HashMap::new());
        }
        let ReadyLane { priority, weight, tenant_weight, .. } = *lane;
        let priority = Priority { stream: priority, weight, tenant_weight };
        if let Some(streams) = self.streams.get_mut(&lane.tenant_id) {
            match streams.get_mut(&lane.stream) {
                Some(known) => *known = (now, priority),
                None => insert_bounded(streams, lane.stream.clone(), (now, priority)),
            }
        }
        if lane.allows_direct_handoff() {
            self.closed.remove(&lane.id);
        } else {
            insert_bounded(&mut self.closed, lane.id, now);
        }
    }

    /// Returns the priority of this lane's stream, if its messages may be handed off.
    fn priority(&self, lane: &NamedLane) -> Option<Priority> {
        if self.closed.get(&lane.id).is_some_and(|since| since.elapsed() < CLOSED_TTL) {
            return None;
        }
        let (since, priority) = self.streams.get(&lane.name.tenant.0)?.get(&lane.name.stream)?;
        (since.elapsed() < STREAM_TTL).then_some(*priority)
    }
}

/// Inserts an entry into a map of limited size, which is emptied when it is full.
fn insert_bounded<K: Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: V) {
    if map.len() >= MAX_ENTRIES && !map.contains_key(&key) {
        map.clear();
    }
    map.insert(key, value);
}

/// Returns a lane as a claim would read it, without limits and without waiting recipients.
fn unlimited(lane: &NamedLane, Priority { stream: priority, weight, tenant_weight }: Priority) -> ReadyLane {
    let name = &*lane.name;
    ReadyLane {
        id: lane.id,
        tenant_id: name.tenant.0,
        stream: name.stream.clone(),
        route: name.route.clone(),
        domain: name.domain.clone(),
        priority,
        weight,
        tenant_weight,
        ready_at: DateTime::<Utc>::MAX_UTC,
        connections: None,
        messages_per_connection: None,
        rate: None,
        learned_rate: None,
        blocked_since: None,
        stream_rate: None,
        stream_concurrency: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::lanes::LaneName;
    use crate::domain::id::TenantId;

    fn lane(id: i64, stream: &str) -> NamedLane {
        let (route, domain) = ("mx".into(), format!("d{id}.test"));
        NamedLane { id, name: Arc::new(LaneName { tenant: TenantId::DEFAULT, stream: stream.into(), route, domain }) }
    }

    /// Returns the lane as a claim reads it.
    fn ready(lane: &NamedLane, change: impl FnOnce(&mut ReadyLane)) -> Arc<ReadyLane> {
        let mut ready = unlimited(lane, Priority { stream: 10, weight: 3, tenant_weight: 100 });
        change(&mut ready);
        Arc::new(ready)
    }

    fn open<const N: usize>(gate: &HandoffGate, lanes: [&NamedLane; N]) -> Vec<i64> {
        let mut open: Vec<i64> = gate.open_lanes(lanes.into_iter()).into_keys().collect();
        open.sort_unstable();
        open
    }

    #[test]
    fn lane_opens_once_its_streams_priority_is_known() {
        let gate = HandoffGate::default();
        let (first, second, other) = (lane(1, "news"), lane(2, "news"), lane(3, "digest"));
        let all = [&first, &second, &other];
        assert!(open(&gate, all).is_empty());
        gate.note_claim(&[ready(&first, |_| {})]);
        assert_eq!(open(&gate, all), [1, 2]);
        let open_lane = &gate.open_lanes([&second].into_iter())[&2];
        assert_eq!((open_lane.priority, open_lane.weight, &*open_lane.domain), (10, 3, "d2.test"));
    }

    #[test]
    fn closed_lane_opens_when_a_claim_finds_it_open() {
        let (gate, lanes) = (HandoffGate::default(), [&lane(1, "news"), &lane(2, "news")]);
        gate.note_claim(&[ready(lanes[0], |_| {})]);
        gate.close_lane(2);
        assert_eq!(open(&gate, lanes), [1]);
        gate.note_claim(&[ready(lanes[1], |_| {})]);
        assert_eq!(open(&gate, lanes), [1, 2]);
    }

    #[test]
    fn limited_and_unreachable_lanes_are_not_handed_off() {
        let changes: [fn(&mut ReadyLane); 5] = [
            |lane| lane.rate = Some(1.0),
            |lane| lane.connections = Some(1),
            |lane| lane.messages_per_connection = Some(1),
            |lane| lane.blocked_since = Some(DateTime::UNIX_EPOCH),
            |lane| (lane.rate, lane.learned_rate) = (Some(1.0), Some(1.0)),
        ];
        for change in changes {
            let (gate, lanes) = (HandoffGate::default(), [&lane(1, "news"), &lane(2, "news")]);
            gate.note_claim(&[ready(lanes[0], change)]);
            assert_eq!(open(&gate, lanes), [2]);
            gate.note_claim(&[ready(lanes[0], |_| {})]);
            assert_eq!(open(&gate, lanes), [1, 2]);
        }
    }

    #[test]
    fn lanes_of_a_limited_stream_are_not_handed_off() {
        let changes: [fn(&mut ReadyLane); 2] =
            [|lane| lane.stream_rate = Some(1.0), |lane| lane.stream_concurrency = Some(1)];
        for change in changes {
            let (gate, lanes) = (HandoffGate::default(), [&lane(1, "news"), &lane(2, "news")]);
            gate.note_claim(&[ready(lanes[0], |_| {})]);
            gate.note_claim(&[ready(lanes[0], change)]);
            assert!(open(&gate, lanes).is_empty());
        }
    }
}
