//! Limits how often a problem with one key, such as a domain or a stream, is logged, however many messages it affects.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::cache::TtlCache;

/// Maximum number of tracked keys.
const MAX_TRACKED: usize = 1_000;

/// Tracks the keys logged recently.
#[derive(Debug)]
pub struct KeyedLogLimit(TtlCache<String, (), DateTime<Utc>>);

impl KeyedLogLimit {
    /// Creates a limit of one line per key and `interval`.
    pub fn new(interval: Duration) -> Self {
        Self(TtlCache::new(MAX_TRACKED, interval))
    }

    /// Returns whether `key` may be logged now, because it was not logged within the interval. If so, counts it as
    /// logged.
    /// now.
    pub fn allows(&self, key: &str, now: DateTime<Utc>) -> bool {
        self.0.insert_if_absent(key, (), now)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn each_key_is_logged_once_per_interval() {
        let limit = KeyedLogLimit::new(Duration::from_mins(1));
        let at = |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
        let logged = [("a", 0), ("b", 1), ("a", 59), ("a", 60), ("b", 60), ("a", 61)];
        assert_eq!(
            logged.map(|(key, seconds)| limit.allows(key, at(seconds))),
            [true, true, false, true, false, false]
        );
    }
}
