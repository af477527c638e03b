//! When new mail may be handed over ([`super::direct`]), as claims tell it: while they take all that could go, of streams that they
//! have seen, in lanes that are not known to have a reason against it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::db::lanes::{NamedLane, ReadyLane};

/// Tenants and lanes remembered; with more in use the memory starts anew.
const REMEMBERED: usize = 8_192;
/// For how long. Somebody may have changed how urgent a stream is: after that its next mail is claimed. And a lane may have lost its
/// limits: after that its next mail is offered again.
const CACHE_TTL: Duration = Duration::from_secs(10);

/// What claims have told.
#[derive(Debug, Default)]
pub(crate) struct HandoffGate {
    /// Whether the last claim took all that could go.
    is_calm: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// How urgent streams were when last claimed from, by tenant and name. None of them has limits.
    streams: HashMap<Uuid, HashMap<String, (Instant, Urgency)>>,
    /// Lanes whose mail is not to be offered, and since when.
    closed: HashMap<i64, Instant>,
}

/// What mail is divided by among the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Urgency {
    priority: i16,
    weight: i16,
}

impl HandoffGate {
    /// Lanes that have been claimed from.
    pub(crate) fn remember(&self, ready: &[Arc<ReadyLane>]) {
        let (mut seen, now) = (self.seen(), Instant::now());
        for lane in ready {
            seen.remember(lane, now);
        }
    }

    /// Lanes that kept what was offered of them: they are paused, blocked, limited or have something older.
    pub(crate) fn close(&self, lanes: impl IntoIterator<Item = i64>) {
        let (mut seen, now) = (self.seen(), Instant::now());
        lanes.into_iter().for_each(|lane| put(&mut seen.closed, lane, now));
    }

    /// Whether a claim that begins now would find nothing that is older than what comes now.
    pub(crate) fn set(&self, is_calm: bool) {
        self.is_calm.store(is_calm, Ordering::Relaxed);
    }

    /// Whether the last claim took all that could go.
    pub(crate) fn allows(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    /// Those of these lanes whose mail may be offered, each once, as far as is known here. That they are open, have no limits and nothing
    /// that waits is for the transaction to see.
    pub(crate) fn open<'a>(&self, lanes: impl Iterator<Item = &'a NamedLane>) -> HashMap<i64, Arc<ReadyLane>> {
        let mut open = HashMap::new();
        {
            let seen = self.seen();
            for lane in lanes {
                if !open.contains_key(&lane.id)
                    && let Some(urgency) = seen.urgency(lane)
                {
                    open.insert(lane.id, (lane, urgency));
                }
            }
        }
        open.into_iter().map(|(id, (lane, urgency))| (id, Arc::new(unlimited(lane, urgency)))).collect()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn remember(&mut self, lane: &ReadyLane, now: Instant) {
        if lane.is_stream_limited() {
            // Each of its lanes would keep what it was offered.
            if let Some(streams) = self.streams.get_mut(&lane.tenant_id) {
                streams.remove(&lane.stream);
            }
            return;
        }
        if !self.streams.contains_key(&lane.tenant_id) {
            put(&mut self.streams, lane.tenant_id, HashMap::new());
        }
        let urgency = Urgency { priority: lane.priority, weight: lane.weight };
        if let Some(streams) = self.streams.get_mut(&lane.tenant_id) {
            match streams.get_mut(&lane.stream) {
                Some(known) => *known = (now, urgency),
                None => put(streams, lane.stream.clone(), (now, urgency)),
            }
        }
        if lane.is_passed_by() {
            self.closed.remove(&lane.id);
        } else {
            put(&mut self.closed, lane.id, now);
        }
    }

    /// How urgent this lane's stream is, where its mail may be offered.
    fn urgency(&self, lane: &NamedLane) -> Option<Urgency> {
        if self.closed.get(&lane.id).is_some_and(is_fresh) {
            return None;
        }
        let (since, urgency) = self.streams.get(&lane.name.tenant.0)?.get(&lane.name.stream)?;
        is_fresh(since).then_some(*urgency)
    }
}

fn is_fresh(since: &Instant) -> bool {
    since.elapsed() < CACHE_TTL
}

/// Remembers, and forgets all others where they are too many.
fn put<K: Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: V) {
    if map.len() >= REMEMBERED && !map.contains_key(&key) {
        map.clear();
    }
    map.insert(key, value);
}

/// A lane as a claim would find it that has no limits and nothing that waits.
fn unlimited(lane: &NamedLane, Urgency { priority, weight }: Urgency) -> ReadyLane {
    let name = &*lane.name;
    ReadyLane {
        id: lane.id,
        tenant_id: name.tenant.0,
        stream: name.stream.clone(),
        route: name.route.clone(),
        domain: name.domain.clone(),
        priority,
        weight,
        ready_at: DateTime::<Utc>::MAX_UTC,
        connections: None,
        mails_per_connection: None,
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

    /// As a claim finds it.
    fn ready(lane: &NamedLane, change: impl FnOnce(&mut ReadyLane)) -> Arc<ReadyLane> {
        let mut ready = unlimited(lane, Urgency { priority: 10, weight: 3 });
        change(&mut ready);
        Arc::new(ready)
    }

    fn open<const N: usize>(gate: &HandoffGate, lanes: [&NamedLane; N]) -> Vec<i64> {
        let mut open: Vec<i64> = gate.open(lanes.into_iter()).into_keys().collect();
        open.sort_unstable();
        open
    }

    #[test]
    fn how_urgent_its_stream_is_is_all_that_is_to_be_known_of_a_lane() {
        let gate = HandoffGate::default();
        let (first, second, other) = (lane(1, "news"), lane(2, "news"), lane(3, "digest"));
        let all = [&first, &second, &other];
        assert!(open(&gate, all).is_empty());
        gate.remember(&[ready(&first, |_| {})]);
        assert_eq!(open(&gate, all), [1, 2]);
        let offered = &gate.open([&second].into_iter())[&2];
        assert_eq!((offered.priority, offered.weight, &*offered.domain), (10, 3, "d2.test"));
    }

    #[test]
    fn lanes_that_kept_what_they_were_offered_are_left_alone_until_a_claim_finds_them_free() {
        let (gate, lanes) = (HandoffGate::default(), [&lane(1, "news"), &lane(2, "news")]);
        gate.remember(&[ready(lanes[0], |_| {})]);
        gate.close([2]);
        assert_eq!(open(&gate, lanes), [1]);
        gate.remember(&[ready(lanes[1], |_| {})]);
        assert_eq!(open(&gate, lanes), [1, 2]);
    }

    #[test]
    fn lanes_that_a_claim_finds_limited_or_blocked_are_left_alone() {
        let changes: [fn(&mut ReadyLane); 5] = [
            |lane| lane.rate = Some(1.0),
            |lane| lane.connections = Some(1),
            |lane| lane.mails_per_connection = Some(1),
            |lane| lane.blocked_since = Some(DateTime::UNIX_EPOCH),
            |lane| (lane.rate, lane.learned_rate) = (Some(1.0), Some(1.0)),
        ];
        for change in changes {
            let (gate, lanes) = (HandoffGate::default(), [&lane(1, "news"), &lane(2, "news")]);
            gate.remember(&[ready(lanes[0], change)]);
            assert_eq!(open(&gate, lanes), [2]);
            gate.remember(&[ready(lanes[0], |_| {})]);
            assert_eq!(open(&gate, lanes), [1, 2]);
        }
    }

    #[test]
    fn nothing_of_a_limited_stream_is_offered() {
        let changes: [fn(&mut ReadyLane); 2] =
            [|lane| lane.stream_rate = Some(1.0), |lane| lane.stream_concurrency = Some(1)];
        for change in changes {
            let (gate, lanes) = (HandoffGate::default(), [&lane(1, "news"), &lane(2, "news")]);
            gate.remember(&[ready(lanes[0], |_| {})]);
            gate.remember(&[ready(lanes[0], change)]);
            assert!(open(&gate, lanes).is_empty());
        }
    }
}
