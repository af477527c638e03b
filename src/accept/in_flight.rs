//! Idempotency keys of requests that this process is working on, so that a second one is told to wait. Between
//! processes the key's row decides.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::id::TenantId;

type Keys = Arc<Mutex<HashSet<(TenantId, String)>>>;

/// The keys in use.
#[derive(Debug, Default)]
pub(super) struct InFlight(Keys);

/// Gives the key back when dropped.
#[derive(Debug)]
pub(super) struct Guard {
    keys: Keys,
    key: (TenantId, String),
}

impl InFlight {
    /// Takes a key, unless it is in use.
    pub(super) fn enter(&self, tenant: TenantId, key: &str) -> Option<Guard> {
        let key = (tenant, key.to_owned());
        let entered = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        entered.then(|| Guard { keys: self.0.clone(), key })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_free_again_when_its_request_is_over() {
        let keys = InFlight::default();
        let first = keys.enter(TenantId::DEFAULT, "k");
        assert!(first.is_some());
        assert!(keys.enter(TenantId::DEFAULT, "k").is_none());
        assert!(keys.enter(TenantId::DEFAULT, "other").is_some());
        drop(first);
        assert!(keys.enter(TenantId::DEFAULT, "k").is_some());
    }
}
