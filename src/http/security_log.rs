//! The security log: who was refused, and why. What a caller can cause as often as it likes is logged at most once a minute
//! for each API key and reason, with the number of refusals since; requests without a known key share one line a reason.
//! What callers change is logged where it is changed, with the same `event` and `by` fields.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;
use uuid::Uuid;

use crate::db::keys::KeyRow;
use crate::domain::id::KeyId;
use crate::telemetry::RateLimitedLog;

/// Keys and reasons remembered; beyond that the memory starts again.
const REMEMBERED: usize = 1_000;

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Refusal {
    /// No key is known by this secret, or the header cannot be read.
    UnknownKey,
    /// The key has been revoked.
    RevokedKey,
    /// The key has expired.
    ExpiredKey,
    /// The key lacks the scope, or is limited to other sender domains.
    Forbidden,
}

/// What was refused lately.
#[derive(Debug, Default)]
pub(super) struct SecurityLog(Mutex<HashMap<(Option<Uuid>, Refusal), RateLimitedLog>>);

impl SecurityLog {
    /// Logs that a request was refused. A request without any key is no attack and is not logged.
    pub(super) fn refused(&self, refusal: Refusal, key: Option<&KeyRow>, reason: &str) {
        let Some(count) = self.note(refusal, key.map(|key| key.id), Instant::now()) else { return };
        let (id, name) = (key.map(|key| KeyId(key.id).to_string()), key.map(|key| key.name.as_str()));
        match refusal {
            Refusal::UnknownKey => {
                tracing::warn!(event = "api_key_unknown", count, reason, "refused requests without a valid API key");
            }
            Refusal::RevokedKey => {
                tracing::warn!(event = "api_key_revoked_used", by = id, name, count, "refused a revoked API key");
            }
            Refusal::ExpiredKey => {
                tracing::warn!(event = "api_key_expired_used", by = id, name, count, "refused an expired API key");
            }
            Refusal::Forbidden => {
                tracing::warn!(event = "api_key_forbidden", by = id, name, count, reason, "refused by scope or domain");
            }
        }
    }

    /// Where it is to be logged now, returns how often it happened since the last line.
    fn note(&self, refusal: Refusal, key: Option<Uuid>, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= REMEMBERED {
            lines.clear();
        }
        lines.entry((key, refusal)).or_default().note(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_key_hides_no_other() {
        let (log, now) = (SecurityLog::default(), Instant::now());
        let (one, other) = (Some(Uuid::from_u128(1)), Some(Uuid::from_u128(2)));
        assert_eq!(log.note(Refusal::Forbidden, one, now), Some(1));
        for _ in 0..1_000 {
            assert_eq!(log.note(Refusal::Forbidden, one, now), None);
        }
        assert_eq!(log.note(Refusal::Forbidden, other, now), Some(1));
        assert_eq!(log.note(Refusal::RevokedKey, one, now), Some(1));
        assert_eq!(log.note(Refusal::UnknownKey, None, now), Some(1));
    }
}
