//! Concurrency limits for slow requests, in total and per key, with a bounded wait: slow requests must not use up the
//! database connections that accept messages, and one key must not use up all turns.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ApiError;
use crate::domain::id::KeyId;

/// The number of turns, and how long to wait for one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    all: usize,
    of_key: usize,
    wait: Duration,
    /// The error if there is no free turn.
    refusal: &'static str,
}

/// Expensive queries.
pub(super) const QUERIES: Terms = Terms {
    all: 4,
    of_key: 2,
    wait: Duration::from_secs(5),
    refusal: "Too many slow queries at once. Retry the request, or narrow the query.",
};

/// Requests that last as long as the client wants: event streams, long polls and exports.
pub(super) const FOLLOWERS: Terms = Terms {
    all: 400,
    of_key: 100,
    wait: Duration::ZERO,
    refusal: "Too many event streams, long polls and exports at once. Close some, or retry later.",
};

/// The turns of one kind of request.
#[derive(Debug)]
pub(super) struct Turns {
    terms: Terms,
    all: Arc<Semaphore>,
    of_keys: Mutex<HashMap<KeyId, Arc<Semaphore>>>,
}

/// One turn, released when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    key: KeyId,
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Turns {
    pub(super) fn new(terms: Terms) -> Arc<Self> {
        Arc::new(Self { terms, all: Arc::new(Semaphore::new(terms.all)), of_keys: Mutex::default() })
    }

    /// Waits for a turn: first for one of the key's own, so that waiting does not block other keys.
    pub(super) async fn take(self: &Arc<Self>, key: KeyId) -> Result<Turn, ApiError> {
        let new = || Arc::new(Semaphore::new(self.terms.of_key));
        let own = self.of_keys().entry(key).or_insert_with(new).clone();
        // Created before the wait, so that a cancelled wait cleans up as well.
        let mut turn = Turn { turns: self.clone(), key, permits: None };
        let wait = async {
            let own = own.acquire_owned().await.ok()?;
            Some((own, self.all.clone().acquire_owned().await.ok()?))
        };
        match tokio::time::timeout(self.terms.wait, wait).await {
            Ok(Some(permits)) => turn.permits = Some(permits),
            _ => return Err(ApiError::Unavailable(self.terms.refusal)),
        }
        Ok(turn)
    }

    fn of_keys(&self) -> MutexGuard<'_, HashMap<KeyId, Arc<Semaphore>>> {
        self.of_keys.lock()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.permits.take());
        let mut keys = self.turns.of_keys();
        // Only the map refers to it: the key has no turn and waits for none.
        if keys.get(&self.key).is_some_and(|own| Arc::strong_count(own) == 1) {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn one_key_leaves_turns_to_others() {
        let turns = Turns::new(Terms { wait: Duration::ZERO, ..QUERIES });
        let [one, two, three] = [1, 2, 3].map(|n| KeyId(Uuid::from_u128(n)));
        let mut taken = vec![turns.take(one).await.unwrap(), turns.take(one).await.unwrap()];
        assert!(matches!(turns.take(one).await, Err(ApiError::Unavailable(_))), "the key has both of its turns");
        taken.push(turns.take(two).await.unwrap());
        taken.push(turns.take(two).await.unwrap());
        assert!(turns.take(three).await.is_err(), "no turn is free, and the wait is bounded");
        taken.truncate(3);
        taken.push(turns.take(three).await.unwrap());
        drop(taken);
        assert!(turns.of_keys().is_empty());
    }
}
