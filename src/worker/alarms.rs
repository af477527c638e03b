//! Tells the log of what keeps much mail from going and is ours to mend: once a minute for each domain or stream, and not
//! for each mail.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

use crate::db::drafts::DraftError;

/// Between two lines about the same.
const EVERY: TimeDelta = TimeDelta::minutes(1);
/// Things remembered; beyond that the memory starts anew.
const REMEMBERED: usize = 1_000;

/// What was told lately, with the time.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    told: Mutex<HashMap<String, DateTime<Utc>>>,
}

impl Alarms {
    /// A mail of this stream could not be made.
    pub(super) fn raise(&self, stream: &str, error: &DraftError, now: DateTime<Utc>) {
        let what = match error {
            DraftError::Unsigned(domain, _) => format!("domain {domain}"),
            _ => format!("stream {stream}"),
        };
        if self.is_new(&what, now, EVERY) {
            tracing::error!(
                event = "preparation_failed",
                %error,
                what,
                "cannot prepare messages; deferring them until this is fixed"
            );
        }
    }

    /// Whether `what` was not logged within `period`.
    pub(super) fn is_new(&self, what: &str, now: DateTime<Utc>, period: TimeDelta) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(what).is_some_and(|at| (now - *at).abs() < period) {
            return false;
        }
        if told.len() >= REMEMBERED {
            told.clear();
        }
        told.insert(what.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_told_once_a_minute() {
        let (alarms, at) = (Alarms::default(), |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds));
        let told = [("a", 0), ("b", 1), ("a", 59), ("a", 60), ("b", 60), ("a", 61)];
        assert_eq!(
            told.map(|(what, seconds)| alarms.is_new(what, at(seconds), EVERY)),
            [true, true, false, true, false, false]
        );
    }
}
