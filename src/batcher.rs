//! Collects requests that arrive while others are run, so that one statement or transaction serves many of them.
//!
//! An idle service runs each request at once; a busy one pays for a round trip and an `fsync` once for many. Each
//! caller waits for its own reply. A task that runs batches is a loop over [`Requests::next_batch`]; that of [`Lookups`] is
//! for callers who look up values by key.

mod lookups;

pub use lookups::{Found, Lookups, MAX_LOOKUPS, Pending};
use tokio::sync::oneshot;

/// The size limit of a batch: no item is added once the batch has this many items or bytes.
#[derive(Debug)]
pub struct BatchLimit<T> {
    /// Maximum number of items.
    pub items: usize,
    /// Number of bytes after which no further item is added.
    pub bytes: u64,
    /// Returns the bytes of an item.
    pub size: fn(&T) -> u64,
}

/// Submits requests to the tasks that run them. The tasks end when the batcher has been dropped and everything
/// submitted has run.
#[derive(Debug)]
pub struct Batcher<T, R>(async_channel::Sender<Request<T, R>>);

/// The receiving end of a [`Batcher`]; each task has a clone.
#[derive(Debug)]
pub struct Requests<T: 'static, R> {
    waiting: async_channel::Receiver<Request<T, R>>,
    limit: &'static BatchLimit<T>,
}

/// A submitted item.
#[derive(Debug)]
pub struct Request<T, R> {
    item: T,
    reply: Reply<R>,
}

/// Sends the reply to one caller.
#[derive(Debug)]
pub struct Reply<R>(oneshot::Sender<R>);

/// Requests that run together.
#[derive(Debug)]
pub struct Batch<T, R> {
    /// The submitted items.
    pub items: Vec<T>,
    /// The replies, in the order of the items.
    pub replies: Vec<Reply<R>>,
    bytes: u64,
}

impl<T: 'static, R> Batcher<T, R> {
    /// Creates a batcher in which up to `capacity` requests may wait.
    pub fn new(capacity: usize, limit: &'static BatchLimit<T>) -> (Self, Requests<T, R>) {
        let (sender, waiting) = async_channel::bounded(capacity);
        (Self(sender), Requests { waiting, limit })
    }

    /// Submits an item and waits for its reply. Returns `None` if the tasks have ended.
    pub async fn submit(&self, item: T) -> Option<R> {
        let (reply, result) = oneshot::channel();
        self.0.send(Request { item, reply: Reply(reply) }).await.ok()?;
        result.await.ok()
    }
}

impl<T: 'static, R> Requests<T, R> {
    /// Waits for a request. Returns `None` when the batcher has been dropped and no request waits.
    pub async fn next(&self) -> Option<Request<T, R>> {
        self.waiting.recv().await.ok()
    }

    /// Waits for a request, and returns it with the other waiting requests. Returns `None` as [`next`](Self::next)
    /// does.
    pub async fn next_batch(&self) -> Option<Batch<T, R>> {
        let mut batch = Batch::default();
        let first = self.next().await?;
        self.add(&mut batch, first);
        self.fill(&mut batch);
        Some(batch)
    }

    /// Adds a request to a batch.
    pub fn add(&self, batch: &mut Batch<T, R>, Request { item, reply }: Request<T, R>) {
        batch.bytes += (self.limit.size)(&item);
        batch.items.push(item);
        batch.replies.push(reply);
    }

    /// Adds the waiting requests to a batch, up to the limit. Does not wait for more.
    pub fn fill(&self, batch: &mut Batch<T, R>) {
        while batch.items.len() < self.limit.items && batch.bytes < self.limit.bytes {
            let Ok(next) = self.waiting.try_recv() else { break };
            self.add(batch, next);
        }
    }
}

impl<T: 'static, R> Clone for Requests<T, R> {
    fn clone(&self) -> Self {
        Self { waiting: self.waiting.clone(), limit: self.limit }
    }
}

impl<T, R> Default for Batch<T, R> {
    fn default() -> Self {
        Self { items: Vec::new(), replies: Vec::new(), bytes: 0 }
    }
}

impl<T, R> IntoIterator for Batch<T, R> {
    type Item = (T, Reply<R>);
    type IntoIter = std::iter::Zip<std::vec::IntoIter<T>, std::vec::IntoIter<Reply<R>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter().zip(self.replies)
    }
}

impl<R> Reply<R> {
    /// Sends the reply. A caller that has stopped waiting does not get it.
    pub fn send(self, result: R) {
        let _ = self.0.send(result);
    }
}

/// Sends the same reply to several callers.
pub fn reply_all<R: Clone>(replies: impl IntoIterator<Item = Reply<R>>, result: &R) {
    for reply in replies {
        reply.send(result.clone());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    static LIMIT: BatchLimit<u64> = BatchLimit { items: 3, bytes: 100, size: |item| *item };

    /// Submits items at once. Returns the batches that they run in.
    async fn batches(items: &[u64]) -> Vec<Vec<u64>> {
        let (batcher, requests) = Batcher::new(64, &LIMIT);
        let submit = async {
            let replies = join_all(items.iter().map(|item| batcher.submit(*item))).await;
            assert_eq!(
                replies,
                items.iter().map(|item| Some(2 * item)).collect::<Vec<_>>(),
                "each caller gets its own reply"
            );
            drop(batcher);
        };
        let run = async {
            let mut batches = Vec::new();
            while let Some(batch) = requests.next_batch().await {
                batches.push(batch.items.clone());
                for (item, reply) in batch {
                    reply.send(2 * item);
                }
            }
            batches
        };
        // The items are submitted first.
        tokio::join!(biased; submit, run).1
    }

    #[tokio::test]
    async fn waiting_requests_share_batches_up_to_the_limit() {
        assert_eq!(batches(&[1]).await, [[1]]);
        assert_eq!(batches(&[1, 2, 3, 4, 5, 6, 7]).await, [vec![1, 2, 3], vec![4, 5, 6], vec![7]]);
        assert_eq!(batches(&[1, 99, 2, 100, 3]).await, [vec![1, 99], vec![2, 100], vec![3]]);
    }

    #[tokio::test]
    async fn submit_returns_none_when_no_task_is_left() {
        let (batcher, requests) = Batcher::<u64, u64>::new(1, &LIMIT);
        let end = async { drop(requests.next().await) };
        assert_eq!(tokio::join!(batcher.submit(1), end).0, None, "dropped without a reply");
        drop(requests);
        assert_eq!(batcher.submit(1).await, None);
    }
}
