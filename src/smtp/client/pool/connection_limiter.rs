//! Limits the concurrent connections to one destination, and reserves the last ones for urgent messages. Bulk messages
//! can occupy all connections to a slow destination, and a password reset must not wait for one of these.

use tokio::sync::AcquireError;

use crate::limiter::{ReservedPermit, ReservedSemaphore};

/// The limiter of one destination, shared by all pools with sessions to it.
#[derive(Debug)]
pub(in crate::smtp) struct ConnectionLimiter(ReservedSemaphore);

impl ConnectionLimiter {
    /// Creates a limiter with this number of connections. An eighth of them, at least one, is reserved; a single
    /// connection is not.
    pub fn new(connections: usize) -> Self {
        let reserved = if connections < 2 { 0 } else { (connections / 8).max(1) };
        Self(ReservedSemaphore::new(connections, reserved))
    }

    /// Waits for a connection. Returns an error if the limiter was closed.
    pub async fn acquire(&self, urgent: bool) -> Result<ReservedPermit, AcquireError> {
        self.0.acquire(1, urgent).await
    }

    /// Refuses all current and future waiters.
    pub fn close(&self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// Returns how many messages that are not urgent get a permit at once, and then how many urgent ones.
    fn admitted(connections: usize) -> (usize, usize) {
        let limiter = ConnectionLimiter::new(connections);
        let mut permits = Vec::new();
        let mut fill = |urgent| {
            let before = permits.len();
            while let Some(Ok(permit)) = limiter.acquire(urgent).now_or_never() {
                permits.push(permit);
            }
            permits.len() - before
        };
        (fill(false), fill(true))
    }

    #[test]
    fn an_eighth_is_reserved_for_urgent_messages() {
        for (connections, other, urgent) in [(1, 1, 0), (2, 1, 1), (8, 7, 1), (16, 14, 2), (100, 88, 12)] {
            assert_eq!(admitted(connections), (other, urgent), "{connections}");
        }
    }
}
