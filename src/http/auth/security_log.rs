//! The security log of refused requests. Refusals are logged at most once a minute per API key and reason, with the
//! number of refusals since the last line; requests without a known key share one line per reason. Changes are logged
//! by their handlers, with the same `event` and `by` fields.

use std::convert::Infallible;
use std::sync::Arc;

use quick_cache::sync::Cache;
use tokio::time::Instant;
use uuid::Uuid;

use crate::db::keys::KeyRow;
use crate::domain::id::KeyId;
use crate::telemetry::RateLimitedLog;

/// Maximum number of tracked keys and reasons.
const MAX_TRACKED: usize = 1_000;

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::http) enum Refusal {
    /// The key is unknown, or the header is malformed.
    UnknownKey,
    /// The key has been revoked.
    RevokedKey,
    /// The key has expired.
    ExpiredKey,
    /// The key lacks the scope, or is limited to other sender domains or networks.
    Forbidden,
    /// The client has sent too many invalid keys.
    LimitedClient,
}

/// The log of refusals, rate-limited per key and reason.
#[derive(Debug)]
pub(super) struct SecurityLog(Cache<(Option<Uuid>, Refusal), Arc<RateLimitedLog>>);

impl Default for SecurityLog {
    fn default() -> Self {
        Self(Cache::new(MAX_TRACKED))
    }
}

impl SecurityLog {
    /// Logs a refused request. Requests without any key are not logged.
    pub(in crate::http) fn refused(&self, refusal: Refusal, key: Option<&KeyRow>, reason: &str) {
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
            Refusal::LimitedClient => {
                tracing::warn!(
                    event = "auth_failures_limited",
                    count,
                    reason,
                    "refused requests of an address that has sent too many invalid API keys"
                );
            }
            Refusal::Forbidden => {
                tracing::warn!(
                    event = "api_key_forbidden",
                    by = id,
                    name,
                    count,
                    reason,
                    "refused an API key without the required scope, sender domain or client address"
                );
            }
        }
    }

    /// Counts a refusal. Returns the number since the last line if a new line is due.
    fn note(&self, refusal: Refusal, key: Option<Uuid>, now: Instant) -> Option<u64> {
        let Ok(log) = self.0.get_or_insert_with(&(key, refusal), || Ok::<_, Infallible>(Arc::default()));
        log.note(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_one_key_do_not_hide_those_of_other_keys() {
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
