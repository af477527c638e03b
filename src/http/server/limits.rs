//! Limits of an HTTP server.

use std::time::Duration;

/// Limits of one HTTP server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum concurrent connections.
    pub connections: usize,
    /// Maximum concurrent connections from one address (for IPv6, from one /64).
    pub per_peer: usize,
    /// Maximum time from a request's first byte to the end of its head, and from the connection to the first byte.
    pub header_timeout: Duration,
    /// Maximum time from the end of a response to the next request.
    pub keep_alive: Duration,
    /// Maximum time for a client to read the next 64 KiB of a response.
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
