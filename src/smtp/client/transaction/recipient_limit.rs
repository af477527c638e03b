//! How many recipients a server takes in one transaction, as it was last seen (RFC 5321 §4.5.3.1.8).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a limit is kept to before the server is tried with more.
const KEPT: Duration = Duration::from_hours(1);

/// What is known of one server.
#[derive(Debug, Default)]
pub(in crate::smtp) struct RecipientLimit(Mutex<Option<(usize, Instant)>>);

impl RecipientLimit {
    /// The most recipients to name in one transaction.
    pub fn get(&self, now: Instant) -> usize {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known {
            Some((most, since)) if now.duration_since(since) < KEPT => most,
            _ => usize::MAX,
        }
    }

    /// The server took so many and no more.
    pub fn learn(&self, most: usize, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((most.max(1), now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_for_an_hour() {
        let (limit, start) = (RecipientLimit::default(), Instant::now());
        assert_eq!(limit.get(start), usize::MAX);
        limit.learn(0, start);
        assert_eq!(limit.get(start), 1, "nobody at all is no limit");
        limit.learn(10, start);
        assert_eq!(limit.get(start + KEPT - Duration::from_secs(1)), 10);
        assert_eq!(limit.get(start + KEPT), usize::MAX);
    }
}
