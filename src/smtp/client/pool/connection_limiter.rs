//! Limits the concurrent connections to one destination, and reserves the last ones for urgent messages. A destination
//! that responds slowly soon has all connections in use for newsletters; a password reset must not wait for one of
//! them.

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

/// The limiter of one destination, shared by all pools with sessions to it.
#[derive(Debug)]
pub(in crate::smtp) struct ConnectionLimiter {
    all: Semaphore,
    /// Permits that messages which are not urgent may use: all but an eighth, at least one.
    common: Semaphore,
}

/// The right to use one connection to the destination.
#[derive(Debug)]
pub(in crate::smtp) struct ConnectionPermit<'a> {
    _common: Option<SemaphorePermit<'a>>,
    _all: SemaphorePermit<'a>,
}

impl ConnectionLimiter {
    /// Creates a limiter with this number of connections. A single connection is not reserved.
    pub fn new(places: usize) -> Self {
        let places = places.min(Semaphore::MAX_PERMITS);
        let reserve = if places < 2 { 0 } else { (places / 8).max(1) };
        Self { all: Semaphore::new(places), common: Semaphore::new(places - reserve) }
    }

    /// Waits for a connection. Returns an error if the limiter was closed.
    pub async fn enter(&self, urgent: bool) -> Result<ConnectionPermit<'_>, AcquireError> {
        let common = if urgent { None } else { Some(self.common.acquire().await?) };
        Ok(ConnectionPermit { _common: common, _all: self.all.acquire().await? })
    }

    /// Refuses all current and future waiters.
    pub fn close(&self) {
        self.common.close();
        self.all.close();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// Returns how many common and then urgent messages get a permit at once.
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
    fn an_eighth_is_reserved_for_urgent_messages() {
        for (places, common, urgent) in [(1, 1, 0), (2, 1, 1), (8, 7, 1), (16, 14, 2), (100, 88, 12)] {
            assert_eq!(admitted(places), (common, urgent), "{places}");
        }
    }

    #[test]
    fn a_closed_limiter_refuses_waiters() {
        let gate = ConnectionLimiter::new(4);
        gate.close();
        assert!(matches!(gate.enter(true).now_or_never(), Some(Err(_))));
    }
}
