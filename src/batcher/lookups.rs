//! Lookups by key: those that arrive while a statement runs share the next one, and callers with the same key share its
//! result.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::{Batch, BatchLimit, Batcher, Reply, Requests, reply_all};

/// Maximum number of lookups in a batch.
pub const MAX_LOOKUPS: usize = 256;
/// Number of lookups that may wait before the next ones wait for space.
const QUEUE_CAPACITY: usize = 1_024;
/// Number of tasks that look up. With more than one, a batch that waits for a lock or for a connection does not delay all
/// others.
const TASKS: usize = 2;

/// The result of a lookup: the value of the key, if it has one, or the error that all lookups of the batch got.
pub type Found<V, E> = Result<Option<V>, Arc<E>>;

/// Looks up values by key, in batches.
#[derive(Debug)]
pub struct Lookups<K, V, E> {
    lookups: Batcher<K, Found<V, E>>,
    /// Returns the error of lookups whose tasks have ended.
    closed: fn() -> E,
}

impl<K, V, E> Lookups<K, V, E>
where
    K: Ord + Clone + Send + 'static,
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    /// Starts the tasks that look up; they end when this is dropped. `run` completes the lookups of one batch
    /// ([`Pending::complete`]), and returns those whose keys have no value.
    pub fn start<F>(
        tasks: &TaskTracker,
        closed: fn() -> E,
        run: impl Fn(Pending<K, V, E>) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Pending<K, V, E>> + Send + 'static,
    {
        let limit = const { &BatchLimit { items: MAX_LOOKUPS, bytes: u64::MAX, size: no_bytes::<K> } };
        let (lookups, requests) = Batcher::new(QUEUE_CAPACITY, limit);
        for _ in 0..TASKS {
            tasks.spawn(run_batches(requests.clone(), run.clone()));
        }
        Self { lookups, closed }
    }

    /// Returns the value of a key, if it has one.
    pub async fn find(&self, key: K) -> Found<V, E> {
        self.lookups.submit(key).await.unwrap_or_else(|| Err(Arc::new((self.closed)())))
    }
}

/// Returns the size of a key, which does not count.
fn no_bytes<K>(_: &K) -> u64 {
    0
}

async fn run_batches<K, V, E, F>(requests: Requests<K, Found<V, E>>, run: impl Fn(Pending<K, V, E>) -> F)
where
    K: Ord + Clone + 'static,
    V: Clone,
    F: Future<Output = Pending<K, V, E>>,
{
    while let Some(batch) = requests.next_batch().await {
        let work = run(Pending::new(batch));
        work.await.end();
    }
}

/// The lookups of a batch that have not been completed, by key.
#[derive(Debug)]
pub struct Pending<K, V, E>(BTreeMap<K, Vec<Reply<Found<V, E>>>>);

impl<K: Ord + Clone, V: Clone, E> Pending<K, V, E> {
    fn new(batch: Batch<K, Found<V, E>>) -> Self {
        let mut pending = BTreeMap::<K, Vec<_>>::new();
        for (key, reply) in batch {
            pending.entry(key).or_default().push(reply);
        }
        Self(pending)
    }

    /// Completes the lookups whose values `find` returns, or all of them if it fails. Returns the others. `find` gets each
    /// key once, in order, and is not called without keys.
    pub async fn complete<Q>(self, find: impl AsyncFnOnce(&[K]) -> Result<HashMap<Q, V>, E>) -> Self
    where
        K: Borrow<Q>,
        Q: Hash + Eq,
    {
        if self.0.is_empty() {
            return self;
        }
        let keys: Vec<K> = self.0.keys().cloned().collect();
        let mut others = BTreeMap::new();
        match find(&keys).await {
            Ok(mut found) => {
                for (key, replies) in self.0 {
                    match found.remove(<K as Borrow<Q>>::borrow(&key)) {
                        Some(value) => reply_all(replies, &Ok(Some(value))),
                        None => drop(others.insert(key, replies)),
                    }
                }
            }
            Err(error) => reply_all(self.0.into_values().flatten(), &Err(Arc::new(error))),
        }
        Self(others)
    }

    /// Completes the lookups of keys without a value.
    fn end(self) {
        reply_all(self.0.into_values().flatten(), &Ok(None));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use parking_lot::Mutex;
    use tokio::sync::Notify;

    use super::*;

    type TestLookups = Lookups<u64, u64, &'static str>;
    /// The keys of each statement.
    type Statements = Arc<Mutex<Vec<Vec<u64>>>>;

    /// Finds the doubles of even keys; fails if a key is 13.
    fn double(keys: &[u64]) -> Result<HashMap<u64, u64>, &'static str> {
        if keys.contains(&13) {
            return Err("unlucky");
        }
        Ok(keys.iter().filter(|key| **key % 2 == 0).map(|key| (*key, 2 * key)).collect())
    }

    fn lookups(statements: &Statements) -> TestLookups {
        let statements = statements.clone();
        Lookups::start(
            &TaskTracker::new(),
            || "closed",
            move |pending: Pending<u64, u64, &'static str>| {
                let statements = statements.clone();
                async move {
                    let find = async |keys: &[u64]| {
                        statements.lock().push(keys.to_vec());
                        double(keys)
                    };
                    pending.complete(find).await
                }
            },
        )
    }

    /// Looks up keys at once.
    async fn find_all(lookups: &TestLookups, keys: &[u64]) -> Vec<Found<u64, &'static str>> {
        join_all(keys.iter().map(|key| lookups.find(*key))).await
    }

    #[tokio::test]
    async fn lookups_of_one_moment_share_a_statement() {
        let statements = Statements::default();
        let lookups = lookups(&statements);
        let found = find_all(&lookups, &[4, 2, 4, 3]).await;
        assert_eq!(found, [Ok(Some(8)), Ok(Some(4)), Ok(Some(8)), Ok(None)]);
        assert_eq!(*statements.lock(), [[2, 3, 4]], "each key once");
    }

    #[tokio::test]
    async fn error_fails_only_the_lookups_of_its_batch() {
        let lookups = lookups(&Statements::default());
        let error = Err(Arc::new("unlucky"));
        assert_eq!(find_all(&lookups, &[2, 13]).await, [error.clone(), error]);
        assert_eq!(lookups.find(2).await, Ok(Some(4)));
    }

    #[tokio::test]
    async fn later_step_does_not_delay_what_an_earlier_one_found() {
        let go = Arc::new(Notify::new());
        let lookups: TestLookups = Lookups::start(&TaskTracker::new(), || "closed", {
            let go = go.clone();
            move |pending: Pending<u64, u64, &'static str>| {
                let go = go.clone();
                async move {
                    let pending = pending.complete(async |keys| double(keys)).await;
                    pending
                        .complete(async |keys| {
                            go.notified().await;
                            Ok(keys.iter().map(|key| (*key, 0)).collect::<HashMap<u64, u64>>())
                        })
                        .await
                }
            }
        });
        let first = async {
            let found = lookups.find(2).await;
            go.notify_one();
            found
        };
        assert_eq!(tokio::join!(lookups.find(1), first), (Ok(Some(0)), Ok(Some(4))));
    }
}
