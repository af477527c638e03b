//! Stores the bytes of attachments in the database.
//!
//! Small attachments that arrive while a statement runs are stored together by the next statement: a separate
//! statement, with its plan, round trip and `fsync`, costs more than the bytes. Large attachments are stored
//! individually, chunk by chunk, so that they delay no other request. The database is first asked whether it already
//! has them, because most large attachments are sent repeatedly.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::clock::SharedClock;
use crate::db::messages::blobs::{self, CHUNK};
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::message::NewAttachment;

/// Size in bytes up to which sending a blob costs less than asking whether the database already has it.
const SMALL: usize = 128 << 10;
/// Bytes in one group, after which no further blob is added: the size of one chunk of a large blob.
const GROUP_BYTES: usize = CHUNK;
/// Capacity of the writer's queue, in blobs.
const WAITING: usize = 256;

type Key = (TenantId, String);
type Reply = oneshot::Sender<Result<(), Arc<DbError>>>;

#[derive(Debug)]
struct Pending {
    tenant: TenantId,
    digest: String,
    data: Arc<Vec<u8>>,
    reply: Reply,
}

/// Stores attachments.
#[derive(Debug)]
pub(super) struct Blobs {
    db: Db,
    clock: SharedClock,
    small: async_channel::Sender<Pending>,
}

impl Blobs {
    /// Starts the writer of small attachments. It ends when this is dropped and its queue is empty.
    pub(super) fn start(db: &Db, clock: SharedClock, tasks: &TaskTracker) -> Self {
        let (small, receiver) = async_channel::bounded(WAITING);
        tasks.spawn(Writer { db: db.clone(), clock: clock.clone(), receiver }.run());
        Self { db: db.clone(), clock, small }
    }

    /// Stores the bytes of attachments that the database does not have yet, and drops them from memory. With `keeps`,
    /// small attachments keep their bytes.
    pub(super) async fn store(
        &self,
        tenant: TenantId,
        attachments: &mut [NewAttachment],
        keeps: bool,
    ) -> Result<(), Arc<DbError>> {
        let (small, large): (Vec<_>, Vec<_>) = attachments.iter_mut().partition(|a| a.data.len() <= SMALL);
        try_join_all(small.into_iter().map(|attachment| self.store_small(tenant, attachment, keeps))).await?;
        let large = large.into_iter().map(|a| (a.description.sha256.clone(), std::mem::take(&mut a.data)));
        Ok(self.store_large(tenant, large.collect()).await?)
    }

    async fn store_small(
        &self,
        tenant: TenantId,
        attachment: &mut NewAttachment,
        keeps: bool,
    ) -> Result<(), Arc<DbError>> {
        let (reply, stored) = oneshot::channel();
        let gone = || Arc::new(DbError::closed("blobs.insert_group"));
        let digest = attachment.description.sha256.clone();
        let data = Arc::new(std::mem::take(&mut attachment.data));
        self.small.send(Pending { tenant, digest, data: data.clone(), reply }).await.map_err(|_| gone())?;
        stored.await.map_err(|_| gone())??;
        if keeps {
            attachment.data = Arc::unwrap_or_clone(data);
        }
        Ok(())
    }

    async fn store_large(&self, tenant: TenantId, large: Vec<(String, Vec<u8>)>) -> Result<(), DbError> {
        if large.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let digests: Vec<String> = large.iter().map(|(digest, _)| digest.clone()).collect();
        let known = blobs::known(&self.db, tenant, &digests, now).await?;
        for (digest, data) in large {
            if !known.contains(&digest) {
                blobs::insert(&self.db, tenant, &digest, &data, now).await?;
            }
        }
        Ok(())
    }
}

struct Writer {
    db: Db,
    clock: SharedClock,
    receiver: async_channel::Receiver<Pending>,
}

impl Writer {
    async fn run(self) {
        while let Ok(first) = self.receiver.recv().await {
            let (group, replies) = self.gather(first);
            match blobs::insert_group(&self.db, &group, self.clock.now()).await {
                Err(DbError::Refused { .. }) if group.len() > 1 => self.one_by_one(group, replies).await,
                result => {
                    drop(group);
                    let result = result.map_err(Arc::new);
                    for (_, reply) in replies {
                        let _ = reply.send(result.clone());
                    }
                }
            }
        }
    }

    /// Stores each blob individually, so that one blob refused by Postgres does not fail the rest of its group.
    async fn one_by_one(&self, group: blobs::Group, replies: Vec<(Key, Reply)>) {
        let mut results = BTreeMap::new();
        for (key, data) in group {
            let one = blobs::Group::from([(key.clone(), data)]);
            let result = blobs::insert_group(&self.db, &one, self.clock.now()).await.map_err(Arc::new);
            results.insert(key, result);
        }
        for (key, reply) in replies {
            let _ = reply.send(results.get(&key).cloned().unwrap_or(Ok(())));
        }
    }

    /// Adds the blobs already queued to the group, each blob once, without waiting.
    fn gather(&self, first: Pending) -> (blobs::Group, Vec<(Key, Reply)>) {
        let (mut group, mut replies, mut bytes) = (BTreeMap::new(), Vec::new(), 0);
        let mut next = Some(first);
        while let Some(Pending { tenant, digest, data, reply }) = next {
            bytes += data.len();
            replies.push(((tenant, digest.clone()), reply));
            group.insert((tenant, digest), data);
            next = if bytes < GROUP_BYTES { self.receiver.try_recv().ok() } else { None };
        }
        (group, replies)
    }
}
