//! The number of recipients that a server accepts in one transaction, as last observed (RFC 5321 §4.5.3.1.8).

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Time after which an observed limit is dropped, and more recipients are tried.
const LIMIT_TTL: Duration = Duration::from_hours(1);

/// The recipient limit of one server.
#[derive(Debug, Default)]
pub(in crate::smtp) struct RecipientLimit(Mutex<Option<(usize, Instant)>>);

impl RecipientLimit {
    /// Returns the maximum number of recipients of one transaction.
    pub fn get(&self, now: Instant) -> usize {
        let observed = *self.0.lock();
        match observed {
            Some((limit, since)) if now.duration_since(since) < LIMIT_TTL => limit,
            _ => usize::MAX,
        }
    }

    /// Records that the server accepted this number of recipients and no more.
    pub fn observe(&self, accepted: usize, now: Instant) {
        *self.0.lock() = Some((accepted.max(1), now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_used_for_an_hour() {
        let (limit, start) = (RecipientLimit::default(), Instant::now());
        assert_eq!(limit.get(start), usize::MAX);
        limit.observe(0, start);
        assert_eq!(limit.get(start), 1, "the limit is at least 1");
        limit.observe(10, start);
        assert_eq!(limit.get(start + LIMIT_TTL - Duration::from_secs(1)), 10);
        assert_eq!(limit.get(start + LIMIT_TTL), usize::MAX);
    }
}
