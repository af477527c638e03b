//! Idempotency keys of the requests that this process is handling, by API key, so that a concurrent request with the
//! same key is refused. Across processes the key's row decides.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::id::KeyId;

type Keys = Arc<Mutex<HashSet<(KeyId, String)>>>;

/// The keys in use.
#[derive(Debug, Default)]
pub(super) struct InFlight(Keys);

/// Releases the key when dropped.
#[derive(Debug)]
pub(super) struct Guard {
    keys: Keys,
    key: (KeyId, String),
}

impl InFlight {
    /// Reserves a key, unless it is in use.
    pub(super) fn enter(&self, owner: KeyId, key: &str) -> Option<Guard> {
        let key = (owner, key.to_owned());
        let entered = self.0.lock().insert(key.clone());
        entered.then(|| Guard { keys: self.0.clone(), key })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_key_is_free_again_when_its_request_is_over() {
        let (keys, owner, other) = (InFlight::default(), KeyId(Uuid::from_u128(1)), KeyId(Uuid::from_u128(2)));
        let first = keys.enter(owner, "k");
        assert!(first.is_some());
        assert!(keys.enter(owner, "k").is_none());
        assert!(keys.enter(owner, "other").is_some() && keys.enter(other, "k").is_some());
        drop(first);
        assert!(keys.enter(owner, "k").is_some());
    }
}
