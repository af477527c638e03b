//! Limits log lines about the same thing, such as a domain or a stream, that many messages would otherwise repeat.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;

/// Maximum number of keys; when it is reached, all of them are removed.
const REMEMBERED: usize = 1_000;

/// Tracks the keys logged recently.
#[derive(Debug, Default)]
pub struct KeyedLogLimit {
    logged: Mutex<HashMap<String, DateTime<Utc>>>,
}

impl KeyedLogLimit {
    /// Returns whether `key` was not logged within `interval`, and then counts it as logged now.
    pub fn allows(&self, key: &str, now: DateTime<Utc>, interval: TimeDelta) -> bool {
        let mut logged = self.logged.lock();
        if logged.get(key).is_some_and(|at| (now - *at).abs() < interval) {
            return false;
        }
        if logged.len() >= REMEMBERED {
            logged.clear();
        }
        logged.insert(key.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_logged_once_per_interval() {
        let (limit, at) = (KeyedLogLimit::default(), |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds));
        let logged = [("a", 0), ("b", 1), ("a", 59), ("a", 60), ("b", 60), ("a", 61)];
        assert_eq!(
            logged.map(|(key, seconds)| limit.allows(key, at(seconds), TimeDelta::minutes(1))),
            [true, true, false, true, false, false]
        );
    }
}
