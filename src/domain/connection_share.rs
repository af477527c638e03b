//! Divides the connections that the database server allows among replicas, and within a replica between the API and the
//! worker, so that neither side can exhaust the other's. Pure.

/// Connections of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Connections of the API, including accepting messages.
    pub api: u32,
    /// Connections of the worker: claims, heartbeats, webhooks.
    pub worker: u32,
}

/// Connections left free, for a replica that starts and for administrators.
const SPARE: u32 = 3;
/// The minimum of either side: one connection with kept plans and one other.
const LEAST: u32 = 2;
/// The worker's connection that listens for other processes.
const LISTENER: u32 = 1;

impl Share {
    /// Returns the total number of connections.
    pub fn total(self) -> u32 {
        self.api + self.worker + if self.worker > 0 { LISTENER } else { 0 }
    }

    /// Reduces the share so that each of `processes` gets the same part of the available connections. A role that wants
    /// none gets none.
    #[must_use]
    pub fn fit(self, available: u32, processes: u32) -> Self {
        let part = available.saturating_sub(SPARE) / processes.max(1);
        if self.total() <= part {
            return self;
        }
        let listener = if self.worker > 0 { LISTENER } else { 0 };
        let part = part.saturating_sub(listener);
        // The worker gets the odd one: accepted messages must be sent.
        let half = if self.api == 0 { part } else { part.div_ceil(2) };
        let worker = self.worker.min(half.max(LEAST));
        let api = self.api.min(part.saturating_sub(worker).max(LEAST));
        Self { api, worker }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The default of `database.max_connections`.
    const DEFAULT: Share = Share { api: 14, worker: 14 };

    #[test]
    fn three_default_replicas_fit_the_default_server() {
        assert_eq!(DEFAULT.fit(100 - 3, 3), DEFAULT);
    }

    #[test]
    fn shortage_is_divided_between_api_and_worker() {
        assert_eq!(DEFAULT.fit(37, 3), Share { api: 5, worker: 5 });
        assert_eq!(DEFAULT.fit(36, 3), Share { api: 5, worker: 5 });
        assert_eq!(DEFAULT.fit(17, 3), Share { api: 2, worker: 2 }, "the least that works");
        assert_eq!(Share { api: 14, worker: 0 }.fit(23, 2), Share { api: 10, worker: 0 });
        assert_eq!(Share { api: 0, worker: 14 }.fit(23, 2), Share { api: 0, worker: 9 });
        assert_eq!(DEFAULT.fit(0, 0), Share { api: 2, worker: 2 });
    }

    #[test]
    fn share_stays_within_its_part_unless_minimal() {
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
