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

/// [`Activity::state`] while a request is in progress, and once the connection is to be closed. Otherwise the state is
/// the time since which the connection is idle, in nanoseconds after the server's start.
const BUSY: u64 = 0;
const EVICTED: u64 = u64::MAX;

/// The connections of a server.
#[derive(Debug)]
pub(super) struct Connections {
    limits: Limits,
    started: Instant,
    is_stopping: AtomicBool,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    by_number: HashMap<u64, Connection>,
    by_peer: PeerCounts,
}

#[derive(Debug)]
struct Connection {
    peer: IpAddr,
    activity: Arc<Activity>,
}

/// Whether a new connection is admitted.
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
    born: u64,
    state: AtomicU64,
    /// Whether the response's body has ended; written bytes may not have been sent yet.
    is_over: AtomicBool,
    /// The task that serves the connection. It is woken to check [`Slot::signal`].
    task: AtomicWaker,
}

/// What a connection is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Continue.
    Continue,
    /// End after the request in progress.
    Stop,
    /// End now, for a new connection.
    Evict,
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, started: Instant::now(), is_stopping: AtomicBool::new(false), open: Mutex::default() }
    }

    /// Ends every connection after the request in progress. Call it once no more are admitted.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.open().by_number.values().for_each(|one| one.activity.task.wake());
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
        open.last += 1;
        let number = open.last;
        open.by_number.insert(number, Connection { peer, activity: activity.clone() });
        open.by_peer.add(peer);
        Admission::Admitted(Slot { connections: self.clone(), number, activity })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock()
    }
}

impl Open {
    /// Closes an idle connection of this peer, or of the peer that has the most. Returns false if there is none.
    fn evict(&mut self, only: Option<IpAddr>) -> bool {
        loop {
            let idle = self.by_number.iter().filter(|(_, one)| only.is_none_or(|peer| one.peer == peer));
            let idle = || idle.clone().filter_map(|(number, one)| Some((*number, one, one.activity.idle_since()?)));
            let peer = idle().map(|(_, one, _)| one.peer).max_by_key(|peer| self.by_peer.get(*peer));
            let (new, used): (Vec<_>, Vec<_>) = idle()
                .filter(|(_, one, _)| Some(one.peer) == peer)
                .map(|(number, one, since)| (since, number, one.activity.born == since))
                .partition(|(_, _, is_new)| *is_new);
            let choice = if new.len() > used.len() { new } else { used }.into_iter().min();
            let Some((since, number, _)) = choice else { return false };
            // Fails if a request has just begun.
            if self.by_number.get(&number).is_some_and(|one| one.activity.evict(since)) {
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

    /// Returns what the connection is to do now. Wakes `task` when that changes.
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
        let born = since(started);
        let (state, is_over) = (AtomicU64::new(born), AtomicBool::new(false));
        Self { started, born, state, is_over, task: AtomicWaker::new() }
    }

    /// Marks the begin of a request. Returns false if the connection is being closed.
    pub(super) fn begin(&self) -> bool {
        self.is_over.store(false, Ordering::Release);
        let idle_or_busy = |state| (state != EVICTED).then_some(BUSY);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, idle_or_busy).is_ok()
    }

    /// Marks the end of the response's body.
    pub(super) fn body_over(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// Marks that all written bytes have been sent.
    pub(super) fn flushed(&self) {
        if self.is_over.load(Ordering::Acquire) && self.is_over.swap(false, Ordering::AcqRel) {
            let _ = self.state.compare_exchange(BUSY, since(self.started), Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Returns since when the connection is idle, as a number that is unique to each idle period; `None` during a
    /// request.
    pub(super) fn idle_since(&self) -> Option<u64> {
        let state = self.state.load(Ordering::Acquire);
        (state != BUSY && state != EVICTED).then_some(state)
    }

    /// Converts a value of [`Self::idle_since`] to an instant.
    pub(super) fn moment(&self, idle_since: u64) -> Instant {
        self.started + Duration::from_nanos(idle_since)
    }

    fn evict(&self, since: u64) -> bool {
        let evicted = self.state.compare_exchange(since, EVICTED, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if evicted {
            self.task.wake();
        }
        evicted
    }
}

/// Returns the nanoseconds since the server's start: more than [`BUSY`], less than [`EVICTED`].
fn since(started: Instant) -> u64 {
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
        assert!(!first.activity().begin(), "no request begins after the eviction");
        assert!(second.activity().begin());
    }

    #[test]
    fn many_new_connections_do_not_evict_a_used_one() {
        let all = connections(4, 9);
        let used = admit(&all, "192.0.2.1").unwrap();
        assert!(used.activity().begin());
        used.activity().body_over();
        used.activity().flushed();
        let new: Vec<Slot> = (0..9).map(|_| admit(&all, "192.0.2.1").unwrap()).collect();
        assert!(!is_evicted(&used));
        assert_eq!(new.iter().filter(|slot| is_evicted(slot)).count(), 6);
    }

    #[test]
    fn connections_with_a_request_in_progress_stay() {
        let all = connections(2, 9);
        let busy: Vec<Slot> = (0..2).map(|_| admit(&all, "192.0.2.1").unwrap()).collect();
        assert!(busy.iter().all(|slot| slot.activity().begin()));
        assert_eq!(admit(&all, "192.0.2.2").err(), Some("http.max_connections"));
        busy[0].activity().body_over();
        assert!(admit(&all, "192.0.2.2").is_err(), "the response has not been sent");
        busy[0].activity().flushed();
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
