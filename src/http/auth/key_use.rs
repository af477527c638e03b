//! Records when API keys were last used: uses are collected in memory, and written in the background, all in one
//! statement, so that a request does not cost a separate transaction.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::db::Db;
use crate::db::keys;

/// Minimum interval between updates of `last_used_at`, in microseconds.
const MIN_INTERVAL: i64 = 60_000_000;

/// When a cached key was last used, as far as it is recorded or will be: in microseconds since 1970.
#[derive(Debug)]
pub(in crate::http) struct LastUse(AtomicI64);

impl LastUse {
    /// Creates the state of a key with this `last_used_at`.
    pub fn new(at: Option<DateTime<Utc>>) -> Self {
        Self(AtomicI64::new(at.map_or(i64::MIN, |at| at.timestamp_micros())))
    }

    /// Returns whether this use has to be recorded: the last one was more than a minute ago. Only one of several
    /// concurrent requests gets `true`.
    fn begin(&self, now: DateTime<Utc>) -> bool {
        let (now, last) = (now.timestamp_micros(), self.0.load(Ordering::Relaxed));
        now.saturating_sub(last) >= MIN_INTERVAL
            && self.0.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// The keys whose use is not yet written.
#[derive(Debug, Default)]
pub(super) struct KeyUses {
    pending: Mutex<BTreeMap<Uuid, DateTime<Utc>>>,
}

impl KeyUses {
    /// Notes that a key is used, unless that was recorded less than a minute ago.
    pub(super) fn note(&self, key: Uuid, last_use: &LastUse, now: DateTime<Utc>) {
        if last_use.begin(now) {
            self.pending.lock().insert(key, now);
        }
    }

    /// Writes the uses that were noted. After an error they are lost: a key in use is noted again a minute later.
    pub(super) async fn write(&self, db: &Db) {
        let pending = std::mem::take(&mut *self.pending.lock());
        if pending.is_empty() || db.is_read_only() {
            return;
        }
        let (ids, times): (Vec<_>, Vec<_>) = pending.into_iter().unzip();
        if let Err(error) = keys::touch(db, &ids, &times).await {
            tracing::debug!(%error, "failed to record the use of API keys");
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn use_is_recorded_once_a_minute() {
        let (start, last_use) = (DateTime::UNIX_EPOCH, LastUse::new(None));
        let at = |seconds| start + TimeDelta::seconds(seconds);
        assert!(last_use.begin(start), "never used before");
        assert!(!last_use.begin(at(59)) && last_use.begin(at(60)) && !last_use.begin(at(119)));
        assert!(!LastUse::new(Some(at(1))).begin(at(60)), "another process recorded a use");
    }
}
