//! The number of recipients that a server accepts in one transaction, as last observed (RFC 5321 §4.5.3.1.8).

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a limit is used before more recipients are tried.
const KEPT: Duration = Duration::from_hours(1);

/// Limit of one server.
#[derive(Debug, Default)]
pub(in crate::smtp) struct RecipientLimit(Mutex<Option<(usize, Instant)>>);

impl RecipientLimit {
    /// Returns the maximum recipients of one transaction.
    pub fn get(&self, now: Instant) -> usize {
        let known = *self.0.lock();
        match known {
            Some((most, since)) if now.duration_since(since) < KEPT => most,
            _ => usize::MAX,
        }
    }

    /// Records that the server accepted this number of recipients and no more.
    pub fn learn(&self, most: usize, now: Instant) {
        *self.0.lock() = Some((most.max(1), now));
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
        assert_eq!(limit.get(start), 1, "the limit is at least 1");
        limit.learn(10, start);
        assert_eq!(limit.get(start + KEPT - Duration::from_secs(1)), 10);
        assert_eq!(limit.get(start + KEPT), usize::MAX);
    }
}
