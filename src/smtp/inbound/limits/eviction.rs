//! Chooses the session to end for a new client when the server is full, or a network has reached its limit: the session
//! that has been without a transaction for longest.
//!
//! A session is busy while it has an accepted recipient. All other sessions are idle, and would keep new clients out
//! until they time out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// All sessions of the server, by number.
#[derive(Debug, Default)]
pub(in crate::smtp::inbound) struct Sessions {
    all: Mutex<HashMap<u64, SessionState>>,
}

#[derive(Debug)]
struct SessionState {
    /// The client's network ([`ClientConnection::network`](super::clients::ClientConnection::network)).
    network: IpAddr,
    /// Start of the time without a transaction; `None` during a transaction.
    idle_since: Option<Instant>,
    evicted: CancellationToken,
}

/// A registered session. Dropping this value removes the session from [`Sessions`].
#[derive(Debug)]
pub(in crate::smtp::inbound) struct ActiveSession {
    sessions: Arc<Sessions>,
    number: u64,
    /// Cancelled when the session must end so that another can start.
    pub evicted: CancellationToken,
}

impl Sessions {
    /// Registers a session.
    pub fn register(self: &Arc<Self>, number: u64, network: IpAddr, now: Instant) -> ActiveSession {
        let evicted = CancellationToken::new();
        self.all().insert(number, SessionState { network, idle_since: Some(now), evicted: evicted.clone() });
        ActiveSession { sessions: self.clone(), number, evicted }
    }

    /// Ends the session that has been idle for longest, among all sessions or those of one network. Returns false if
    /// every session is busy, or has been idle for less than `grace`, so that it may be about to start a transaction.
    pub fn evict_idle(&self, only: Option<IpAddr>, grace: Duration, now: Instant) -> bool {
        let mut all = self.all();
        let idle = all.iter().filter(|(_, state)| only.is_none_or(|network| state.network == network));
        let idle = idle.filter_map(|(number, state)| Some((state.idle_since?, *number)));
        let longest = idle.min().filter(|(since, _)| now.duration_since(*since) >= grace);
        let Some(state) = longest.and_then(|(_, number)| all.remove(&number)) else { return false };
        state.evicted.cancel();
        true
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, SessionState>> {
        self.all.lock()
    }
}

impl ActiveSession {
    /// Records whether the session has a transaction.
    pub fn set_busy(&self, is_busy: bool, now: Instant) {
        if let Some(state) = self.sessions.all().get_mut(&self.number) {
            state.idle_since = if is_busy { None } else { state.idle_since.or(Some(now)) };
        }
    }
}

impl Drop for ActiveSession {
    fn drop(&mut self) {
        self.sessions.all().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_idle_session_is_evicted() {
        let (sessions, start) = (Arc::new(Sessions::default()), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let register = |number, now| sessions.register(number, ip("192.0.2.1"), now);
        let (busy, first, second) = (register(1, start), register(2, at(1)), register(3, at(2)));
        let evict_idle = |now| sessions.evict_idle(None, GRACE, now);
        busy.set_busy(true, at(3));
        assert!(!evict_idle(at(5)), "no session has been idle for the grace period");
        assert!(evict_idle(at(6)));
        assert!(first.evicted.is_cancelled() && !second.evicted.is_cancelled() && !busy.evicted.is_cancelled());
        assert!(evict_idle(at(60)) && second.evicted.is_cancelled());
        assert!(!evict_idle(at(60)), "the busy session stays");
        busy.set_busy(false, at(60));
        busy.set_busy(false, at(64));
        assert!(!evict_idle(at(64)) && evict_idle(at(65)), "idle time counts from the end of the transaction");
        drop((busy, first, second));
        assert!(sessions.all().is_empty());
    }

    #[test]
    fn a_session_is_evicted_for_its_own_network_only() {
        let (sessions, start) = (Arc::new(Sessions::default()), Instant::now());
        let other = sessions.register(1, ip("192.0.2.1"), start);
        let same = sessions.register(2, ip("192.0.2.2"), start + Duration::from_secs(1));
        let evict_idle = |text| sessions.evict_idle(Some(ip(text)), GRACE, start + Duration::from_mins(1));
        assert!(!evict_idle("192.0.2.3"));
        assert!(evict_idle("192.0.2.2") && !evict_idle("192.0.2.2"));
        assert_eq!((other.evicted.is_cancelled(), same.evicted.is_cancelled()), (false, true));
    }
}
