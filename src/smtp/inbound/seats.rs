//! Who may be asked to leave when the server is full: sessions that have had no transaction for longest.
//!
//! A session counts as busy while it has an accepted recipient. All others hold a connection for nothing, and idle ones would
//! keep everybody else out until their time is up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Every session of the server.
#[derive(Debug, Default)]
pub(super) struct Seats {
    all: Mutex<HashMap<u64, Taken>>,
}

#[derive(Debug)]
struct Taken {
    /// Since when it has no transaction; none while it has one.
    idle_since: Option<Instant>,
    leave: CancellationToken,
}

/// One session's seat; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
    /// Cancelled where the seat is wanted for another.
    pub leave: CancellationToken,
}

impl Seats {
    /// Notes a session that begins.
    pub fn take(self: &Arc<Self>, number: u64, now: Instant) -> Seat {
        let leave = CancellationToken::new();
        self.all().insert(number, Taken { idle_since: Some(now), leave: leave.clone() });
        Seat { seats: self.clone(), number, leave }
    }

    /// Asks the session that has had no transaction for longest to leave. False where all are busy, or have been idle for less than
    /// `grace` and may be about to begin one.
    pub fn make_room(&self, grace: Duration, now: Instant) -> bool {
        let mut all = self.all();
        let idle = all.iter().filter_map(|(number, taken)| Some((taken.idle_since?, *number)));
        let longest = idle.min().filter(|(since, _)| now.duration_since(*since) >= grace);
        let Some(taken) = longest.and_then(|(_, number)| all.remove(&number)) else { return false };
        taken.leave.cancel();
        true
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Taken>> {
        // No step under this lock leaves it half changed.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Notes whether the session has a transaction.
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

    #[test]
    fn the_longest_idle_session_leaves_and_no_busy_one() {
        let (seats, start) = (Arc::new(Seats::default()), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (busy, first, second) = (seats.take(1, start), seats.take(2, at(1)), seats.take(3, at(2)));
        busy.note(true, at(3));
        assert!(!seats.make_room(GRACE, at(5)), "none has been idle for long");
        assert!(seats.make_room(GRACE, at(6)));
        assert!(first.leave.is_cancelled() && !second.leave.is_cancelled() && !busy.leave.is_cancelled());
        assert!(seats.make_room(GRACE, at(60)) && second.leave.is_cancelled());
        assert!(!seats.make_room(GRACE, at(60)), "the busy one stays");
        busy.note(false, at(60));
        busy.note(false, at(64));
        assert!(
            !seats.make_room(GRACE, at(64)) && seats.make_room(GRACE, at(65)),
            "from the end of its transaction on"
        );
        drop((busy, first, second));
        assert!(seats.all().is_empty());
    }
}
