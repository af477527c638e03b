//! Limits the concurrent connections to one destination, and reserves the last ones for urgent messages. A destination
//! that responds slowly soon has all connections in use for newsletters; a password reset must not wait for one of
//! them.

use tokio::sync::AcquireError;

use crate::limiter::{ReservedPermit, ReservedSemaphore};

/// The limiter of one destination, shared by all pools with sessions to it.
#[derive(Debug)]
pub(in crate::smtp) struct ConnectionLimiter(ReservedSemaphore);

impl ConnectionLimiter {
    /// Creates a limiter with this number of connections, an eighth of which is reserved, at least one. A single
    /// connection is not reserved.
    pub fn new(connections: usize) -> Self {
        let reserved = if connections < 2 { 0 } else { (connections / 8).max(1) };
        Self(ReservedSemaphore::new(connections, reserved))
    }

    /// Waits for a connection. Returns an error if the limiter was closed.
    pub async fn enter(&self, urgent: bool) -> Result<ReservedPermit<'_>, AcquireError> {
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

    /// Returns how many common and then urgent messages get a permit at once.
    fn admitted(connections: usize) -> (usize, usize) {
        let gate = ConnectionLimiter::new(connections);
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
        for (connections, common, urgent) in [(1, 1, 0), (2, 1, 1), (8, 7, 1), (16, 14, 2), (100, 88, 12)] {
            assert_eq!(admitted(connections), (common, urgent), "{connections}");
        }
    }
}
