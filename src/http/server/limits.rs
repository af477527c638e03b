//! What clients may hold.

use std::time::Duration;

/// Bounds of one HTTP server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Connections at a time from one address (of IPv6, from one /64).
    pub per_peer: usize,
    /// From a request's first byte to the end of its head, and from the connection to the first byte.
    pub header_timeout: Duration,
    /// From the end of a response to the next request.
    pub keep_alive: Duration,
    /// How long a client may take next to nothing of a response.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2_000,
            per_peer: 1_000,
            header_timeout: Duration::from_secs(15),
            keep_alive: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
        }
    }
}
