//! Counts the connections of a server in total and per peer, and evicts idle ones for new ones.
//!
//! At a limit, the connection that has been idle longest is closed, as nginx does. It is chosen from the idle
//! connections of the peer that has the most connections. These are either new (no request yet) or used; the larger
//! group loses a connection, so that many new connections cannot evict a client's pool, nor a large pool new clients.
//! Idle connections thus never keep out a client with a request. If every connection has a request in progress, a new
//! one is refused.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::Limits;
use crate::domain::network;
use crate::limiter::peers::PeerCounts;

/// [`Activity::state`] while a request is in progress.
const BUSY: u64 = 0;
/// [`Activity::state`] once the connection is to be closed. Every other state is the time at which the connection
/// became idle, in nanoseconds after the server's start.
const EVICTED: u64 = u64::MAX;

/// The connections of a server.
#[derive(Debug)]
pub(super) struct Connections {
    limits: Limits,
    started: Instant,
    is_stopping: AtomicBool,
    open: Mutex<OpenConnections>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    last_number: u64,
    by_number: HashMap<u64, Connection>,
    by_peer: PeerCounts,
}

#[derive(Debug)]
struct Connection {
    peer: IpAddr,
    activity: Arc<Activity>,
}

/// The decision about a new connection.
#[derive(Debug)]
pub(super) enum Admission {
    /// Admitted, with this slot.
    Admitted(Slot),
    /// Refused: the configuration key of the limit that is reached.
    Full(&'static str),
}

/// The slot of one connection, released when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    connections: Arc<Connections>,
    number: u64,
    activity: Arc<Activity>,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    started: Instant,
    /// The initial [`Activity::state`].
    created: u64,
    state: AtomicU64,
    /// Whether the response's body has ended; its last bytes may not have been sent yet.
    has_body_ended: AtomicBool,
    /// The task that serves the connection. It is woken to check [`Slot::signal`].
    task: AtomicWaker,
}

/// What a connection has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Continue.
    Continue,
    /// Close after the request in progress.
    Stop,
    /// Close now, to admit a new connection.
    Evict,
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, started: Instant::now(), is_stopping: AtomicBool::new(false), open: Mutex::default() }
    }

    /// Closes every connection after the request in progress. Call it once no new connections are admitted.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.open().by_number.values().for_each(|connection| connection.activity.task.wake());
    }

    /// Admits or refuses a connection from this address.
    pub(super) fn admit(self: &Arc<Self>, ip: IpAddr) -> Admission {
        let peer = network::owner(ip);
        let mut open = self.open();
        if open.by_peer.get(peer) >= self.limits.per_peer && !open.evict(Some(peer)) {
            return Admission::Full("http.connections_per_peer");
        }
        if open.by_number.len() >= self.limits.connections && !open.evict(None) {
            return Admission::Full("http.max_connections");
        }
        let activity = Arc::new(Activity::new(self.started));
        open.last_number += 1;
        let number = open.last_number;
        open.by_number.insert(number, Connection { peer, activity: activity.clone() });
        open.by_peer.add(peer);
        Admission::Admitted(Slot { connections: self.clone(), number, activity })
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock()
    }
}

impl OpenConnections {
    /// Closes an idle connection of this peer, or of the peer that has the most. Returns false if there is none.
    fn evict(&mut self, only: Option<IpAddr>) -> bool {
        loop {
            let idle = self.by_number.iter().filter(|(_, connection)| only.is_none_or(|peer| connection.peer == peer));
            let idle = || {
                idle.clone()
                    .filter_map(|(number, connection)| Some((*number, connection, connection.activity.idle_since()?)))
            };
            let peer = idle().map(|(_, connection, _)| connection.peer).max_by_key(|peer| self.by_peer.get(*peer));
            let (new, used): (Vec<_>, Vec<_>) = idle()
                .filter(|(_, connection, _)| Some(connection.peer) == peer)
                .map(|(number, connection, since)| (since, number, connection.activity.created == since))
                .partition(|(_, _, is_new)| *is_new);
            let choice = if new.len() > used.len() { new } else { used }.into_iter().min();
            let Some((since, number, _)) = choice else { return false };
            // Fails if a request has just started.
            if self.by_number.get(&number).is_some_and(|connection| connection.activity.evict(since)) {
                self.remove(number);
                return true;
            }
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(Connection { peer, .. }) = self.by_number.remove(&number) {
            self.by_peer.remove(peer);
        }
    }
}

impl Slot {
    pub(super) fn activity(&self) -> Arc<Activity> {
        self.activity.clone()
    }

    /// Returns what the connection has to do now. Wakes `task` when that changes.
    pub(super) fn signal(&self, task: &Waker) -> Signal {
        // Registers first, so that a change after the check wakes the task.
        self.activity.task.register(task);
        if self.activity.state.load(Ordering::Acquire) == EVICTED {
            Signal::Evict
        } else if self.connections.is_stopping.load(Ordering::Acquire) {
            Signal::Stop
        } else {
            Signal::Continue
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.open().remove(self.number);
    }
}

impl Activity {
    fn new(started: Instant) -> Self {
        let created = nanos_since(started);
        let (state, has_body_ended) = (AtomicU64::new(created), AtomicBool::new(false));
        Self { started, created, state, has_body_ended, task: AtomicWaker::new() }
    }

    /// Marks the start of a request. Returns false if the connection is being closed.
    pub(super) fn begin(&self) -> bool {
        self.has_body_ended.store(false, Ordering::Release);
        let set_busy = |state| (state != EVICTED).then_some(BUSY);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, set_busy).is_ok()
    }

    /// Marks the end of the response's body.
    pub(super) fn end_body(&self) {
        self.has_body_ended.store(true, Ordering::Release);
    }

    /// Marks that all written bytes have been sent. If the response has ended, the connection is idle from now on.
    pub(super) fn mark_flushed(&self) {
        if self.has_body_ended.load(Ordering::Acquire) && self.has_body_ended.swap(false, Ordering::AcqRel) {
            let _ = self.state.compare_exchange(BUSY, nanos_since(self.started), Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Returns the start of the idle period, as a number that is unique to the period; `None` during a request.
    pub(super) fn idle_since(&self) -> Option<u64> {
        let state = self.state.load(Ordering::Acquire);
        (state != BUSY && state != EVICTED).then_some(state)
    }

    /// Converts a value of [`Self::idle_since`] to an instant.
    pub(super) fn to_instant(&self, idle_since: u64) -> Instant {
        self.started + Duration::from_nanos(idle_since)
    }

    /// Marks the connection as evicted. Returns false if the idle period that began at `since` has ended.
    fn evict(&self, since: u64) -> bool {
        let evicted = self.state.compare_exchange(since, EVICTED, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if evicted {
            self.task.wake();
        }
        evicted
    }
}

/// Returns the nanoseconds since the server's start: more than [`BUSY`], less than [`EVICTED`].
fn nanos_since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_nanos()).unwrap_or(EVICTED - 1).clamp(BUSY + 1, EVICTED - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(connections: usize, per_peer: usize) -> Arc<Connections> {
        Arc::new(Connections::new(Limits { connections, per_peer, ..Limits::default() }))
    }

    fn admit(connections: &Arc<Connections>, ip: &str) -> Result<Slot, &'static str> {
        match connections.admit(ip.parse().unwrap()) {
            Admission::Admitted(slot) => Ok(slot),
            Admission::Full(limit) => Err(limit),
        }
    }

    fn is_evicted(slot: &Slot) -> bool {
        slot.activity.state.load(Ordering::Acquire) == EVICTED
    }

    #[test]
    fn longest_idle_connection_of_largest_peer_is_evicted() {
        let all = connections(3, 9);
        let other = admit(&all, "192.0.2.9").unwrap();
        let (first, second) = (admit(&all, "192.0.2.1").unwrap(), admit(&all, "192.0.2.1").unwrap());
        let new = admit(&all, "192.0.2.7").unwrap();
        assert_eq!([&other, &first, &second, &new].map(is_evicted), [false, true, false, false]);
        assert!(!first.activity().begin(), "an evicted connection starts no request");
        assert!(second.activity().begin());
    }

    #[test]
    fn many_new_connections_do_not_evict_a_used_one() {
        let all = connections(4, 9);
        let used = admit(&all, "192.0.2.1").unwrap();
        assert!(used.activity().begin());
        used.activity().end_body();
        used.activity().mark_flushed();
        let new: Vec<Slot> = (0..9).map(|_| admit(&all, "192.0.2.1").unwrap()).collect();
        assert!(!is_evicted(&used));
        assert_eq!(new.iter().filter(|slot| is_evicted(slot)).count(), 6);
    }

    #[test]
    fn connections_with_a_request_in_progress_are_not_evicted() {
        let all = connections(2, 9);
        let busy: Vec<Slot> = (0..2).map(|_| admit(&all, "192.0.2.1").unwrap()).collect();
        assert!(busy.iter().all(|slot| slot.activity().begin()));
        assert_eq!(admit(&all, "192.0.2.2").err(), Some("http.max_connections"));
        busy[0].activity().end_body();
        assert!(admit(&all, "192.0.2.2").is_err(), "the response has not been sent completely");
        busy[0].activity().mark_flushed();
        assert!(admit(&all, "192.0.2.2").is_ok());
        assert_eq!([&busy[0], &busy[1]].map(is_evicted), [true, false]);
    }

    #[test]
    fn each_peer_has_its_own_limit() {
        let all = connections(9, 2);
        let busy: Vec<Slot> = (1..3).map(|n| admit(&all, &format!("2001:db8::{n}")).unwrap()).collect();
        assert!(busy.iter().all(|slot| slot.activity().begin()));
        assert_eq!(admit(&all, "2001:db8::3").err(), Some("http.connections_per_peer"));
        assert!(admit(&all, "2001:db8:0:1::1").is_ok());
        drop(busy);
        assert!(admit(&all, "2001:db8::3").is_ok());
        assert!(all.open().by_peer.is_empty(), "peers without connections are removed");
    }
}
