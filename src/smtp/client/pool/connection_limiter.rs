//! Lets mail to one destination pass, so many at a time, and keeps the last places for what is urgent: a destination that
//! answers slowly is full of newsletters before long, and the password reset should not have to wait for one of them.

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

/// The gate of one destination, whatever pools its sessions are in.
#[derive(Debug)]
pub(in crate::smtp) struct ConnectionLimiter {
    all: Semaphore,
    /// Of those, what mail that is not urgent may take: all but an eighth, at least one.
    common: Semaphore,
}

/// A place at the destination.
#[derive(Debug)]
pub(in crate::smtp) struct ConnectionPermit<'a> {
    _common: Option<SemaphorePermit<'a>>,
    _all: SemaphorePermit<'a>,
}

impl ConnectionLimiter {
    /// With so many places. A single one is for everybody.
    pub fn new(places: usize) -> Self {
        let places = places.min(Semaphore::MAX_PERMITS);
        let reserve = if places < 2 { 0 } else { (places / 8).max(1) };
        Self { all: Semaphore::new(places), common: Semaphore::new(places - reserve) }
    }

    /// Waits for a place. The error says that the gate was closed.
    pub async fn enter(&self, urgent: bool) -> Result<ConnectionPermit<'_>, AcquireError> {
        let common = if urgent { None } else { Some(self.common.acquire().await?) };
        Ok(ConnectionPermit { _common: common, _all: self.all.acquire().await? })
    }

    /// Turns away whoever waits and whoever comes.
    pub fn close(&self) {
        self.common.close();
        self.all.close();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// How many get in at once, common mail first.
    fn admitted(places: usize) -> (usize, usize) {
        let gate = ConnectionLimiter::new(places);
        let mut inside = Vec::new();
        let mut fill = |urgent| {
            let before = inside.len();
            while let Some(Ok(pass)) = gate.enter(urgent).now_or_never() {
                inside.push(pass);
            }
            inside.len() - before
        };
        (fill(false), fill(true))
    }

    #[test]
    fn an_eighth_is_for_what_is_urgent() {
        for (places, common, urgent) in [(1, 1, 0), (2, 1, 1), (8, 7, 1), (16, 14, 2), (100, 88, 12)] {
            assert_eq!(admitted(places), (common, urgent), "{places}");
        }
    }

    #[test]
    fn a_closed_gate_turns_away() {
        let gate = ConnectionLimiter::new(4);
        gate.close();
        assert!(matches!(gate.enter(true).now_or_never(), Some(Err(_))));
    }
}
