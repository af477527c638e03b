//! Idempotency keys of the requests that this process is handling, by API key, so that a concurrent request with the
//! same key is refused. Between processes, the key's row in the database decides.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::id::KeyId;

type Keys = Arc<Mutex<HashSet<(KeyId, String)>>>;

/// The idempotency keys in use, each with its API key.
#[derive(Debug, Default)]
pub(super) struct ReservedKeys(Keys);

/// A reserved idempotency key, released when dropped.
#[derive(Debug)]
pub(super) struct KeyGuard {
    keys: Keys,
    key: (KeyId, String),
}

impl ReservedKeys {
    /// Reserves the idempotency key `key` of the API key `owner`. Returns `None` if it is in use.
    pub(super) fn reserve(&self, owner: KeyId, key: &str) -> Option<KeyGuard> {
        let key = (owner, key.to_owned());
        let is_new = self.0.lock().insert(key.clone());
        is_new.then(|| KeyGuard { keys: self.0.clone(), key })
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn key_can_be_reserved_again_after_its_request() {
        let (keys, owner, other) = (ReservedKeys::default(), KeyId(Uuid::from_u128(1)), KeyId(Uuid::from_u128(2)));
        let first = keys.reserve(owner, "k");
        assert!(first.is_some());
        assert!(keys.reserve(owner, "k").is_none());
        assert!(keys.reserve(owner, "other").is_some() && keys.reserve(other, "k").is_some());
        drop(first);
        assert!(keys.reserve(owner, "k").is_some());
    }
}
