//! How the connections that the database server allows are divided among replicas, and within one between the API and the
//! worker: what one side takes must never leave the other without any. Pure.

/// Connections of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The API's, and what it accepts.
    pub api: u32,
    /// The worker's: claims, heartbeats, webhooks.
    pub worker: u32,
}

/// Left free, for a replica that starts and for whoever looks after the server.
const SPARE: u32 = 3;
/// What either side needs to work at all: one connection with kept plans and one other.
const LEAST: u32 = 2;
/// The worker's connection that listens for other processes.
const LISTENER: u32 = 1;

impl Share {
    /// How many that is in all.
    pub fn total(self) -> u32 {
        self.api + self.worker + if self.worker > 0 { LISTENER } else { 0 }
    }

    /// As much of the wanted share as leaves each of so many processes the same part of what is available. A role that
    /// wants none gets none.
    #[must_use]
    pub fn fit(self, available: u32, processes: u32) -> Self {
        let part = available.saturating_sub(SPARE) / processes.max(1);
        if self.total() <= part {
            return self;
        }
        let listener = if self.worker > 0 { LISTENER } else { 0 };
        let part = part.saturating_sub(listener);
        // The odd one is the worker's: what was accepted has to leave.
        let half = if self.api == 0 { part } else { part.div_ceil(2) };
        let worker = self.worker.min(half.max(LEAST));
        let api = self.api.min(part.saturating_sub(worker).max(LEAST));
        Self { api, worker }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `database.max_connections` is by default.
    const DEFAULT: Share = Share { api: 14, worker: 14 };

    #[test]
    fn three_default_replicas_fit_the_default_server() {
        assert_eq!(DEFAULT.fit(100 - 3, 3), DEFAULT);
    }

    #[test]
    fn what_is_short_is_divided_between_api_and_worker() {
        assert_eq!(DEFAULT.fit(37, 3), Share { api: 5, worker: 5 });
        assert_eq!(DEFAULT.fit(36, 3), Share { api: 5, worker: 5 });
        assert_eq!(DEFAULT.fit(17, 3), Share { api: 2, worker: 2 }, "the least that works");
        assert_eq!(Share { api: 14, worker: 0 }.fit(23, 2), Share { api: 10, worker: 0 });
        assert_eq!(Share { api: 0, worker: 14 }.fit(23, 2), Share { api: 0, worker: 9 });
        assert_eq!(DEFAULT.fit(0, 0), Share { api: 2, worker: 2 });
    }

    #[test]
    fn no_share_passes_its_part_unless_it_is_the_least() {
        for available in 0..120 {
            for processes in 1..8 {
                let share = DEFAULT.fit(available, processes);
                let is_least = share == Share { api: LEAST, worker: LEAST };
                assert!(
                    is_least || share.total() * processes + SPARE <= available,
                    "{available} {processes} {share:?}"
                );
            }
        }
    }
}
