//! The writer of batches: calls of `POST /v1/messages/batch`, each of which is committed as a whole or not at all.
//!
//! Batches have a writer of their own, so that no single message waits for a transaction with a thousand others. The
//! two kinds of transactions wait for each other only at the event counter, which each holds from the numbering of its
//! events to the end of its commit.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;

use super::writer::is_rolled_back;
use super::{Signals, count_accepted, count_group, direct};
use crate::batcher::{self, Batch, BatchLimit, Requests};
use crate::clock::SharedClock;
use crate::db::group_commit::{self, CommitError, LockTimeout};
use crate::db::messages::insert::batch::{BatchCommitted, BatchInsert};
use crate::db::{Db, DbError};
use crate::metrics::labels::Writer;

/// The result for one batch.
pub(super) type BatchResult = Result<BatchCommitted, Arc<DbError>>;
type Reply = batcher::Reply<BatchResult>;

/// Assumed size of a message besides its text and HTML.
const MESSAGE_BYTES: u64 = 16 << 10;
/// The size limit of a transaction: batches are added until it has 4 MiB, counting [`MESSAGE_BYTES`] for each message
/// and its text and HTML. That is at most 256 messages, unless the last batch has more.
pub(super) static BATCH_LIMIT: BatchLimit<BatchInsert> = BatchLimit { items: usize::MAX, bytes: 4 << 20, size };

fn size(batch: &BatchInsert) -> u64 {
    batch.messages.iter().map(|insert| insert.message.content.size() as u64 + MESSAGE_BYTES).sum()
}

/// Commits batches.
#[derive(Debug)]
pub(super) struct BatchWriter {
    pub db: Db,
    pub clock: SharedClock,
    pub batches: Requests<BatchInsert, BatchResult>,
    pub signals: Arc<Signals>,
    /// Held by each task that commits batches one by one, so that these tasks together use at most one connection.
    pub fallback_lock: Arc<Mutex<()>>,
}

impl BatchWriter {
    /// Runs until all senders are dropped and everything pending is committed.
    pub(super) async fn run(self) {
        let writer = Arc::new(self);
        while let Some(Batch { items, replies, .. }) = writer.batches.next_batch().await {
            writer.commit(items, replies).await;
        }
    }

    async fn commit(self: &Arc<Self>, mut batches: Vec<BatchInsert>, replies: Vec<Reply>) {
        let now = self.clock.now();
        for batch in &mut batches {
            direct::reserve(&self.signals, &mut batch.messages, now);
        }
        let started = Instant::now();
        match group_commit::commit_batches(&self.db, &batches, now, LockTimeout::Short).await {
            Ok(results) => {
                count_group(Writer::Batches, batches.iter().map(|batch| batch.messages.len()).sum(), started);
                self.report(batches, results, replies);
            }
            // One batch that waits for a lock, or that Postgres refuses, must not fail the others.
            Err(failed) if is_rolled_back(&failed) => {
                let writer = self.clone();
                tokio::spawn(async move { writer.commit_one_by_one(batches, replies).await });
            }
            Err(failed) => self.report_failure(batches, replies, failed),
        }
    }

    async fn commit_one_by_one(&self, batches: Vec<BatchInsert>, replies: Vec<Reply>) {
        let _lock = self.fallback_lock.lock().await;
        for (batch, reply) in batches.into_iter().zip(replies) {
            let (one, reply) = ([batch], vec![reply]);
            match group_commit::commit_batches(&self.db, &one, self.clock.now(), LockTimeout::Long).await {
                Ok(results) => self.report(one.into(), results, reply),
                Err(failed) => self.report_failure(one.into(), reply, failed),
            }
        }
    }

    /// Reports to callers and the worker what was committed.
    fn report(&self, batches: Vec<BatchInsert>, results: Vec<BatchCommitted>, replies: Vec<Reply>) {
        let mut report = direct::Report::default();
        for ((batch, result), reply) in batches.into_iter().zip(results).zip(replies) {
            match &result {
                BatchCommitted::Inserted(results) => {
                    batch.messages.iter().for_each(count_accepted);
                    let confirmed = batch.messages.into_iter().zip(results);
                    confirmed.for_each(|(insert, result)| report.add(direct::confirmed(insert, result)));
                }
                BatchCommitted::NotInserted => {
                    batch.messages.into_iter().for_each(|insert| report.add(direct::not_committed(insert)));
                }
            }
            reply.send(Ok(result));
        }
        report.send(&self.signals);
    }

    /// Reports to callers and the worker that these batches were not committed, or that this is unknown.
    fn report_failure(&self, batches: Vec<BatchInsert>, replies: Vec<Reply>, failed: CommitError) {
        let CommitError { error, may_be_done } = failed;
        direct::report_failure(&self.signals, batches.into_iter().flat_map(|batch| batch.messages), may_be_done);
        batcher::reply_all(replies, &Err(Arc::new(error)));
    }
}
