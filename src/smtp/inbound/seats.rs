//! Decides which session ends when the server, or one network's share of it, is full: the one without a transaction for
//! longest.
//!
//! A session is busy while it has an accepted recipient. All others hold a connection without using it, and idle ones
//! would block new clients until they time out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Every session of the server.
#[derive(Debug, Default)]
pub(super) struct Seats {
    all: Mutex<HashMap<u64, Taken>>,
}

#[derive(Debug)]
struct Taken {
    /// The client's network (`Guest::network`).
    network: IpAddr,
    /// Since when the session has no transaction; `None` while it has one.
    idle_since: Option<Instant>,
    leave: CancellationToken,
}

/// A session's seat; dropping it frees the seat.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
    /// Cancelled when the session must end for another.
    pub leave: CancellationToken,
}

impl Seats {
    /// Registers a session.
    pub fn take(self: &Arc<Self>, number: u64, network: IpAddr, now: Instant) -> Seat {
        let leave = CancellationToken::new();
        self.all().insert(number, Taken { network, idle_since: Some(now), leave: leave.clone() });
        Seat { seats: self.clone(), number, leave }
    }

    /// Ends the session without a transaction for longest, of all or of one network. Returns false if all are busy, or
    /// have been idle for less than `grace` and may be about to begin a transaction.
    pub fn make_room(&self, of: Option<IpAddr>, grace: Duration, now: Instant) -> bool {
        let mut all = self.all();
        let idle = all.iter().filter(|(_, taken)| of.is_none_or(|network| taken.network == network));
        let idle = idle.filter_map(|(number, taken)| Some((taken.idle_since?, *number)));
        let longest = idle.min().filter(|(since, _)| now.duration_since(*since) >= grace);
        let Some(taken) = longest.and_then(|(_, number)| all.remove(&number)) else { return false };
        taken.leave.cancel();
        true
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Taken>> {
        self.all.lock()
    }
}

impl Seat {
    /// Records whether the session has a transaction.
    pub fn note(&self, is_busy: bool, now: Instant) {
        if let Some(taken) = self.seats.all().get_mut(&self.number) {
            taken.idle_since = if is_busy { None } else { taken.idle_since.or(Some(now)) };
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.all().remove(&self.number);
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
    fn the_longest_idle_session_leaves_and_no_busy_one() {
        let (seats, start) = (Arc::new(Seats::default()), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let take = |number, now| seats.take(number, ip("192.0.2.1"), now);
        let (busy, first, second) = (take(1, start), take(2, at(1)), take(3, at(2)));
        let make_room = |now| seats.make_room(None, GRACE, now);
        busy.note(true, at(3));
        assert!(!make_room(at(5)), "none has been idle for long");
        assert!(make_room(at(6)));
        assert!(first.leave.is_cancelled() && !second.leave.is_cancelled() && !busy.leave.is_cancelled());
        assert!(make_room(at(60)) && second.leave.is_cancelled());
        assert!(!make_room(at(60)), "the busy one stays");
        busy.note(false, at(60));
        busy.note(false, at(64));
        assert!(!make_room(at(64)) && make_room(at(65)), "from the end of its transaction on");
        drop((busy, first, second));
        assert!(seats.all().is_empty());
    }

    #[test]
    fn a_session_makes_room_for_its_own_network_only() {
        let (seats, start) = (Arc::new(Seats::default()), Instant::now());
        let other = seats.take(1, ip("192.0.2.1"), start);
        let same = seats.take(2, ip("192.0.2.2"), start + Duration::from_secs(1));
        let make_room = |text| seats.make_room(Some(ip(text)), GRACE, start + Duration::from_mins(1));
        assert!(!make_room("192.0.2.3"));
        assert!(make_room("192.0.2.2") && !make_room("192.0.2.2"));
        assert_eq!((other.leave.is_cancelled(), same.leave.is_cancelled()), (false, true));
    }
}
