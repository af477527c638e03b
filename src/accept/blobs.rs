//! Stores the bytes of attachments in the database.
//!
//! Small attachments that arrive while a statement runs are stored together by the next statement: a separate
//! statement, with its plan, round trip and `fsync`, costs more than the bytes. Large attachments are stored
//! individually, chunk by chunk, so that they delay no other request. A query first finds out which of them the
//! database already has, because most large attachments are sent repeatedly.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio_util::task::TaskTracker;

use crate::batcher::{BatchLimit, Batcher, Reply, Requests, reply_all};
use crate::clock::SharedClock;
use crate::db::messages::blobs::{self, CHUNK_BYTES};
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::message::NewAttachment;

/// Size in bytes up to which sending a blob costs less than asking whether the database already has it.
const SMALL_BLOB_BYTES: usize = 128 << 10;
/// A statement stores up to the size of one chunk of a large blob.
static BATCH_LIMIT: BatchLimit<Blob> =
    BatchLimit { items: usize::MAX, bytes: CHUNK_BYTES as u64, size: |blob| blob.data.len() as u64 };
/// Capacity of the writer's queue, in blobs.
const QUEUE_CAPACITY: usize = 256;
/// Number of small attachments of one batch that wait for the writer at the same time.
const PART: usize = 64;

type Key = (TenantId, String);
type Stored = Result<(), Arc<DbError>>;

/// A small attachment that waits for the writer.
#[derive(Debug)]
struct Blob {
    tenant: TenantId,
    digest: String,
    data: Arc<Vec<u8>>,
}

/// Stores attachments.
#[derive(Debug)]
pub(super) struct Blobs {
    db: Db,
    clock: SharedClock,
    small: Batcher<Blob, Stored>,
}

impl Blobs {
    /// Starts the writer of small attachments. The writer ends once this is dropped and its queue is empty.
    pub(super) fn start(db: &Db, clock: SharedClock, tasks: &TaskTracker) -> Self {
        let (small, requests) = Batcher::new(QUEUE_CAPACITY, &BATCH_LIMIT);
        tasks.spawn(Writer { db: db.clone(), clock: clock.clone(), requests }.run());
        Self { db: db.clone(), clock, small }
    }

    /// Stores the bytes of attachments that the database does not have yet, and drops them from memory. With
    /// `keep_small`, small attachments keep their bytes.
    pub(super) async fn store(
        &self,
        tenant: TenantId,
        attachments: &mut [NewAttachment],
        keep_small: bool,
    ) -> Result<(), Arc<DbError>> {
        let (small, large): (Vec<_>, Vec<_>) = attachments.iter_mut().partition(|a| a.data.len() <= SMALL_BLOB_BYTES);
        try_join_all(small.into_iter().map(|attachment| self.store_small(tenant, attachment, keep_small))).await?;
        let large = large.into_iter().map(|a| (a.description.sha256.clone(), std::mem::take(&mut a.data)));
        Ok(self.store_large(tenant, large.collect()).await?)
    }

    /// Stores the attachments of several messages as [`store`](Self::store) does, each content once.
    pub(super) async fn store_all(
        &self,
        tenant: TenantId,
        attachments: impl Iterator<Item = &mut NewAttachment>,
        keep_small: bool,
    ) -> Result<(), Arc<DbError>> {
        let (mut small, mut large) = (BTreeMap::new(), BTreeMap::new());
        for attachment in attachments {
            let is_small = attachment.data.len() <= SMALL_BLOB_BYTES;
            let contents = if is_small { &mut small } else { &mut large };
            let is_kept = is_small && keep_small;
            match contents.entry(attachment.description.sha256.clone()) {
                Entry::Vacant(entry) if is_kept => drop(entry.insert(attachment.data.clone())),
                Entry::Vacant(entry) => drop(entry.insert(std::mem::take(&mut attachment.data))),
                Entry::Occupied(_) if is_kept => {}
                Entry::Occupied(_) => attachment.data = Vec::new(),
            }
        }
        let mut small = small.into_iter();
        loop {
            // Not all at once: the attachments of other requests would wait behind them.
            let part: Vec<(String, Vec<u8>)> = small.by_ref().take(PART).collect();
            if part.is_empty() {
                break;
            }
            let stored = part.into_iter().map(|(digest, data)| self.submit(tenant, digest, Arc::new(data)));
            try_join_all(stored).await?;
        }
        Ok(self.store_large(tenant, large.into_iter().collect()).await?)
    }

    async fn store_small(
        &self,
        tenant: TenantId,
        attachment: &mut NewAttachment,
        keep_small: bool,
    ) -> Result<(), Arc<DbError>> {
        let digest = attachment.description.sha256.clone();
        let data = Arc::new(std::mem::take(&mut attachment.data));
        self.submit(tenant, digest, data.clone()).await?;
        if keep_small {
            attachment.data = Arc::unwrap_or_clone(data);
        }
        Ok(())
    }

    /// Passes a small attachment to the writer.
    async fn submit(&self, tenant: TenantId, digest: String, data: Arc<Vec<u8>>) -> Stored {
        let stored = self.small.submit(Blob { tenant, digest, data }).await;
        stored.ok_or_else(|| Arc::new(DbError::closed("blobs.insert_group")))?
    }

    async fn store_large(&self, tenant: TenantId, large: Vec<(String, Vec<u8>)>) -> Result<(), DbError> {
        if large.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let digests: Vec<String> = large.iter().map(|(digest, _)| digest.clone()).collect();
        let existing = blobs::find_and_touch(&self.db, tenant, &digests, now).await?;
        for (digest, data) in large {
            if !existing.contains(&digest) {
                blobs::insert(&self.db, tenant, &digest, &data, now).await?;
            }
        }
        Ok(())
    }
}

struct Writer {
    db: Db,
    clock: SharedClock,
    requests: Requests<Blob, Stored>,
}

impl Writer {
    async fn run(self) {
        while let Some(batch) = self.requests.next_batch().await {
            let (mut group, mut replies) = (blobs::Group::new(), Vec::new());
            for (Blob { tenant, digest, data }, reply) in batch {
                replies.push(((tenant, digest.clone()), reply));
                group.insert((tenant, digest), data);
            }
            match blobs::insert_group(&self.db, &group, self.clock.now()).await {
                Err(DbError::Refused { .. }) if group.len() > 1 => self.one_by_one(group, replies).await,
                result => {
                    // Drop the group before the replies are sent, so that a caller that keeps its bytes need not copy
                    // them.
                    drop(group);
                    reply_all(replies.into_iter().map(|(_, reply)| reply), &result.map_err(Arc::new));
                }
            }
        }
    }

    /// Stores each blob individually, so that one blob that Postgres refuses does not fail the rest of its group.
    async fn one_by_one(&self, group: blobs::Group, replies: Vec<(Key, Reply<Stored>)>) {
        let mut results = BTreeMap::new();
        for (key, data) in group {
            let single = blobs::Group::from([(key.clone(), data)]);
            let result = blobs::insert_group(&self.db, &single, self.clock.now()).await.map_err(Arc::new);
            results.insert(key, result);
        }
        for (key, reply) in replies {
            reply.send(results.get(&key).cloned().unwrap_or(Ok(())));
        }
    }
}
