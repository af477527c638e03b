//! Divides the database server's connections among replicas, and within a replica between the API and the worker, so
//! that neither the API nor the worker can use up the other's connections. Pure.

/// The database connections of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Connections of the API, including accepting messages.
    pub api: u32,
    /// Connections of the worker: claims, heartbeats, webhooks.
    pub worker: u32,
}

/// Connections reserved for a starting replica and for administrators.
const RESERVED: u32 = 3;
/// The minimum for the API and for the worker: one connection with prepared statements, and one without.
const MINIMUM: u32 = 2;
/// The worker's connection that listens for notifications of other processes.
const LISTENER: u32 = 1;

impl Share {
    /// Returns the total number of connections.
    pub fn total(self) -> u32 {
        self.api + self.worker + if self.worker > 0 { LISTENER } else { 0 }
    }

    /// Reduces the share so that each of `processes` gets the same number of the available connections. A role that
    /// requests no connections gets none.
    #[must_use]
    pub fn fit(self, available: u32, processes: u32) -> Self {
        let budget = available.saturating_sub(RESERVED) / processes.max(1);
        if self.total() <= budget {
            return self;
        }
        let listener = if self.worker > 0 { LISTENER } else { 0 };
        let budget = budget.saturating_sub(listener);
        // The worker gets the odd connection, because accepted messages must be sent.
        let half = if self.api == 0 { budget } else { budget.div_ceil(2) };
        let worker = self.worker.min(half.max(MINIMUM));
        let api = self.api.min(budget.saturating_sub(worker).max(MINIMUM));
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
        assert_eq!(DEFAULT.fit(17, 3), Share { api: 2, worker: 2 }, "the minimum");
        assert_eq!(Share { api: 14, worker: 0 }.fit(23, 2), Share { api: 10, worker: 0 });
        assert_eq!(Share { api: 0, worker: 14 }.fit(23, 2), Share { api: 0, worker: 9 });
        assert_eq!(DEFAULT.fit(0, 0), Share { api: 2, worker: 2 });
    }

    #[test]
    fn total_stays_within_the_available_connections() {
        for available in 0..120 {
            for processes in 1..8 {
                let share = DEFAULT.fit(available, processes);
                let is_minimal = share == Share { api: MINIMUM, worker: MINIMUM };
                assert!(
                    is_minimal || share.total() * processes + RESERVED <= available,
                    "{available} {processes} {share:?}"
                );
            }
        }
    }
}
