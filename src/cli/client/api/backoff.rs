//! Waits between tries.

use std::time::Duration;

/// Doubles a wait, up to a maximum.
#[derive(Debug)]
pub(in crate::cli::client) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(in crate::cli::client) fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// Returns the next wait: a random time between half of the wait and all of it, so that clients do not retry at the
    /// same time.
    pub(in crate::cli::client) fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }
}
